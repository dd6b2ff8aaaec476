"""What a first half hour of chatting asks for: ways out, the clipboard, an editor, boxes to see."""

import io
import sys

import pytest
from PIL import Image, ImageGrab, UnidentifiedImageError

from tests.light.chat.test_chat import list_errors
from tinyv_cli.drawing import on_terminal
from tinyv_cli.drawing.on_terminal import Screen
from tinyv_cli.errors import UsageError

IN_WORDS = "a cat (left: 10-50 % across, 20-60 % down)\n"


@pytest.mark.parametrize("word", ["/exit", "/quit", "/bye", "exit", "quit", " Quit "])
def test_the_usual_words_leave(hold, word):
    out, err = hold("what?", word, "why?")
    assert out == "1:what?\n"
    assert list_errors(err) == []


def test_a_way_out_in_quotes_or_in_a_sentence_is_a_question(hold):
    out, _ = hold('"""exit"""', "is there an exit", "quit?")
    assert out == "1:exit\n2:is there an exit\n3:quit?\n"


def test_a_question_mark_lists_the_commands(hold):
    _, err = hold("/?")
    assert "/paste" in err
    assert "/edit [TEXT]" in err
    assert list_errors(err) == []


def put_on_clipboard(monkeypatch, content):
    def grab():
        if isinstance(content, Exception):
            raise content
        return content

    monkeypatch.setattr(ImageGrab, "grabclipboard", grab)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
def test_a_copied_picture_is_shown(hold, toys, monkeypatch, mode):
    put_on_clipboard(monkeypatch, Image.new(mode, (30, 20)))
    out, err = hold("what?", "/paste", "why?", "/save it", "/show settings")
    assert out == "1:what?\n1:why?\n"
    assert "note: the picture from the clipboard is shown; a new conversation begins\n" in err
    assert "picture         data:image/png;sha256-" in err
    assert list_errors(err) == []
    assert toys.encoder.n_encoded == 2


def test_copied_files_are_shown(hold, place, monkeypatch):
    put_on_clipboard(monkeypatch, [str(place / "cat.png"), str(place / "dog.png")])
    _, err = hold("/paste", picture=None)
    assert f"note: {place / 'dog.png'} is shown\n" in err
    assert "note: of 2 pictures the last is shown" in err


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the clipboard holds no picture"),
        ([], "the clipboard holds no picture"),
        (UnidentifiedImageError("x"), "the clipboard holds no picture Pillow can read"),
        (NotImplementedError("x"), "the clipboard cannot be read: wl-paste or xclip is missing"),
        (
            ChildProcessError("xclip error: Error: Can't open display: (null)"),
            "the clipboard cannot be read: xclip error: Error: Can't open display: (null)",
        ),
        (
            PermissionError(13, "Permission denied"),
            "the clipboard cannot be read: permission denied",
        ),
    ],
)
def test_a_clipboard_without_a_picture_leaves_what_was_shown(hold, monkeypatch, content, problem):
    put_on_clipboard(monkeypatch, content)
    out, err = hold("what?", "/paste", "why?")
    assert out == "1:what?\n2:why?\n"
    assert list_errors(err) == [problem]


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Makes a Python program the editor; its file's name is `path`."""

    def make(code):
        script = tmp_path / "my editor.py"
        script.write_text(
            f"import sys\nfrom pathlib import Path\npath = Path(sys.argv[1])\n{code}\n"
        )
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", f"'{sys.executable}' '{script}'")

    return make


APPEND = "path.write_text(path.read_text() + ' é\\n and\\n', 'utf-8')"


def test_an_edited_question_is_shown_and_asked(hold, editor):
    editor(APPEND)
    out, err = hold("/edit", "/edit is it", "/edit")
    assert out == "1:é\n and\n2:is it é\n and\n3:is it é\n and é\n and\n"
    assert "> is it é\n>  and\n" in err


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("path.write_text('  \\n')", None),
        ("path.write_bytes(b'caf\\xe9')", "left no text in UTF-8; nothing is asked"),
        ("path.unlink()", "left no text in UTF-8; nothing is asked"),
        ("sys.exit(3)", "ended with code 3; nothing is asked"),
    ],
)
def test_an_editor_that_leaves_nothing_asks_nothing(hold, editor, code, problem):
    editor(code)
    out, err = hold("what?", "/edit", "why?")
    assert out == "1:what?\n2:why?\n"
    if problem is None:
        assert "note: nothing is asked\n" in err
    else:
        (error,) = list_errors(err)
        assert error.endswith(problem)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("no-such-editor -w", "the editor no-such-editor -w does not start: no such file"),
        ("vi 'x", "the editor 'vi 'x' is no command"),
    ],
)
def test_an_editor_that_is_none_is_told(hold, monkeypatch, command, problem):
    monkeypatch.setenv("VISUAL", command)  # it goes before EDITOR
    _, err = hold("/edit")
    assert list_errors(err)[0].startswith(problem)


def test_a_text_that_ends_answers_can_be_set(hold):
    out, err = hold("one two", "/set stop ' two' x", "one two", "/set stop off", "one two")
    assert out == "1:one two\n2:one\n3:one two\n"
    assert "stop            ' two' x\n" in err


def test_boxes_are_told_in_words_and_stay_raw_for_the_model_and_in_files(hold, place):
    out, err = hold("box", "/show prompt", "/save it", "what?", "/load it", "/export md x.md")
    assert out == f"{IN_WORDS}2:what?\n"
    assert "note: `/draw FILE.png` draws it\n" in err
    assert f"> box\n{IN_WORDS}" in err
    prompt = place / "home" / "chats" / "it.json"
    assert "<p>a cat</p> {<10><20><50><60>}" in prompt.read_text()


def test_a_terminal_that_shows_pictures_shows_what_is_talked_about(hold, monkeypatch):
    shown = io.StringIO()
    screen = Screen(shown, "kitty", 80, 30, (8, 16))
    monkeypatch.setattr(on_terminal, "find_screen", lambda: screen)
    _, err = hold("box", "/draw", "/image dog.png", "/draw", quiet=False)
    assert shown.getvalue().count("\x1b_Ga=T") == 3  # at the start, drawn, the other one
    assert "note: `/draw` shows it\n" in err
    assert list_errors(err) == ["the last answer holds no box"]
    shown.seek(shown.truncate(0))
    hold("what?", quiet=True)
    assert shown.getvalue() == ""


@pytest.mark.parametrize("rows", [5, 30, 90])
def test_a_preview_leaves_most_of_the_terminal_free(hold, place, monkeypatch, rows):
    Image.new("RGB", (2000, 2000), "red").save(place / "large.png")
    screen = Screen(io.StringIO(), "iterm2", 80, rows, (8, 16))
    heights = []
    monkeypatch.setattr(on_terminal, "find_screen", lambda: screen)
    monkeypatch.setattr(
        "tinyv_cli.chat.talk.show_picture", lambda picture, part: heights.append(part.rows)
    )
    hold(picture="large.png")
    assert heights == [max(8, rows // 3)]


def test_without_a_terminal_for_pictures_there_is_none_and_a_wrong_variable_is_told(monkeypatch):
    monkeypatch.delenv("TINYV_PICTURES", raising=False)
    assert on_terminal.find_screen() is None
    monkeypatch.setenv("TINYV_PICTURES", "ascii")
    with pytest.raises(UsageError):
        on_terminal.find_screen()
