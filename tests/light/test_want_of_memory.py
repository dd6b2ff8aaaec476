"""Too little memory, or address space, ends with 5 and says so; it is no bug, and no damage.

Seen in: issue "what other people's reports broke", table B: `ulimit -v` while sources are opened.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo import DEMO
from tests.light.commands.test_command_quantize import write_sources
from tinyv_cli import app
from tinyv_cli.console import to_size
from tinyv_cli.errors import MEMORY_HINT, ExitCode, InputError, WeightsError
from tinyv_cli.machine import memory
from tinyv_cli.machine.memory import MainMemory

ROOT = Path(__file__).resolve().parents[2]
NO_ROOM = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
WANTS = [
    MemoryError(),
    MemoryError("Unable to allocate 74.5 GiB for an array"),
    NO_ROOM,
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ImportError("numpy\n\nOriginal error was: libx.so: failed to map segment from shared object"),
    RuntimeError("can't start new thread"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("unable to mmap 5612445 bytes from file </s/e.pth>: Cannot allocate memory (12)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    type("RuntimeException", (Exception,), {})("Exception during initialization: std::bad_alloc"),
]
OTHERS = [
    RuntimeError("shapes do not fit"),
    ImportError("No module named 'torch'"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "bad_alloc.png"),
    KeyError("cannot"),
]


def fail(monkeypatch, error):
    def run(_):
        raise error

    monkeypatch.setattr(app, "_run", run)
    return app.main([])


@pytest.mark.parametrize("error", WANTS, ids=lambda each: f"{type(each).__name__} {each}"[:50])
def test_want_of_memory_is_told_in_two_lines(monkeypatch, capsys, error):
    assert fail(monkeypatch, error) == ExitCode.DEVICE
    out, err = capsys.readouterr()
    problem, hint = err.splitlines()
    assert out == ""
    assert problem.startswith("error: memory does not suffice: ")
    assert hint == f"hint:  {MEMORY_HINT}"


@pytest.mark.parametrize("error", OTHERS, ids=lambda each: type(each).__name__)
def test_anything_else_stays_a_bug(monkeypatch, error):
    with pytest.raises(type(error)):
        fail(monkeypatch, error)


def test_a_planned_error_is_one_of_memory_where_that_was_its_cause(monkeypatch, capsys):
    error = WeightsError("eva_vit_g.pth is damaged", "fetch it again")
    error.__cause__ = NO_ROOM
    assert fail(monkeypatch, error) == ExitCode.DEVICE
    assert "memory does not suffice: [Errno 12]" in capsys.readouterr().err


def test_a_name_that_a_user_chose_is_not_taken_for_a_reason(monkeypatch, capsys):
    error = InputError("cannot allocate memory.png is not a picture", "take another")
    assert fail(monkeypatch, error) == ExitCode.INPUT
    assert "is not a picture" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(
    ("verb", "limit_bytes"),
    [("ask", 150_000_000), ("ask", 350_000_000), ("batch", 350_000_000), ("doctor", 150_000_000)],
)
def test_a_small_limit_is_found_before_libraries_fail_in_it(tmp_path, verb, limit_bytes):
    picture = DEMO / "examples" / "cat.png"
    words = {"ask": ["ask", picture, "what?"], "doctor": ["doctor"]}
    words["batch"] = ["batch", picture, "what?", "-o", "out.jsonl"]
    done = run_limited(limit_bytes, words[verb], tmp_path, [ROOT])
    assert done.returncode == ExitCode.DEVICE, done.stderr
    assert "this process may have" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert not (tmp_path / "out.jsonl").exists()


def run_limited(limit_bytes, words, folder, path):
    code = (
        f"import resource\nresource.setrlimit(resource.RLIMIT_AS, ({limit_bytes}, -1))\n"
        "from tinyv_cli.__main__ import run\nrun()"
    )
    environment = {"PYTHONPATH": os.pathsep.join(map(str, path)), "TINYV_HOME": f"{folder}/home"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_quantize_finds_a_container_too_small_before_the_system_ends_it(
    tmp_path, monkeypatch, capsys
):
    write_sources(tmp_path / "sources", stages=(4,))
    monkeypatch.setattr(memory, "read_main_memory", lambda: MainMemory(2 * 10**8, 10**8))
    words = ["quantize", "--sources", str(tmp_path / "sources"), "-o", str(tmp_path / "mine")]
    assert app.main(words) == ExitCode.DEVICE
    problem, hint = capsys.readouterr().err.splitlines()
    assert problem == "error: 100 MB of memory are free, quantising takes 350 MB"
    assert hint == f"hint:  {MEMORY_HINT}"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("limit_bytes", [400_000_000, 870_000_000, 1_060_000_000])
def test_quantize_finds_a_small_limit_before_libraries_fail_in_it(tmp_path, limit_bytes):
    write_sources(tmp_path / "sources", stages=(4,))
    for name in ("torch", "onnx", "safetensors"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text("raise RuntimeError", "utf-8")
    words = ["quantize", "--sources", "sources", "-o", "mine"]
    done = run_limited(limit_bytes, words, tmp_path, [tmp_path / "packages", ROOT])
    assert done.returncode == ExitCode.DEVICE, done.stderr
    assert done.stderr.startswith(
        f"error: this process may have {to_size(limit_bytes, 2)} of memory, "
    )
    assert len(done.stderr.splitlines()) == 2
