"""What lies among pictures and is no picture gets its line; the others are answered.

Seen in: issue "what other people's reports broke", tables A and B.
"""

import io
import json
import os
import sys
import threading

import pytest

from tests.light.batch.test_batch_program import make_open_backend
from tests.light.toy_variant import write_picture
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.errors import ExitCode

pytestmark = [
    pytest.mark.usefixtures("place"),
    pytest.mark.skipif(os.name == "nt", reason="Windows has no such files"),
]


@pytest.fixture(autouse=True)
def echo(monkeypatch):
    monkeypatch.setattr(backends, "open_backend", make_open_backend())


def run(capsys, *words, code=ExitCode.OK):
    """The lines of a batch by path: its answer, or the problem."""
    n_threads = threading.active_count()
    assert main(["batch", *words, "what?", "-o", "-", "-m", "bits4", "-n", "5"]) == code
    assert threading.active_count() == n_threads
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    return {line["path"]: line.get("answer") or line["error"]["problem"] for line in lines}


@pytest.fixture
def album(place):
    """A folder with a picture and with what only looks like one."""
    folder = place / "album"
    folder.mkdir()
    write_picture(folder / "a.png")
    os.mkfifo(folder / "b.png")
    (folder / "c.png").symlink_to("/dev/zero")
    (folder / "d.png").symlink_to("nowhere")
    (folder / "e.png").symlink_to("e.png")
    return folder


PROBLEMS = {
    "album/b.png": "album/b.png cannot be read: nobody writes into this pipe",
    "album/c.png": "album/c.png is not a file",
    "album/d.png": "there is no file album/d.png",
    "album/e.png": "album/e.png cannot be opened: too many levels of symbolic links",
}


@pytest.mark.parametrize("words", [["album"], ["album/*.png"], ["-"]], ids=str)
def test_what_is_no_file_gets_a_line_in_folder_pattern_and_list(capsys, album, monkeypatch, words):
    names = sorted(f"album/{each}" for each in os.listdir("album"))  # noqa: PTH208
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(names).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    lines = run(capsys, *words, code=ExitCode.BATCH)
    assert list(lines) == names
    assert lines.pop("album/a.png") not in PROBLEMS.values()
    assert lines == PROBLEMS


def test_a_list_may_begin_with_a_byte_order_mark(capsys, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfcat.png\r\ndog.png\r\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert list(run(capsys, "-")) == ["cat.png", "dog.png"]


def test_a_picture_is_taken_from_the_pipe_of_a_shell(capsys, place):
    reading, writing = os.pipe()
    os.write(writing, (place / "cat.png").read_bytes())
    os.close(writing)
    name = f"/dev/fd/{reading}"
    assert list(run(capsys, name)) == [name]
    assert main(["batch", name, "what?", "-o", "-", "--sidecar"]) == ExitCode.USAGE
    assert "is no file that a .txt could lie beside" in capsys.readouterr().err
    os.close(reading)


def test_a_pipe_that_holds_no_picture_is_named(capsys):
    reading, writing = os.pipe()
    os.write(writing, b"no picture")
    os.close(writing)
    (problem,) = run(capsys, f"/dev/fd/{reading}", code=ExitCode.BATCH).values()
    assert problem.startswith(f"/dev/fd/{reading}: the given picture is not a picture")
    os.close(reading)


def test_folders_that_may_not_be_read_are_named(capsys, album, monkeypatch):
    for name in ("open", "shut"):
        (album / name).mkdir()
        write_picture(album / name / "x.png")
    scan = os.scandir

    def refuse(path="."):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    lines = run(capsys, "-r", "album", code=ExitCode.BATCH)
    assert lines["album/shut"] == "album/shut may not be read"
    assert list(lines)[-2:] == ["album/open/x.png", "album/shut"]
    assert main(["batch", "album/shut", "what?", "-o", "-"]) == ExitCode.INPUT
    problem, hint = capsys.readouterr().err.splitlines()
    assert problem == "error: album/shut cannot be read: permission denied"
    assert hint == "hint:  allow it: `chmod u+rx album/shut`"


LONG = ["x" * 248 + ".png", "x" * 254, "é" * 126 + ".x", "y" * 252 + ".y"]


@pytest.mark.parametrize("name", LONG, ids=lambda name: f"{name[0]} {len(name)}")
def test_a_long_name_has_a_sidecar_too_and_again_when_it_goes_on(capsys, place, name):
    write_picture(place / "long.png").rename(place / name)
    words = ["batch", name, "what?", "-o", "out.jsonl", "-m", "bits4", "-n", "5", "--sidecar"]
    for _ in range(2):
        assert main(words) == ExitCode.OK, capsys.readouterr().err
        (text,) = place.glob("*.txt")
        assert len(os.fsencode(text.name)) <= 255
        answer = json.loads((place / "out.jsonl").read_text("utf-8"))["answer"]
        assert text.read_text("utf-8") == f"{answer}\n"
        text.unlink()
