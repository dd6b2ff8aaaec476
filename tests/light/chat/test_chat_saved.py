from dataclasses import replace
from pathlib import Path

import pytest

from tinyv_cli.chat.saved import (
    FORMAT_VERSION,
    Outputs,
    SavedChat,
    SavedPicture,
    list_names,
    read_chat,
    resolve_chat,
)
from tinyv_cli.errors import InputError
from tinyv_cli.prompts.prompt import Turn

CHAT = SavedChat(
    FORMAT_VERSION,
    SavedPicture("/pictures/my_cat.png", "abc"),
    "4bit",
    "inst",
    {"temp": 0.5, "seed": None},
    (Turn("what is\nit?", "<p>a cat</p> {<1><2><3><4>}\n- é *日*"), Turn("why?", "")),
)


def test_a_conversation_comes_back_as_it_was(place):
    path = resolve_chat("mine")
    assert path == place / "home" / "chats" / "mine.json"
    Outputs().write(path, CHAT.to_json().encode())
    assert read_chat(path) == CHAT
    assert list_names() == ["mine"]
    without = replace(CHAT, picture=None, turns=())
    Outputs().write(place / "none.json", without.to_json().encode())
    assert read_chat(resolve_chat("none.json")) == without


def test_without_a_folder_of_conversations_there_are_none(place):
    assert list_names() == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("no", "is no conversation: it is not JSON"),
        ("{}", "is no conversation: format_version is missing"),
        (replace(CHAT, format_version=2).to_json(), "its format is 2, this version reads 1"),
        (CHAT.to_json().replace('"why?"', "1"), "turns[1].question is not a text"),
        ("[" * 100_000, "is no conversation: "),
    ],
)
def test_what_is_no_conversation_is_told(place, content, problem):
    path = place / "wrong.json"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError) as caught:
        read_chat(path)
    assert problem in caught.value.problem
    assert "`/load NAME`" in caught.value.hint


def test_a_missing_conversation_is_told_with_those_there_are(place):
    Outputs().write(resolve_chat("mine"), b"{}")
    with pytest.raises(InputError, match="yours") as caught:
        read_chat(resolve_chat("yours"))
    assert "there are mine" in caught.value.hint


def test_markdown_shows_what_was_said_as_it_was():
    assert CHAT.to_markdown() == "\n".join(
        [
            "# Conversation about my\\_cat.png",
            "",
            "Answered by 4bit.",
            "",
            "**what is it?**",
            "",
            "\\<p\\>a cat\\</p\\> {\\<1\\>\\<2\\>\\<3\\>\\<4\\>}  ",
            "\\- é \\*日\\*",
            "",
            "**why?**",
            "",
            "",
            "",
        ]
    )


@pytest.mark.parametrize(
    ("said", "shown"), [("1. one", "1\\. one"), (" + two", " \\+ two"), ("2) x", "2\\) x")]
)
def test_markdown_makes_no_lists_of_answers(said, shown):
    chat = replace(CHAT, turns=(Turn("why?", said),))
    assert f"\n{shown}\n" in chat.to_markdown()


def test_only_files_of_ones_own_are_written_over(tmp_path):
    outputs = Outputs()
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    foreign.write_bytes(b"theirs")
    outputs.write(own, b"1")
    outputs.write(own, b"2")
    assert own.read_bytes() == b"2"
    with pytest.raises(InputError, match="is there already"):
        outputs.write(foreign, b"mine")
    assert foreign.read_bytes() == b"theirs"
    outputs.adopt(foreign)
    outputs.write(foreign, b"mine")
    assert foreign.read_bytes() == b"mine"
    assert {each.name for each in tmp_path.iterdir()} == {"own", "foreign"}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (".", "is a folder"),
        ("none/x.md", "cannot write none/x.md: no such"),
        ("x" * 300, "cannot write x+: file name too long"),
    ],
)
def test_a_place_that_takes_no_file_is_told(tmp_path, monkeypatch, name, problem):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=problem):
        Outputs().write(Path(name), b"x")
