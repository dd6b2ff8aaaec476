r"""Pictures dropped into a conversation.

Source: ollama issues 10333 and 16091: `'/path/a.jpg'`, `my\ cat.png`, `file:///…` read as text.
"""

import base64

import pytest
from PIL import Image

from tests.light.chat.test_chat import list_errors
from tinyv_cli.chat import terminal
from tinyv_cli.chat.dropped import find_dropped


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of pictures that a terminal writes in many ways; D stands for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.jpg", "b.png", "my cat.png", "it's.png", "ä (1).png", "photo", "two.pdf"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


ROWS = [
    ("'D/a.jpg'", ["D/a.jpg"], ""),
    ("'D/a.jpg' ", ["D/a.jpg"], ""),
    ('"D/a.jpg"', ["D/a.jpg"], ""),
    ("D/a.jpg", ["D/a.jpg"], ""),
    ("D/a.jpg what is this?", ["D/a.jpg"], "what is this?"),
    ("'D/my cat.png' what  is this?", ["D/my cat.png"], "what  is this?"),
    ("D/my cat.png what is this?", ["D/my cat.png"], "what is this?"),
    ("D/my cat.png", ["D/my cat.png"], ""),
    (r"D/my\ cat.png what?", ["D/my cat.png"], "what?"),
    (r"my\ cat.png", ["my cat.png"], ""),
    (r"D/ä\ \(1\).png", ["D/ä (1).png"], ""),
    ("file://D/a.jpg", ["D/a.jpg"], ""),
    ("file://D/my%20cat.png what?", ["D/my cat.png"], "what?"),
    ("FILE://localhostD/%C3%A4%20(1).png", ["D/ä (1).png"], ""),
    ("file:D/a.jpg", ["D/a.jpg"], ""),
    (r"'D/it'\''s.png' why?", ["D/it's.png"], "why?"),
    ('"D/it\'s.png"', ["D/it's.png"], ""),
    ("'file://D/my%20cat.png' \"file://D/a.jpg\"", ["D/my cat.png", "D/a.jpg"], ""),
    ("& 'D/a.jpg'", ["D/a.jpg"], ""),
    ("~/a.jpg what?", ["D/a.jpg"], "what?"),
    ("./a.jpg", ["./a.jpg"], ""),
    ("a.jpg", ["a.jpg"], ""),
    ("D/photo what?", ["D/photo"], "what?"),
    ("D/two.pdf#2 what?", ["D/two.pdf#2"], "what?"),
    ("'D/a.jpg' 'D/b.png' which?", ["D/a.jpg", "D/b.png"], "which?"),
    ("D/a.jpg D/b.png", ["D/a.jpg", "D/b.png"], ""),
    ("'D/a.jpg'\n'D/my cat.png'\n", ["D/a.jpg", "D/my cat.png"], ""),
    ("what is this? 'D/my cat.png'", ["D/my cat.png"], "what is this?"),
    ("what is in D/a.jpg?", ["D/a.jpg"], "what is in ?"),
    ("'D/a.jpg', what is it?", ["D/a.jpg"], "what is it?"),
    # What is not there is told rather than asked about another picture.
    ("D/gone.jpg what is this?", ["D/gone.jpg"], "what is this?"),
    ("'D/gone.jpg'", ["D/gone.jpg"], ""),
    ("dgo.png", ["dgo.png"], ""),
    ("/cat.jgp", ["/cat.jgp"], ""),
    (r"C:\Users\me\a.jpg what?", [r"C:\Users\me\a.jpg"], "what?"),
    (r'"C:\Users\me\my cat.jpg"', [r"C:\Users\me\my cat.jpg"], ""),
    (r"\\server\share\a.jpg", [r"\\server\share\a.jpg"], ""),
    ("file:///C:/Users/a%20b.jpg", ["C:/Users/a b.jpg"], ""),
    ("https://example.org/a.png?x=1 what?", ["https://example.org/a.png?x=1"], "what?"),
    ("https://example.org/photo", ["https://example.org/photo"], ""),
    ("data:image/png;base64,AAAA what?", ["data:image/png;base64,AAAA"], "what?"),
    # Questions and commands.
    ("what is this?", None, ""),
    ("what is in a.jpg?", None, ""),
    ("what's 'photo' mean, isn't it?", None, ""),
    ("'tis a cat", None, ""),
    ("photo or drawing?", None, ""),
    ("/image D/a.jpg", None, ""),
    ("/draw out.png", None, ""),
    ("/imgae D", None, ""),
    (" D/a.jpg is a path", None, ""),
    ('"""D/a.jpg"""', None, ""),
    ("is 1/2 more than https://example.org says?", None, ""),
    ("node.js or example.com?", None, ""),
    ("", None, ""),
]


