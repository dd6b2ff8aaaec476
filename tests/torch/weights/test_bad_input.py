"""What a user can do wrong, and what can go wrong: exit code, problem, hint, nothing half made."""

import errno
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.torch.quantize.tiny_sources import PHI, VISION, change_tensors
from tinyv_cli.app import main
from tinyv_cli.errors import ExitCode
from tinyv_cli.spec import LanguageSpec, make_tiny_spec
from weights.synthetic.sources import SyntheticOptions, write_sources

CHECKPOINT = "TinyGPT-V_for_Stage3.pth"
QUESTION = "what is this?"


@pytest.fixture
def sources(tiny_sources: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sources, tmp_path / "sources"))


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 48), (200, 30, 30)).save(path)
    return path


def expect_failure(capsys, words: list[object], code: ExitCode, *, problem: str) -> str:
    """Runs a command line that must fail in the two-line grammar; gives its hint."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-2].startswith("error: ")
    assert lines[-1].startswith("hint:  ")
    assert len(lines[-1]) > len("hint:  ")
    assert problem in lines[-2]
    assert not lines[-2].endswith(".")
    return lines[-1]


def make_bomb(path: Path) -> None:
    """A PNG whose header promises 40000 × 40000 pixels."""
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "png")
    raw = bytearray(content.getvalue())
    raw[16:24] = (40000).to_bytes(4, "big") * 2
    import zlib

    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    path.write_bytes(raw)


def make_truncated_jpeg(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "jpeg")
    path.write_bytes(path.read_bytes()[:4000])


PICTURES: dict[str, Callable[[Path], object]] = {
    "no-such-file.png": lambda path: None,
    "text.png": lambda path: path.write_text("I am not a picture\n" * 40, "utf-8"),
    "empty.png": lambda path: path.write_bytes(b""),
    "truncated.jpg": make_truncated_jpeg,
    "one-pixel.png": lambda path: Image.new("RGB", (1, 1)).save(path),
    "bomb.png": make_bomb,
    "folder.png": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_cannot_be_used_is_refused(name, model, tmp_path, capsys):
    path = tmp_path / name
    PICTURES[name](path)
    words = ["ask", path, QUESTION, "-m", model]
    expect_failure(capsys, words, ExitCode.INPUT, problem=name)


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_an_empty_question_is_refused(question, model, picture, capsys):
    words = ["ask", picture, question, "-m", model]
    expect_failure(capsys, words, ExitCode.INPUT, problem="question")


def test_a_question_longer_than_the_context_is_refused_with_figures(model, picture, capsys):
    words = ["ask", picture, "why? " * 3000, "-m", model]
    expect_failure(capsys, words, ExitCode.INPUT, problem="2048")


# --- sources -------------------------------------------------------------------------------------


def put_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.mlp.fc1.weight"][3, 5] = float("nan")


def put_wrong_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.fc2.bias"] = torch.zeros(7)


class Payload:
    """Unpickling this writes a file: a stand-in for anything worse."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def write_foreign_pickle(sources: Path) -> None:
    with zipfile.ZipFile(sources / CHECKPOINT, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": Payload(sources / "ran")}))
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing source": (lambda s: (s / VISION).unlink(), VISION),
    "truncated pth": (lambda s: truncate(s / CHECKPOINT), CHECKPOINT),
    "truncated bin": (lambda s: truncate(s / PHI), "pytorch_model.bin"),
    "foreign class": (write_foreign_pickle, CHECKPOINT),
    "missing tensor": (
        lambda s: change_tensors(s / VISION, lambda t: t.pop("blocks.1.mlp.fc1.weight")),
        "blocks.1.mlp.fc1.weight",
    ),
    "extra tensor": (
        lambda s: change_tensors(s / PHI, lambda t: t.update(surprise=torch.zeros(2))),
        "surprise",
    ),
    "misshapen tensor": (
        lambda s: change_tensors(s / PHI, put_wrong_shape),
        "model.layers.1.mlp.fc2.bias",
    ),
    "NaN": (lambda s: change_tensors(s / PHI, put_nan), "model.layers.0.mlp.fc1.weight"),
    "config": (lambda s: (s / "phi-2/config.json").write_text("{", "utf-8"), "config.json"),
    "tokenizer": (lambda s: (s / "phi-2/tokenizer.json").write_text("{}"), "tokenizer"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_sources_are_refused_by_name_and_leave_nothing(damage, sources, tmp_path, capsys):
    spoil, name = DAMAGES[damage]
    spoil(sources)
    output = tmp_path / "variants" / "new"
    words = ["quantize", "--sources", sources, "-o", output]
    expect_failure(capsys, words, ExitCode.WEIGHTS, problem=name)
    assert not list(output.parent.glob("*"))
    assert not list(output.parent.glob(".*"))
    assert not (sources / "ran").exists()


def test_heads_that_the_runtime_cannot_compute_are_refused_early(tmp_path, capsys):
    language = LanguageSpec(width=120, n_layers=1, n_heads=3, mlp_width=64, vocab_size=512)
    spec = replace(make_tiny_spec(3), language=replace(language, rotary_width=16))
    write_sources(tmp_path / "sources", spec, SyntheticOptions())
    for flags in (["--dry-run"], []):
        words = ["quantize", "--sources", tmp_path / "sources", "-o", tmp_path / "new", *flags]
        expect_failure(capsys, words, ExitCode.WEIGHTS, problem="heads of 40 channels")
    assert not (tmp_path / "new").exists()


def test_a_variant_is_not_taken_for_sources(model, tmp_path, capsys):
    words = ["quantize", "--sources", model, "-o", tmp_path / "new"]
    expect_failure(capsys, words, ExitCode.WEIGHTS, problem="variant")


def test_a_variant_that_exists_is_kept_without_force(sources, model, capsys):
    before = (model / "manifest.json").read_bytes()
    words = ["quantize", "--sources", sources, "-o", model, "--bits", "8"]
    assert "--force" in expect_failure(capsys, words, ExitCode.WEIGHTS, problem="exists")
    assert (model / "manifest.json").read_bytes() == before


def test_force_replaces_a_variant_but_no_other_folder(sources, model, tmp_path, capsys):
    words = ["quantize", "--sources", sources, "--force", "--bits", "8", "-q", "-o"]
    assert main([*map(str, words), str(model)]) == 0
    assert json.loads((model / "manifest.json").read_text("utf-8"))["bits"] == 8
    assert [path.name for path in model.parent.iterdir() if path.name.startswith(".")] == []
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "holiday.jpg").write_bytes(b"dear")
    expect_failure(capsys, [*words, mine], ExitCode.USAGE, problem="not a variant")
    assert (mine / "holiday.jpg").read_bytes() == b"dear"


def test_a_result_worse_than_asked_is_not_kept(sources, model, tmp_path, capsys):
    words = ["quantize", "--sources", sources, "--max-error", "1e-9", "-o"]
    expect_failure(capsys, [*words, tmp_path / "new"], ExitCode.WEIGHTS, problem="nats")
    assert not (tmp_path / "new").exists()
    before = (model / "manifest.json").read_bytes()
    expect_failure(capsys, [*words, model, "--force"], ExitCode.WEIGHTS, problem="nats")
    assert (model / "manifest.json").read_bytes() == before


def test_a_disk_that_is_too_small_is_refused_before_writing(sources, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr("quantize.pipeline.shutil.disk_usage", lambda _: usage)
    words = ["quantize", "--sources", sources, "-o", tmp_path / "new"]
    expect_failure(capsys, words, ExitCode.DEVICE, problem="free")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("after", [0, 5, 60])
def test_a_disk_that_fills_up_leaves_nothing(after, sources, tmp_path, monkeypatch, capsys):
    from quantize.cpu.graph import DataFile

    append, calls = DataFile.append, iter(range(1000))

    def fill_up(self, values):
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        return append(self, values)

    monkeypatch.setattr(DataFile, "append", fill_up)
    output = tmp_path / "variants" / "new"
    words = ["quantize", "--sources", sources, "-o", output]
    expect_failure(capsys, words, ExitCode.DEVICE, problem="disk")
    assert list(output.parent.iterdir()) == []


def wait_for_file(output: Path, name: str, process: subprocess.Popen) -> None:
    """Returns as soon as a variant that is being made has a file of this name."""
    deadline = time.monotonic() + 120
    while not any(output.parent.glob(f".{output.name}.tinyv-building/{name}")):
        assert process.poll() is None, "finished before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("moment", ["vision.data", "decoder.data", "manifest.json"])
def test_a_kill_leaves_the_old_variant_or_none_and_the_next_run_cleans_up(
    moment, replaces, sources, model, tmp_path
):
    output = model if replaces else tmp_path / "variants" / "new"
    before = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    words = ["quantize", "--sources", str(sources), "-o", str(output), "--bits", "8", "--force"]
    command = [sys.executable, "-m", "tinyv_cli", *words, "-q"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_file(output, moment, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if replaces:
        after = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
        assert after == before
    else:
        assert not output.exists()
    assert main([*words, "-q"]) == 0
    assert not list(output.parent.glob(".*"))
    assert json.loads((output / "manifest.json").read_text("utf-8"))["bits"] == 8


def test_a_real_interrupt_leaves_no_variant_and_the_next_run_cleans_up(sources, tmp_path):
    # The exit code is held below: a signal at this moment has ended in an abort (DESIGN.md).
    output = tmp_path / "variants" / "new"
    words = ["quantize", "--sources", str(sources), "-o", str(output)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell lets what it starts in the background ignore interrupts, and so its children.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, "-m", "tinyv_cli", *words], **pipe, preexec_fn=heed)
    wait_for_file(output, "decoder.data", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode != 0, err
    assert (out, "Traceback" in err, output.exists()) == ("", False, False)
    assert main([*words, "-q"]) == 0
    assert [path.name for path in output.parent.iterdir()] == ["new"]


@pytest.mark.parametrize("after", [0, 5, 60])
def test_ctrl_c_stops_quantising_and_leaves_nothing(after, sources, tmp_path, monkeypatch, capsys):
    from quantize.cpu.graph import DataFile

    append, calls = DataFile.append, iter(range(1000))

    def interrupt(self, values):
        if next(calls) >= after:
            raise KeyboardInterrupt
        return append(self, values)

    monkeypatch.setattr(DataFile, "append", interrupt)
    output = tmp_path / "variants" / "new"
    words = ["quantize", "--sources", str(sources), "-o", str(output)]
    assert main(words) == ExitCode.INTERRUPTED
    assert capsys.readouterr().out == ""
    assert list(output.parent.iterdir()) == []


def test_a_variant_set_aside_by_a_killed_process_is_put_back(sources, model, tmp_path):
    aside = model.with_name(f".{model.name}.tinyv-replaced")
    model.rename(aside)
    words = ["quantize", "--sources", str(sources), "-o", str(model), "--max-error", "1e-9"]
    assert main([*words, "--force", "-q"]) == ExitCode.WEIGHTS
    assert json.loads((model / "manifest.json").read_text("utf-8"))["bits"] == 4
    assert not aside.exists()


# --- variants ------------------------------------------------------------------------------------


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def edit_manifest(model: Path, edit: Callable[[dict], object]) -> None:
    path = model / "manifest.json"
    document = json.loads(path.read_text("utf-8"))
    edit(document)
    path.write_text(json.dumps(document), "utf-8")


VARIANT_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte in the weights": (lambda m: flip_byte(m / "decoder.data"), "decoder.data"),
    "flipped byte in the graph": (lambda m: flip_byte(m / "vision.onnx"), "vision.onnx"),
    "flipped byte in the tokenizer": (lambda m: flip_byte(m / "tokenizer.json"), "tokenizer.json"),
    "truncated file": (lambda m: truncate(m / "embeddings.npy"), "embeddings.npy"),
    "missing file": (lambda m: (m / "vision.data").unlink(), "vision.data"),
    "missing manifest": (lambda m: (m / "manifest.json").unlink(), "manifest.json"),
    "newer format": (
        lambda m: edit_manifest(m, lambda d: d.update(format_version=99)),
        "newer",
    ),
    "path that leaves its folder": (
        lambda m: edit_manifest(m, lambda d: d["files"][0].update(path="../../etc/passwd")),
        "../../etc/passwd",
    ),
    "link that leaves its folder": (
        lambda m: (
            shutil.move(m / "tokenizer.json", m.parent / "outside.json"),
            (m / "tokenizer.json").symlink_to(m.parent / "outside.json"),
        ),
        "tokenizer.json",
    ),
    "manifest that is no JSON": (lambda m: flip_byte_to(m / "manifest.json"), "manifest.json"),
}


def flip_byte_to(path: Path) -> None:
    path.write_text(path.read_text("utf-8")[:-40], "utf-8")


@pytest.mark.parametrize("damage", VARIANT_DAMAGES)
def test_a_damaged_variant_is_refused(damage, model, picture, capsys):
    spoil, name = VARIANT_DAMAGES[damage]
    spoil(model)
    words = ["ask", picture, QUESTION, "-m", model]
    expect_failure(capsys, words, ExitCode.WEIGHTS, problem=name)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_read_only_variant_in_a_read_only_home_still_answers(model, picture, tmp_path):
    for path in (model, *model.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "home").write_text("a file, so that nothing can be kept under it", "utf-8")
    environment = {**os.environ, "TINYV_HOME": str(tmp_path / "home")}
    words = [sys.executable, "-m", "tinyv_cli", "ask", str(picture), QUESTION, "-m", str(model)]
    try:
        done = subprocess.run(
            [*words, "-n", "4"], capture_output=True, text=True, env=environment, check=False
        )
    finally:
        for path in (model, *model.rglob("*")):
            path.chmod(0o755)
    assert (done.returncode, done.stderr.count("error")) == (0, 0)
