"""`tinyv quantize --target`: what is refused, what is said, and what is left of a failure."""

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from quantize.plan import make_plan
from quantize.recipe import RECIPES
from tinyv_cli.app import main
from tinyv_cli.devices.driver import Driver, Gpu
from tinyv_cli.errors import ExitCode
from tinyv_cli.spec import ModelSpec
from tinyv_cli.variants.manifest import read_variant
from weights.reading.accounting import expected_shapes
from weights.safetensors_writer import SafetensorsWriter


def run_quantize(sources: Path, output: Path, *flags: str) -> int:
    words = ["quantize", "--sources", str(sources), "-o", str(output), "-q", "-t", "1"]
    return main([*words, *flags])


FULL_DISK = OSError(errno.ENOSPC, "No space left on device", "cuda-vision.safetensors")


@pytest.mark.parametrize(
    ("failure", "code"),
    [(FULL_DISK, ExitCode.DEVICE), (KeyboardInterrupt(), ExitCode.INTERRUPTED)],
)
@pytest.mark.parametrize("replaces", [False, True])
def test_a_failure_while_codes_are_written_leaves_what_was_there(
    replaces, failure, code, tiny_sources, tmp_path, monkeypatch
):
    output = tmp_path / "variants" / "v"
    if replaces:
        assert run_quantize(tiny_sources, output, "--target", "cuda") == 0
    before = {path: path.read_bytes() for path in output.rglob("*")}
    append, calls = SafetensorsWriter.append, iter(range(10_000))

    def fail(self, name, tensor):
        if next(calls) >= 40:
            raise failure
        append(self, name, tensor)

    monkeypatch.setattr(SafetensorsWriter, "append", fail)
    assert run_quantize(tiny_sources, output, "--target", "all", "--force") == code
    assert {path: path.read_bytes() for path in output.rglob("*")} == before
    assert [path.name for path in output.parent.iterdir()] == (["v"] if replaces else [])


def test_force_replaces_a_variant_of_another_target(tiny_sources, tmp_path, capsys):
    output = tmp_path / "v"
    assert run_quantize(tiny_sources, output, "--target", "all") == 0
    assert run_quantize(tiny_sources, output, "--target", "cuda") == ExitCode.WEIGHTS
    assert read_variant(output).devices == ("cpu", "cuda")
    assert run_quantize(tiny_sources, output, "--target", "cuda", "--force") == 0
    assert read_variant(output).devices == ("cuda",)
    assert not list(output.glob("decoder*"))


def test_a_variant_for_a_gpu_too_far_from_its_sources_is_refused(tiny_sources, tmp_path, capsys):
    flags = ["--target", "cuda", "--max-error", "1e-9"]
    assert run_quantize(tiny_sources, tmp_path / "v", *flags) == ExitCode.WEIGHTS
    assert "nats" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--target", "cuda", "--bits", "32"],
            "error: there is no recipe for 32 bits with `--target cuda`\n"
            "hint:  use `--bits` with 4, 8, or `--target cpu`\n",
        ),
        (
            ["--target", "all", "--bits", "32", "--dry-run"],
            "error: there is no recipe for 32 bits with `--target all`\n"
            "hint:  use `--bits` with 4, 8, or `--target cpu`\n",
        ),
        (
            ["--target", "all", "--bits", "6"],
            "error: there is no recipe for 6 bits\nhint:  use `--bits` with 4, 8\n",
        ),
        (
            ["--target", "cuda", "--bits", "5"],
            "error: there is no recipe for 5 bits with `--target cuda`\n"
            "hint:  use `--bits` with 4, 8, or `--target cpu`\n",
        ),
        (
            ["--target", "gpu"],
            "error: there is no target gpu\nhint:  use `--target` with cpu, cuda, all\n",
        ),
        (
            ["--target", "all", "--vision-bits", "4"],
            "error: there is no vision side with 4 bits\nhint:  use `--vision-bits` with 8, 16\n",
        ),
        (
            ["--vision-bits", "8"],
            "error: `--vision-bits` is for a GPU's files only\n"
            "hint:  use it with `--target cuda` or `--target all`\n",
        ),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_read(flags, message, tmp_path, capsys):
    assert run_quantize(tmp_path / "no sources", tmp_path / "v", *flags) == ExitCode.USAGE
    assert capsys.readouterr() == ("", message)


