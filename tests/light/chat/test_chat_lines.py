import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.light.chat.toy_chat import EchoDecoder
from tinyv_cli.commands.chat import hold_conversation
from tinyv_cli.errors import DeviceError, ExitCode, InputError, UsageError
from tinyv_cli.options.chat import ChatArguments

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def hold(place, toys, monkeypatch, capsys):
    """Holds a conversation over stdin's bytes; returns stdout and stderr."""

    def hold(content, picture="cat.png", **arguments):
        stdin = None if content is None else io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr(sys, "stdin", stdin)
        defaults = {"model": "bits4", "device": "cpu"}
        hold_conversation(ChatArguments(picture=picture, **defaults | arguments))
        return capsys.readouterr()

    return hold


def test_a_line_in_is_a_line_out_and_the_conversation_is_kept(hold):
    out, err = hold(b"what?\r\n\nlines\n why?  \nand")
    assert out == "1:what?\none two three\n3:why?\n4:and\n"
    assert err == ""


def test_a_document_a_turn_tells_what_ask_tells(hold):
    documents = [json.loads(line) for line in hold(b"what?\nlines\n", json=True).out.splitlines()]
    assert [each["turn"] for each in documents] == [1, 2]
    assert [each["question"] for each in documents] == ["what?", "lines"]
    assert [each["answer"] for each in documents] == ["1:what?", "one\ntwo\r\nthree"]
    assert documents[1]["usage"]["reused_tokens"] > 10
    assert {"finish_reason", "prompt", "model", "timings"} < set(documents[0])


def test_boxes_are_listed_in_pixels_of_the_picture(hold, place):
    Image.new("RGB", (400, 200), "white").save(place / "wide.png")
    lines = hold(b"box\nwhat?\n", picture="wide.png", json=True).out.splitlines()
    first, second = (json.loads(line)["boxes"] for line in lines)
    expected = {"label": "a cat", "box": [0.1, 0.2, 0.5, 0.6], "pixels": [40, 40, 200, 120]}
    assert (first, second) == ([expected], [])
    assert json.loads(hold(b"box\n", picture=None, json=True).out)["boxes"] == []


def test_a_stop_text_ends_answers(hold):
    assert hold(b"what?\n", stop=["a", "t"]).out == "1:wh\n"


def test_every_line_is_a_question_and_a_slash_is_told_once(hold, place):
    out, err = hold(b"/save x\n/bye\nwhy?\n")
    assert out == "1:/save x\n2:/bye\n3:why?\n"
    assert err == "note: '/save x' is asked; commands are for a terminal\n"
    assert not (place / "home" / "chats").exists()


def test_nothing_is_answered_where_nothing_is_asked(hold, toys):
    assert hold(b"\n").out == ""
    assert hold(b"", picture=None).out == ""
    assert toys.events == ["open", "close"]  # about the picture; without one nothing is opened
    assert hold(None).out == ""


def test_a_cut_answer_is_told(hold):
    out, err = hold(b"what?\n", max_tokens=3)
    assert (out, err) == ("1:w\n", "note: an answer was cut after 3 tokens, see `-n` and `-c`\n")


def test_a_line_that_is_no_text_ends_the_conversation_after_those_before(hold, capsys):
    with pytest.raises(InputError, match=r"line 2 on stdin is not UTF-8 text: .* at byte 1"):
        hold(b"what?\na\xff\nwhy?\n")
    assert capsys.readouterr().out == "1:what?\n"
    assert hold("\ufeffé?\n".encode()).out == "1:é?\n"


def test_questions_and_picture_cannot_both_come_from_stdin(hold):
    with pytest.raises(UsageError, match="a picture cannot come from stdin"):
        hold(b"what?\n", picture="-")


@pytest.mark.parametrize("json_", [False, True])
def test_ctrl_c_writes_what_was_said_and_ends(hold, capsys, monkeypatch, json_):
    compute = EchoDecoder.compute_logits

    def interrupt(decoder):
        if compute(decoder).argmax() == ord("?"):
            raise KeyboardInterrupt
        return compute(decoder)

    monkeypatch.setattr(EchoDecoder, "compute_logits", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hold(b"so\nwhat?\nwhy\n", json=json_)
    lines = capsys.readouterr().out.splitlines()
    if json_:
        documents = [json.loads(line) for line in lines]
        assert [each["finish_reason"] for each in documents] == ["stop", "interrupted"]
        lines = [each["answer"] for each in documents]
    assert lines == ["1:so", "2:what"]


def test_a_failure_ends_a_script(hold, capsys, monkeypatch):
    def fail(decoder):
        raise DeviceError("no memory", "buy some")

    monkeypatch.setattr(EchoDecoder, "compute_logits", fail)
    with pytest.raises(DeviceError):
        hold(b"what?\nwhy?\n")
    assert capsys.readouterr().out == ""


def run_program(place, *words, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TINYV_HOME": str(place / "home")}
    environment.pop("PYTHONUNBUFFERED", None)
    command = [sys.executable, "-m", "tests.light.chat.toy_chat", "chat", *words, "-m", "bits4"]
    defaults = {"capture_output": True, "timeout": 60, "cwd": place, "env": environment}
    return subprocess.run(command, check=False, **(defaults | options))


def test_the_program_answers_a_pipe(place):
    done = run_program(place, "cat.png", input=b"what is this?\nwhat colour?\n")
    assert (done.returncode, done.stdout) == (0, b"1:what is this?\n2:what colour?\n")
    assert done.stderr == b""


def test_a_reader_that_has_gone_away_ends_the_program_quietly(place):
    reading, writing = os.pipe()
    os.close(reading)
    pipes = {"capture_output": False, "stdout": writing, "stderr": subprocess.PIPE}
    done = run_program(place, "cat.png", input=b"what?\nwhy?\n", **pipes)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_wrong_picture_is_said_before_stdin_is_read(place):
    reading, writing = os.pipe()  # nothing ever comes, and nobody closes it
    done = run_program(place, "none.png", stdin=reading)
    os.close(reading)
    os.close(writing)
    assert done.returncode == ExitCode.INPUT
    assert done.stderr.startswith(b"error: there is no file none.png\n")


def test_the_line_editor_is_not_loaded_for_a_pipe(place):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['toy', 'chat', 'cat.png', '-m', 'bits4']\n"
        "try:\n    runpy.run_module('tests.light.chat.toy_chat', run_name='__main__')\n"
        "except SystemExit as leave:\n    assert leave.code == 0\n"
        "assert 'tinyv_cli.chat.lines' in sys.modules\n"
        "assert 'prompt_toolkit' not in sys.modules\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TINYV_HOME": str(place / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b"what?\n",
        capture_output=True,
        timeout=60,
        cwd=place,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1:what?\n", b"")