@pytest.mark.parametrize(("entry", "pictures", "question"), ROWS, ids=[row[0] for row in ROWS])
def test_an_entry_is_taken_apart_as_terminals_write_it(folder, entry, pictures, question):
    found = find_dropped(entry.replace("D", str(folder)))
    if pictures is None:
        assert found is None
    else:
        expected = [each.replace("D", str(folder)) for each in pictures]
        assert found is not None
        assert (list(found.pictures), found.question) == (expected, question)


def test_a_long_entry_is_read_in_no_time(folder):
    assert find_dropped("word 'and " * 20_000) is None


def test_a_dropped_picture_is_shown_and_the_rest_is_asked(hold, place):
    Image.new("RGB", (9, 9), "green").save(place / "my cat.png")
    out, err = hold("what?", f"'{place}/dog.png' why?", f"{place}/my\\ cat.png", "how?")
    assert out == "1:what?\n1:why?\n1:how?\n"
    assert f"note: {place}/dog.png is shown; a new conversation begins\n" in err
    assert f"note: {place}/my cat.png is shown; a new conversation begins\n" in err
    assert list_errors(err) == []


def test_of_several_dropped_pictures_the_last_is_shown_and_told(hold, place):
    out, err = hold(f"'{place}/cat.png' '{place}/dog.png' what?")
    assert out == "1:what?\n"
    assert f"note: {place}/dog.png is shown\n" in err
    assert "note: of 2 pictures the last is shown" in err


def test_a_dropped_picture_that_is_gone_is_told_and_nothing_is_asked(hold, place):
    out, err = hold("what?", f"{place}/gone.png and?", "why?")
    assert out == "1:what?\n2:why?\n"
    assert list_errors(err) == [f"there is no file {place}/gone.png"]


def test_a_url_of_a_file_can_follow_the_command_too(hold, place):
    _, err = hold(f"/image file://{place}/dog.png")
    assert f"note: {place}/dog.png is shown\n" in err


def test_a_picture_in_a_url_is_shown_and_saved_by_a_short_name(hold, place):
    data = base64.b64encode((place / "dog.png").read_bytes()).decode()
    url = f"data:image/png;base64,{data}"
    again = ("/image cat.png", "/load one", f"/image {url}", "/load one")
    out, err = hold(f"{url} what?", "/save one", *again)
    assert "1:what?\n" in out
    assert data not in out + err
    saved = (place / "home" / "chats" / "one.json").read_text("utf-8")
    assert data not in saved
    [problem] = list_errors(err)
    assert "was saved without what is secret or long in it" in problem
    assert err.count("question and its answer from") == 1


def test_a_saved_url_holds_no_secret(hold, place, monkeypatch):
    from tinyv_cli.pictures import opening

    monkeypatch.setattr(opening, "fetch", lambda *_: (place / "dog.png").read_bytes())
    _, err = hold("/image https://me:secret@example.org/a.png?token=hidden", "what?", "/save one")
    saved = (place / "home" / "chats" / "one.json").read_text("utf-8")
    for text in (saved, err):
        assert "https://***@example.org/a.png?token=***" in text
        assert "secret" not in text.replace("secret or", "")
        assert "hidden" not in text


def test_the_history_of_entries_keeps_no_secret(place):
    terminal.history_path().parent.mkdir(parents=True, exist_ok=True)
    history = terminal.SafeHistory(str(terminal.history_path()))
    history.append_string("/image https://me:secret@example.org/a.png?token=hidden")
    history.append_string("data:image/png;base64,AAAAAAAAAAAA what is it?")
    kept = terminal.history_path().read_text("utf-8")
    assert "/image https://***@example.org/a.png?token=***" in kept
    assert "what is it?" in kept
    assert "AAAA" not in kept