def test_without_bitsandbytes_it_is_said_how_to_install_it(
    tiny_sources, tmp_path, monkeypatch, capsys
):
    # as in a process that has imported nothing yet
    monkeypatch.delitem(sys.modules, "tinyv_cli.devices.quiet_bitsandbytes", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert run_quantize(tiny_sources, tmp_path / "v", "--target", "cuda") == ExitCode.USAGE
    assert capsys.readouterr().err == (
        "error: quantising needs bitsandbytes, which is not installed\n"
        "hint:  install what quantising needs: `pip install 'tinyv[quantize,cuda]'`\n"
    )
    flags = ["--target", "cuda", "--dry-run"]  # from names and shapes alone
    assert run_quantize(tiny_sources, tmp_path / "v", *flags) == 0
    out = capsys.readouterr().out
    assert "cuda-language.safetensors" in out
    assert "GPU memory to answer" in out
    assert "decoder.onnx" not in out


def test_a_variant_for_both_tells_both_answers(tiny_sources, tmp_path, capsys):
    words = ["quantize", "--sources", str(tiny_sources), "-o", str(tmp_path / "v"), "-t", "1"]
    assert main([*words, "--target", "all"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'v'}\n"
    assert "smoke answer: " in err
    assert "smoke answer of the files for the GPU: " in err


def test_a_variant_for_a_gpu_is_made_without_a_word_of_the_library(tiny_sources, tmp_path, capfd):
    program = (
        "import sys; from tinyv_cli.app import main\n"
        f"sys.exit(main(['quantize', '--sources', {str(tiny_sources)!r}, '--target', 'cuda',"
        f" '-q', '-o', {str(tmp_path / 'v')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert (done.returncode, *capfd.readouterr()) == (0, f"{tmp_path / 'v'}\n", "")


@pytest.fixture
def set_gpu(monkeypatch):
    def set_memory(memory_bytes: int) -> None:
        driver = Driver("12.4", (Gpu("Small GPU", memory_bytes, (7, 5)),), None)
        monkeypatch.setattr("tinyv_cli.commands.quantize.read_driver", lambda: driver)

    return set_memory


@pytest.mark.parametrize(
    ("memory_bytes", "flags", "bits"),
    [
        (4 << 30, [], 8),
        (4 << 30, ["--vision-bits", "16"], 16),
        (4 << 30, ["--bits", "8"], 16),
        (6 << 30, [], 16),
        (24 << 30, ["--vision-bits", "8"], 8),
    ],
)
def test_a_vision_side_has_the_bits_that_were_asked_for_or_that_the_gpu_holds(
    memory_bytes, flags, bits, tiny_sources, tmp_path, set_gpu
):
    set_gpu(memory_bytes)
    assert run_quantize(tiny_sources, tmp_path / "v", "--target", "cuda", *flags) == 0
    variant = read_variant(tmp_path / "v")
    with safe_open(variant.path("cuda-vision"), "pt") as file:
        scales = [name for name in list(file.keys()) if name.endswith(".scales")]
        kinds = {file.get_slice(name.removesuffix(".scales")).get_dtype() for name in scales}
    assert kinds == ({"I8"} if bits == 8 else set())
    patterns = {rule["tensors"] for rule in variant.manifest.recipe["cuda"]["rules"]}
    assert ("vision.layers.*.mlp.fc1.weight" in patterns) == (bits == 8)
    cosine = variant.manifest.errors.image_token_cosine_min
    assert 0.999 < cosine < 0.99999 if bits == 8 else cosine > 0.99999


def test_a_vision_side_rounded_for_a_small_gpu_is_told(tiny_sources, tmp_path, set_gpu, capsys):
    set_gpu(4 << 30)
    words = ["quantize", "--sources", str(tiny_sources), "-o", str(tmp_path / "v")]
    assert main([*words, "--target", "cuda", "--dry-run"]) == 0
    assert capsys.readouterr().err == (
        "note: the vision side gets 8 bits, since Small GPU has 4.3 GB; "
        "`--vision-bits 16` makes it as usual\n"
    )


def test_memory_to_calibrate_is_more_than_to_round_to_the_nearest():
    spec = ModelSpec()
    shapes, recipe = expected_shapes(spec), RECIPES[4]
    nearest = make_plan(spec, shapes, replace(recipe, is_calibrated=False)).quantise_bytes
    calibrated = make_plan(spec, shapes, recipe).quantise_bytes
    assert nearest < calibrated == pytest.approx(4.08e9, rel=0.1)  # measured
