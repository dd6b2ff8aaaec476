import json
import os
import sys
from pathlib import Path

import pytest

from tests.light.toy_variant import write_picture, write_variant
from tinyv_cli.errors import ExitCode

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminals", allow_module_level=True)

from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from tests.light.chat.pseudo_terminal import CTRL_C, CTRL_D, ENTER, UP, PseudoTerminal
from tinyv_cli.chat.terminal import EntryCompleter

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def chat(tmp_path):
    """Opens `tinyv chat` in a terminal, in a folder with two pictures."""
    write_variant(tmp_path / "home" / "variants" / "toy")
    for name in ("cat.png", "dog.png"):
        write_picture(tmp_path / name)
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("TINYV_")}
    environment |= {"TINYV_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}

    def open_chat(*words, **options):
        options |= {"cwd": tmp_path, "environment": environment}
        return PseudoTerminal("tests.light.chat.toy_chat", "chat", *words, **options)

    return open_chat


def test_questions_are_answered_and_ctrl_d_leaves_with_0(chat):
    with chat("cat.png") as terminal:
        terminal.wait_for("toy answers about cat.png; /help lists the commands")
        terminal.wait_for_prompt()
        terminal.ask("what is it?", "\n1:what is it?\n")
        terminal.ask("why?", "\n2:why?\n")
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == ExitCode.OK
        assert "Traceback" not in terminal.shown


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(chat):
    with chat("cat.png") as terminal:
        terminal.wait_for_prompt()
        terminal.type("slow" + ENTER)
        terminal.wait_for("word word word")
        terminal.type(CTRL_C)
        terminal.wait_for("stopped; what was said is kept")
        terminal.wait_for_prompt()
        terminal.type("and?" + ENTER)
        terminal.wait_for("2:and?")
        terminal.wait_for_prompt()
        prompt = terminal.ask("/show prompt", "prompt:")
        assert "slow###Assistant: word word word" in prompt
        terminal.type("/bye" + ENTER)
        assert terminal.wait_for_end() == ExitCode.OK


def test_ctrl_c_twice_at_the_prompt_leaves_with_130(chat):
    with chat("cat.png") as terminal:
        terminal.wait_for_prompt()
        terminal.type("half a quest" + CTRL_C)
        terminal.wait_for("Ctrl-C again leaves")
        terminal.wait_for_prompt()
        terminal.ask("what?", "1:what?")  # an entry between makes it a first time again
        terminal.type(CTRL_C)
        terminal.wait_for("Ctrl-C again leaves")
        terminal.wait_for_prompt()
        terminal.type(CTRL_C)
        assert terminal.wait_for_end() == ExitCode.INTERRUPTED
        assert "Traceback" not in terminal.shown


def test_earlier_entries_come_back_also_in_the_next_conversation(chat, tmp_path):
    with chat("cat.png") as terminal:
        terminal.wait_for_prompt()
        terminal.ask("what is it?", "1:what is it?")
        terminal.type(UP + ENTER)
        terminal.wait_for("2:what is it?")
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == ExitCode.OK
    assert (tmp_path / "home" / "chat-history").stat().st_mode & 0o077 == 0
    with chat("dog.png") as terminal:
        terminal.wait_for_prompt()
        terminal.type(UP + ENTER)
        terminal.wait_for("1:what is it?")
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == ExitCode.OK


def test_a_conversation_is_saved_and_taken_up_by_another_process(chat, tmp_path):
    with chat("cat.png") as terminal:
        terminal.wait_for_prompt()
        terminal.ask("what is it?", "1:what is it?")
        terminal.ask("/save mine", "`/load mine`")
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == ExitCode.OK
    saved = json.loads((tmp_path / "home" / "chats" / "mine.json").read_text("utf-8"))
    assert saved["turns"] == [{"question": "what is it?", "answer": "1:what is it?"}]
    with chat() as terminal:
        terminal.wait_for("`/image PATH` shows a picture")
        terminal.wait_for_prompt()
        terminal.type("/load mine" + ENTER)  # what it shows is tested without a terminal
        terminal.wait_for("/load mine")
        terminal.wait_for_prompt()
        terminal.ask("and?", "2:and?")
        prompt = terminal.ask("/show prompt", "prompt:")
        assert "<ImageHere></Img> what is it?###Assistant: 1:what is it?###Human: and?" in prompt
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == ExitCode.OK


def test_a_question_of_several_lines_stands_between_quotes(chat):
    with chat("cat.png") as terminal:
        terminal.wait_for_prompt()
        terminal.type('"""first' + ENTER)
        terminal.wait_for("…")
        terminal.type('second"""' + ENTER)
        terminal.wait_for("1:first\nsecond\n")
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == ExitCode.OK


def test_a_mistake_is_told_and_the_conversation_goes_on(chat):
    with chat("cat.png") as terminal:
        terminal.wait_for_prompt()
        terminal.ask("/image none.png", "error: there is no file none.png")
        terminal.ask("/imag", "did you mean `/image`?")
        terminal.ask("/set temp hot", "error: 'hot' is no value for temp")
        terminal.ask("what?", "1:what?")
        terminal.complete("/image do", "/image dog.png")
        terminal.ask("", "dog.png is shown; a new conversation begins")
        terminal.ask("what?", "1:what?")
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == ExitCode.OK


def test_a_terminal_without_a_cursor_does_for_a_conversation(chat):
    with chat("cat.png", term="dumb") as terminal:
        terminal.wait_for_prompt()
        terminal.type('"""first' + ENTER)
        terminal.wait_for("…")
        terminal.type('second"""' + ENTER)
        terminal.wait_for("1:first\nsecond\n")
        terminal.wait_for_prompt()
        terminal.type("slow" + ENTER)
        terminal.wait_for("word word word")
        terminal.type(CTRL_C)
        terminal.wait_for("stopped; what was said is kept")
        terminal.wait_for_prompt()
        terminal.type(CTRL_C)
        terminal.wait_for("Ctrl-C again leaves")
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == ExitCode.OK


def complete(text):
    found = EntryCompleter().get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + each.start_position] + each.text for each in found]


def test_commands_and_what_they_take_are_completed(place):
    (place / "home" / "chats").mkdir(parents=True)
    (place / "home" / "chats" / "dogs.json").write_text("{}")
    assert complete("/s") == ["/set", "/show", "/save"]
    assert complete("/set to") == ["/set top-p", "/set top-k"]
    assert complete("/set temp 0.5 se") == ["/set temp 0.5 seed"]
    assert complete("/show me") == ["/show memory"]
    assert complete("/image ca") == ["/image cat.png"]
    assert complete("/export m") == ["/export md"]
    assert complete("/export md do") == ["/export md dog.png"]
    assert complete("/load do") == ["/load dogs", "/load dog.png"]
    assert complete("/clear do") == []
    assert complete("/none do") == []
    assert complete("do") == []
