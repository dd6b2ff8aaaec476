"""`tinyv batch --cluster local` as a program, with Ray's own processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.demo import DEMO
from tinyv_cli.errors import ExitCode

pytest.importorskip("ray", reason="the extra [ray] is not installed")

ROOT = Path(__file__).resolve().parents[3]
N_COPIES = 5
TIMEOUT_S = 180


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Pictures of the same names in two folders, one of them empty; and a home beside them."""
    root = tmp_path_factory.mktemp("clustered")
    for index in range(N_COPIES):
        for path in (DEMO / "examples").glob("*.png"):
            folder = root / "album" / str(index)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    (root / "album" / "0" / "empty.png").touch()
    return root


def heed_ctrl_c():
    """What a shell starts in the background ignores it, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(album, *flags):
    words = ["batch", "-r", "album", "[caption] describe this image.", "-t", "1", *flags]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "TINYV_HOME": str(album / "home")}
    own["HOME"] = str(album / "user")
    return subprocess.Popen(
        [sys.executable, "-m", "tinyv_cli", *words],
        cwd=album,
        env=own,
        preexec_fn=heed_ctrl_c,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read(path):
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return sorted(({**line, "timings": None} for line in lines), key=lambda line: line["path"])


def wait_for_lines(path, n_lines, process):
    ends_s = time.monotonic() + TIMEOUT_S
    while not path.exists() or path.read_bytes().count(b"\n") < n_lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends_s
        time.sleep(0.05)


def list_workers(process):
    children = psutil.Process(process.pid).children(recursive=True)
    return [each for each in children if "MapBatches(Captioner)" in read_title(each)]


def read_title(process):
    """What a process calls itself; nothing where it has just ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def test_killed_workers_and_a_killed_run_leave_each_picture_once_as_batch_answers_it(album):
    cluster = ["-o", "there.jsonl", "--cluster", "local", "--workers", "2"]
    target = album / "there.jsonl"

    first = start(album, *cluster)
    start(album, "-o", "here.jsonl").communicate(timeout=TIMEOUT_S)
    wait_for_lines(target, 3, first)
    list_workers(first)[0].kill()
    wait_for_lines(target, 8, first)
    workers = list_workers(first)
    first.send_signal(signal.SIGKILL)
    assert first.communicate(timeout=TIMEOUT_S)[0] == ""
    assert psutil.wait_procs(workers, 20)[1] == []

    second = start(album, *cluster)
    out, err = second.communicate(timeout=TIMEOUT_S)
    assert (second.returncode, out) == (ExitCode.BATCH, ""), err
    assert "1 of 21 pictures have no answer" in err
    assert read(target) == read(album / "here.jsonl")
    whole = target.read_bytes()
    assert not (album / "user").exists()  # Ray's token and usage reports would be there

    third = start(album, *cluster)
    out, err = third.communicate(timeout=TIMEOUT_S)
    assert (third.returncode, out) == (ExitCode.BATCH, "")
    assert "21 of 21 pictures have their line in there.jsonl" in err
    assert "answering" not in err  # nothing was started
    assert target.read_bytes() == whole


def test_ctrl_c_while_ray_starts_leaves_no_process(album):
    process = start(album, "-o", "broken.jsonl", "--cluster", "local", "--workers", "2")
    children = []
    ends_s = time.monotonic() + TIMEOUT_S
    while not any("ray::" in read_title(each) for each in children):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends_s
        time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (ExitCode.INTERRUPTED, "")
    assert err.endswith("what was answered is kept; the same command goes on from there\n")
    assert psutil.wait_procs(children, 20)[1] == []
