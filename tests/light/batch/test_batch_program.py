"""`tinyv batch` with a runtime whose answers depend on the picture, in a process or a test."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.light.evaluation.toy_evaluation import EchoDecoder
from tests.light.toy_decoder import ToyEncoder, ToySlots
from tests.light.toy_variant import write_variant
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend
from tinyv_cli.errors import ExitCode
from tinyv_cli.spec import make_tiny_spec

ROOT = Path(__file__).resolve().parents[3]
N_PICTURES, N_FOLDERS, N_BROKEN = 300, 6, 9
TIMEOUT_S = 60


class ClosableEncoder(ToyEncoder):
    def close(self):
        pass


class SlowDecoder(EchoDecoder):
    """Takes its time, so that a signal finds it at work."""

    def __init__(self, step_s):
        super().__init__(seed=4)
        self._step_s = step_s

    def extend(self, segments):
        if self._step_s:
            time.sleep(self._step_s)
        return super().extend(segments)


def write_toy(home):
    """A variant that sees little, so that hundreds of pictures take no time."""
    spec = make_tiny_spec(4)
    small = replace(spec, vision=replace(spec.vision, image_px=spec.vision.patch_px))
    return write_variant(home / "variants" / "toy", spec=small)


def make_open_backend(step_s=0.0):
    def open_backend(variant, options, meanwhile):
        encoder = ClosableEncoder()
        meanwhile(encoder, "toy")
        return Backend(encoder, ToySlots(SlowDecoder(step_s)), "toy", 0.1)

    return open_backend


def heed_interrupts():
    """A shell lets what it starts in the background ignore them, and so its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*words, step_s=0.0, preexec_fn=heed_interrupts):
    command = [sys.executable, "-m", "tests.light.batch.test_batch_program", str(step_s), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=preexec_fn,
    )


def finish(process):
    out, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out.decode(), err.decode()


def count_lines(path):
    with suppress(FileNotFoundError):  # before it begins, it tries whether it can write
        return path.read_bytes().count(b"\n")
    return 0


def wait_for_lines(path, n_lines, process):
    ends_s = time.monotonic() + TIMEOUT_S
    while count_lines(path) < n_lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends_s
        time.sleep(0.005)


def read_lines(path="out.jsonl"):
    lines = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    for line in lines:
        line.pop("timings", None)
    return lines


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to be in, and a home with one variant."""
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TINYV_MODEL", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    write_toy(tmp_path / "home")
    return work


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """300 pictures in sub-folders, some broken in different ways; read it only."""
    root = tmp_path_factory.mktemp("album")
    for index in range(N_PICTURES):
        folder = root / f"day {index % N_FOLDERS}" / "é"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{index:03}.png"
        Image.new("RGB", (8, 6), (index % 256, index // 256, 99)).save(path)
        if index % (N_PICTURES // N_BROKEN) == 1:
            whole = path.read_bytes()
            path.write_bytes((b"", b"no picture", whole[:40])[index % 3])
    return root


@pytest.fixture(scope="module")
def expected(album, tmp_path_factory):
    """The lines of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYV_HOME", str(folder / "home"))
        patch.chdir(folder)
        write_toy(folder / "home")
        code, out, err = finish(
            start("batch", "-r", str(album), "what?", "-n", "5", "-o", "out.jsonl")
        )
        assert (code, out) == (ExitCode.BATCH, ""), err
        return read_lines()


def test_every_picture_has_one_line(album, expected):
    assert [line["path"] for line in expected] == [
        str(path) for path in sorted(album.rglob("*.p*"))
    ]
    failed = [line["path"] for line in expected if "error" in line]
    assert len(failed) == len(range(1, N_PICTURES, N_PICTURES // N_BROKEN))
    assert len({line["answer"] for line in expected if "answer" in line}) > 50


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(place, album, expected):
    words = "batch", "-r", str(album), "what?", "-n", "5", "-o", "out.jsonl"
    output = place / "out.jsonl"
    n_before = 0
    for n_lines in (1, 2, 40, 41, 150, 290):
        process = start(*words, step_s=0.001)
        wait_for_lines(output, n_lines, process)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        n_now = len(output.read_bytes().splitlines())
        assert n_before <= n_now < N_PICTURES
        n_before = n_now
    code, out, err = finish(start(*words))
    assert (code, out) == (ExitCode.BATCH, "")
    assert f"{n_before} of 300 pictures have their line in out.jsonl; `--fresh`" in err
    assert read_lines() == expected


@pytest.mark.parametrize("delay_s", [0.0, 0.3, 0.5, 0.7])
def test_killed_while_it_starts_it_goes_on(place, album, expected, delay_s):
    words = "batch", "-r", str(album), "what?", "-n", "5", "-o", "out.jsonl"
    process = start(*words, step_s=0.001)
    time.sleep(delay_s)
    process.kill()
    finish(process)
    assert finish(start(*words))[0] == ExitCode.BATCH
    assert read_lines() == expected


def test_ctrl_c_leaves_whole_lines_and_says_how_to_go_on(place, album, expected):
    words = "batch", "-r", str(album), "what?", "-n", "5", "-o", "out.jsonl"
    process = start(*words, step_s=0.005)
    wait_for_lines(place / "out.jsonl", 10, process)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out) == (ExitCode.INTERRUPTED, "")
    assert err.endswith("note: what was answered is kept; the same command goes on from there\n")
    lines = read_lines()
    assert lines == expected[: len(lines)]
    assert finish(start(*words))[0] == ExitCode.BATCH
    assert read_lines() == expected


def test_two_at_once_do_not_write_the_same_file(place, album, expected):
    words = "batch", "-r", str(album), "what?", "-n", "5", "-o", "out.jsonl"
    first = start(*words, step_s=0.002)
    wait_for_lines(place / "out.jsonl", 3, first)
    code, _, err = finish(start(*words))
    assert code == ExitCode.USAGE
    assert "error: another tinyv is writing out.jsonl\nhint:  wait for it" in err
    assert finish(first)[0] == ExitCode.BATCH
    assert read_lines() == expected


def test_a_disk_that_fills_up_is_said_and_leaves_whole_lines(place, album, expected):
    import resource

    words = "batch", "-r", str(album), "what?", "-n", "5", "-o", "out.jsonl"
    limit = 9000  # bytes of a file, from where on the system takes a part of a line or nothing

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, out, err = finish(start(*words, preexec_fn=limit_files))
    assert (code, out) == (ExitCode.DEVICE, "")
    assert (
        "error: out.jsonl cannot be written: file too large\nhint:  make room or allow it; the same"
        in err
    )
    content = (place / "out.jsonl").read_bytes()
    assert limit - 300 < len(content) <= limit
    assert content.endswith(b"\n")
    assert finish(start(*words))[0] == ExitCode.BATCH
    assert read_lines() == expected


def test_a_reader_that_has_enough_ends_it_quietly(place, album):
    process = start("batch", "-r", str(album), "what?", "-n", "5", "-o", "-", "-q", step_s=0.001)
    first = json.loads(process.stdout.readline())
    assert first["path"].endswith("000.png")
    process.stdout.close()
    assert process.wait(TIMEOUT_S) == ExitCode.OK
    assert process.stderr.read() == b""
    process.stderr.close()
    assert list(place.iterdir()) == []


if __name__ == "__main__":
    step, *rest = sys.argv[1:]
    backends.open_backend = make_open_backend(float(step))
    sys.exit(main(rest))
