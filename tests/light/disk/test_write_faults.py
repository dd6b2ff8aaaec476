"""Whatever a disk refuses of what the light verbs write, it is told in two lines with a path.

Seen in: issue "what other people's reports broke", table F: EIO and EACCES were tracebacks.
"""

import errno
import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.faults import KINDS, Disk, watched
from tests.light.evaluation.toy_evaluation import LINES
from tinyv_cli.app import main
from tinyv_cli.chat import plain_terminal
from tinyv_cli.commands import chat
from tinyv_cli.errors import ExitCode

pytestmark = [
    pytest.mark.usefixtures("toys"),
    pytest.mark.skipif(sys.platform != "linux", reason="open files are named by /proc"),
]

BATCH = ["batch", "cat.png", "dog.png", "what?", "-o", "out.jsonl", "-m", "bits4", "-q"]
VERBS = {
    "batch": BATCH,
    "batch --sidecar": [*BATCH, "--sidecar"],
    "eval": ["eval", "questions.jsonl", "-m", "bits4", "-q"],
    "eval --against": ["eval", "questions.jsonl", "-m", "bits4", "--against", "bits8", "-q"],
    "ask --draw": ["ask", "cat.png", "box", "--draw", "drawn.png", "-m", "bits4", "-q"],
    "pull VARIANT": ["pull", "home/variants/bits4", "--to", "pulled", "--offline", "-q"],
}
SLASHES = ["/save name", "/save file.json", "/export md a.md", "/export json a.json", "/draw a.png"]


@pytest.fixture(autouse=True)
def questions(place):
    (place / "questions.jsonl").write_text("\n".join(map(json.dumps, LINES)), "utf-8")


def snapshot(folder, kept):
    """Has a folder as it was before a run; returns what puts it back."""
    shutil.copytree(folder, kept, symlinks=True)

    def put_back():
        for each in folder.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)

    return put_back


def check(case, code, err):
    """Checks how a refused run ended; returns whether it told."""
    assert code in (ExitCode.OK, ExitCode.DEVICE, ExitCode.WEIGHTS), case
    if code == ExitCode.OK:
        return False
    problem, hint = err.splitlines()
    assert problem.startswith("error: "), case
    assert hint.startswith("hint:  "), case
    assert re.search(r"\.(jsonl|txt|png|tinyv-pulling)|home|pulled|: \. cannot", problem), case
    return True


@pytest.mark.parametrize("verb", VERBS)
def test_each_refusal_is_named(place, tmp_path_factory, capsys, verb):
    put_back = snapshot(place, tmp_path_factory.mktemp("kept") / "place")

    def run(**refusal):
        with watched(Disk(place, **refusal)) as disk:
            code = main(VERBS[verb])
        return code, disk.asked, capsys.readouterr().err

    code, asked, err = run()
    assert (code, err) == (ExitCode.OK, "")
    assert asked
    told = set()
    for number, (what, where) in enumerate(asked):
        kind = KINDS[number % len(KINDS)]
        put_back()
        code, _, err = run(refused=number, code=kind)
        case = (what, where, errno.errorcode[kind], code, err)
        if check(case, code, err):
            told.add(number)
    assert told


@pytest.mark.parametrize("slash", SLASHES)
def test_chat_tells_each_refusal_and_goes_on(place, tmp_path_factory, capsys, monkeypatch, slash):
    put_back = snapshot(place, tmp_path_factory.mktemp("kept") / "place")
    monkeypatch.setattr(chat, "is_terminal", lambda stream: True)
    monkeypatch.setattr(plain_terminal, "is_plain", lambda: True)

    def run(**refusal):
        entries = iter(["box", slash, "still there?"])

        def read():
            entry = next(entries, None)
            if entry is None:
                raise EOFError
            return entry

        monkeypatch.setattr(plain_terminal, "read_entry", read)
        with watched(Disk(place, **refusal)) as disk:
            code = main(["chat", "cat.png", "-m", "bits4", "-q"])
        return code, disk.asked, *capsys.readouterr()

    code, asked, out, err = run()
    answers = "a cat (left: 10-50 % across, 20-60 % down)\n2:still there?\n"
    assert (code, out, err) == (ExitCode.OK, answers, "")
    told = 0
    for number, (what, where) in enumerate(asked):
        kind = KINDS[number % len(KINDS)]
        put_back()
        code, _, out, err = run(refused=number, code=kind)
        case = (what, where, errno.errorcode[kind], code, err)
        assert (code, out) == (ExitCode.OK, answers), case
        if err:
            told += 1
            problem, hint = err.splitlines()
            assert "cannot" in problem, case
            assert hint.startswith("hint:  "), case
    assert told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "words",
    [
        ["ask", "cat.png", "what?", "-q"],
        ["ask", "cat.png", "what?", "--json", "-q"],
        ["batch", "cat.png", "what?", "-o", "-", "-q"],
        ["eval", "questions.jsonl", "-q"],
        ["list"],
        ["list", "--json"],
        ["doctor", "--device", "cpu"],
        ["doctor", "--device", "cpu", "--json"],
        ["pull", "--dry-run"],
        ["pull", "home/variants/bits4", "--to", "pulled", "--offline", "-q"],
        ["rm", "bits4", "-y", "-q"],
        ["chat", "cat.png", "-q"],
        ["chat", "cat.png", "--json", "-q"],
        ["--version"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("stdout", ["full", "read-only"])
def test_a_refused_stdout_is_told_by_every_verb(place, capsys, monkeypatch, words, stdout):
    (place / "typed").write_text("what?\n", "utf-8")
    opened = Path("/dev/full" if stdout == "full" else "/dev/null").open
    with (place / "typed").open() as stdin, opened("w" if stdout == "full" else "r") as refusing:
        monkeypatch.setattr(sys, "stdin", stdin)
        if stdout == "read-only":
            refusing.write = partial(refuse_writing)
        monkeypatch.setattr(sys, "stdout", refusing)
        code = main(words)
        monkeypatch.undo()
    problem, hint = capsys.readouterr().err.splitlines()[-2:]
    assert code == ExitCode.DEVICE
    assert problem.startswith("error: stdout cannot be written: ")
    assert hint.startswith("hint:  ")


def refuse_writing(text):
    raise OSError(errno.EBADF, "Bad file descriptor")
