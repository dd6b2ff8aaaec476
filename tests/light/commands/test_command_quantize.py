import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import quantize
from tests.light.toy_variant import write_variant
from tinyv_cli.app import main
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode
from tinyv_cli.variants.manifest import read_variant


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def toy():
    return write_variant(places.variants_dir() / "toy")


@pytest.mark.parametrize("package", ["torch", "onnx", "safetensors"])
def test_quantising_without_its_packages_says_how_to_install_them(capsys, monkeypatch, package):
    there = {"torch", "onnx", "safetensors"} - {package}
    monkeypatch.setattr("tinyv_cli.commands.quantize.find_spec", lambda name: name in there or None)
    assert main(["quantize", "--sources", "."]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"error: quantising needs {package}, which is not installed\n"
        "hint:  install what quantising needs: `pip install 'tinyv[quantize]'`\n"
    )


@pytest.fixture
def pipeline(monkeypatch, toy):
    """A quantiser that finds a plan and a variant ready; notes what it was asked."""
    files = {"vision": "v.onnx", "vision-data": "v.data"}, {"decoder": "d.onnx"}
    parts = (
        SimpleNamespace(files=files[0], n_weights=1000, size_bytes=1100, bits_per_weight=8.8),
        SimpleNamespace(files=files[1], n_weights=3000, size_bytes=1800, bits_per_weight=4.8),
    )
    plan = SimpleNamespace(
        parts=parts,
        size_bytes=2900,
        run_bytes=3_400_000_000,
        quantise_bytes=1_200_000_000,
        disk_bytes=5_600_000_000,
    )
    asked = []

    def make_variant(options, progress):
        asked.append(options)
        with progress("rounding", 3) as bar:
            bar.advance(3)
        return SimpleNamespace(
            variant=read_variant(toy),
            plan=plan,
            smoke_picture="a wall",
            smoke_question="what?",
            smoke_answer="a [red] wall",
        )

    fake = SimpleNamespace(
        make_variant=make_variant, plan_variant=lambda options: asked.append(options) or plan
    )
    monkeypatch.setattr("tinyv_cli.commands.quantize.find_spec", lambda _: fake)
    monkeypatch.setattr(quantize, "pipeline", fake, raising=False)
    monkeypatch.setitem(sys.modules, "quantize.pipeline", fake)
    write_sources(Path("s"), stages=(3, 4))
    return asked


def write_sources(folder, stages):
    """Writes files of the right names, without a byte in them."""
    (folder / "phi-2").mkdir(parents=True)
    for name in ("phi-2/config.json", "phi-2/tokenizer.json", "phi-2/pytorch_model.bin"):
        (folder / name).touch()
    for name in ("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"):
        (folder / name).touch()
    for stage in stages:
        (folder / f"TinyGPT-V_for_Stage{stage}.pth").touch()


def test_a_new_variants_folder_is_the_one_line_on_stdout(pipeline, toy, capsys):
    assert main(["quantize", "--sources", "s", "-o", "mine"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == f"{toy}\n"
    for shown in (
        "decoder.data",
        "16 bytes",
        "0.0123",
        "97.5 %",
        "smoke picture: a wall",
        "smoke answer: a [red] wall",
    ):
        assert shown in err


def test_quiet_quantising_says_only_where_the_variant_is(pipeline, toy, capsys):
    assert main(["quantize", "--sources", "s", "-o", "mine", "-q"]) == ExitCode.OK
    assert capsys.readouterr() == (f"{toy}\n", "")


def test_a_dry_run_prints_what_would_be_made_on_stdout_and_makes_nothing(pipeline, capsys):
    assert main(["quantize", "--sources", "s", "-o", "mine", "--dry-run"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split() for line in out.splitlines()] == [
        ["files", "weights", "size", "bits/weight"],
        ["v.onnx,", "v.data", "1,000", "1.1", "kB", "8.80"],
        ["d.onnx", "3,000", "1.8", "kB", "4.80"],
        ["total", "4,000", "2.9", "kB", "5.80"],
        [],
        ["needed", "about"],
        ["memory", "to", "quantise", "1.2", "GB"],
        ["memory", "to", "answer", "3.4", "GB"],
        ["free", "disk", "5.6", "GB"],
    ]


def test_every_option_reaches_the_quantiser(pipeline, tmp_path):
    flags = ["--bits", "8", "-o", "./mine", "--stage", "3", "--force", "--max-error", "0.05"]
    assert main(["quantize", "--sources", "s", *flags, "-t", "1"]) == ExitCode.OK
    [options] = pipeline
    assert str(options.sources) == "s"
    assert str(options.output) == "mine"
    rest = (options.bits, options.stage, options.force, options.max_error, options.threads)
    assert rest == (8, 3, True, 0.05, 1)


def test_threads_are_limited_to_the_cores_with_a_note(pipeline, monkeypatch, capsys):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert main(["quantize", "--sources", "s", "-o", "mine", "-t", "1000"]) == ExitCode.OK
    note = "note: --threads is 1000: limited to 3, the cores that there are\n"
    assert capsys.readouterr().err.startswith(note)
    assert pipeline[0].threads == 3


def test_a_variant_without_a_name_is_called_after_stage_and_bits(pipeline, monkeypatch):
    seen = []

    def resolve_sources(folder, stage):
        seen.append((str(folder), stage))
        return SimpleNamespace(stage=3)

    monkeypatch.setattr("weights.reading.sources.resolve_sources", resolve_sources)
    assert main(["quantize", "--sources", "s"]) == ExitCode.OK
    assert main(["quantize", "--sources", "s", "--bits", "8", "--stage", "3"]) == ExitCode.OK
    names = ["stage3-4bit", "stage3-8bit"]
    assert [each.output for each in pipeline] == [places.variants_dir() / name for name in names]
    assert seen == [("s", None), ("s", 3)]


def test_sources_that_are_not_complete_are_an_error_of_the_weights(pipeline, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert main(["quantize", "--sources", "empty"]) == ExitCode.WEIGHTS
    assert "error: empty lacks" in capsys.readouterr().err
