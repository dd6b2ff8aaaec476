"""Files and pipes are read to their end; what has none is refused.

Seen in: issue "what other people's reports broke", table A: a FIFO in a batch hung for ever
(mempalace 2221).
"""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from tinyv_cli.disk import reading
from tinyv_cli.disk.paths import expand, fit_name
from tinyv_cli.disk.reading import is_pipe, read_bytes

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def write_slowly(pipe, pieces, wait_s=0.0):
    def write():
        with pipe.open("wb", buffering=0) as file:
            for each in pieces:
                time.sleep(wait_s)
                file.write(each)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("wait_s", [0, 0.15])
def test_a_pipe_is_read_to_its_end_whoever_is_slow(pipe, wait_s):
    pieces = [b"a" * 200_000, b"b", b"c" * 3]
    thread = write_slowly(pipe, pieces, wait_s)
    assert read_bytes(pipe) == b"".join(pieces)
    thread.join()


def test_the_pipe_of_a_shell_is_read_by_its_number():
    reading_end, writing_end = os.pipe()
    os.write(writing_end, b"what is it?")
    os.close(writing_end)
    path = Path(f"/dev/fd/{reading_end}")
    assert is_pipe(path)
    assert read_bytes(path) == b"what is it?"
    os.close(reading_end)


def test_a_pipe_that_nobody_writes_into_is_refused_at_once(pipe):
    started_s = time.monotonic()
    with pytest.raises(OSError, match="nobody writes into this pipe"):
        read_bytes(pipe)
    assert time.monotonic() - started_s < reading.WRITER_COMES_WITHIN_S + 1


def test_a_pipe_is_waited_for_only_as_long_as_it_is_wanted(pipe):
    kept_open = os.open(pipe, os.O_RDWR)
    ends_s = time.monotonic() + 0.3
    with pytest.raises(OSError, match="not waited for"):
        read_bytes(pipe, lambda: time.monotonic() < ends_s)
    os.close(kept_open)


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev/full"])
def test_a_device_is_refused(device):
    with pytest.raises(OSError, match="a device or a socket"):
        read_bytes(Path(device))


def test_a_socket_and_a_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("here")
        with pytest.raises(OSError, match="a device or a socket"):
            read_bytes(Path("here"))
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    assert not is_pipe(tmp_path / "nowhere")


@pytest.mark.parametrize("letter", ["x", "é", "猫", "\udce9", "😀"])
@pytest.mark.parametrize("n_bytes", [3, 247, 248, 251, 252, 255])
def test_a_name_is_cut_to_what_a_file_system_takes_and_only_then(tmp_path, letter, n_bytes):
    stem = letter * (n_bytes // len(os.fsencode(letter)))
    name = fit_name(stem, ".txt")
    (tmp_path / name).touch()
    assert name.endswith(".txt")
    assert stem.startswith(name.removesuffix(".txt"))
    lost_bytes = len(os.fsencode(stem)) + 4 - len(os.fsencode(name))
    assert lost_bytes <= max(0, len(os.fsencode(stem)) - 251) + 3


def test_a_user_who_does_not_exist_leaves_a_path_as_it_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand("~/cat.png") == Path("/home/me/cat.png")
    assert expand("~nobody-of-this-name/cat.png") == Path("~nobody-of-this-name/cat.png")
