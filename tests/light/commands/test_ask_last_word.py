"""A picture in the place of the question, and what `--draw` and `--chart` may replace.

Source: `ask *.jpg`, the README's own `a.jpg b.jpg https://… --task caption` and a mistyped name
were answered as a question; `--draw photo.png` wrote over any file.
"""

import io
import os
import sys

import pytest
from PIL import Image

from tests.light.toy_variant import make_open_backend, make_script
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.benchmark.chart import check_chart
from tinyv_cli.errors import ExitCode, UsageError
from tinyv_cli.pictures.names import names_picture
from tinyv_cli.prompts.request import AskRequest, Words, read_request

BOX = "{<10><20><50><60>}"


@pytest.fixture
def ask(place, monkeypatch, capsys):
    """Runs `tinyv ask` in a folder with two pictures."""

    def run(*words, says="yes"):
        monkeypatch.setattr(backends, "open_backend", make_open_backend(make_script(says)))
        code = main(["ask", *map(str, words), "-m", "bits4"])
        return code, *capsys.readouterr()

    return run


PICTURES = [
    "cat.png",
    "two.pdf#2",
    "film.mp4@12.5",
    "gone.jpg",
    "gone.PNG",
    "photo.heic",
    "b.jgp",
    "b.jpgg",
    "b.jepg",
    "b.pgn",
    "b.tif#2",
    "dir/b.jpg",
    "./my cat.jpg",
    "C:\\Users\\me\\my cat.jpg",
    "https://example.org/c.png",
    "https://example.org/photo?id=3",
    "data:image/png;base64,AAAA",
    "photo",
    "photo#1",
    "my photo",
]
QUESTIONS = [
    "what is this?",
    "cat",
    "the red car",
    "what is in cat.png?",
    "is it like https://example.org/c.png?",
    "node.js",
    "example.com",
    "St.Petersburg",
    "3.5",
    "[caption]",
    ".png",
    "folder",
    "a/b",
    "#2",
]


@pytest.fixture
def folder(place):
    (place / "folder").mkdir()
    for name in ("photo", "my photo"):
        (place / name).write_bytes((place / "cat.png").read_bytes())
    return place


@pytest.mark.parametrize("word", PICTURES)
def test_a_last_word_that_is_a_picture_is_asked_about_with_a_task_and_told_without(folder, word):
    assert names_picture(word)
    with_task = Words(["cat.png", word], asks_by_itself=True)
    assert read_request(with_task) == AskRequest(("cat.png", word), None)
    for words in (Words(["cat.png", word]), Words([word], images=["gone.png"])):
        with pytest.raises(UsageError, match="the question, which comes last, is the "):
            read_request(words)
    assert read_request(Words(["cat.png"], prompt=word)).question == word


@pytest.mark.parametrize("word", QUESTIONS)
def test_a_last_word_that_is_no_picture_stays_the_question(folder, word):
    assert not names_picture(word)
    for by_itself in (False, True):
        words = Words(["cat.png", word], asks_by_itself=by_itself)
        assert read_request(words) == AskRequest(("cat.png",), word)


def test_a_picture_in_the_place_of_the_question_ends_with_2_and_two_lines(ask):
    code, out, err = ask("cat.png", "dog.png")
    assert (code, out) == (ExitCode.USAGE, "")
    assert err == (
        "error: the question, which comes last, is the picture dog.png\n"
        'hint:  ask something behind it: `tinyv ask cat.png dog.png "what is it?"`; '
        "if it is meant as the question: `-p dog.png`\n"
    )
    assert ask("cat.png", "-p", "dog.png")[:2] == (ExitCode.OK, "yes\n")
    many = ask("cat.png", "dog.png", "cat.png", "dog.png", "cat.png", "dog.png")[2]
    assert "`tinyv ask cat.png dog.png … dog.png " in many


def test_a_file_of_another_kind_may_hold_the_question(ask, place):
    (place / "q.txt").write_text("what?", "utf-8")
    code, _, err = ask("cat.png", "q.txt")
    assert code == ExitCode.USAGE
    assert "is the file q.txt\n" in err
    assert "`--prompt-file q.txt`" in err


def test_exchanged_words_are_still_put_right(ask):
    code, _, err = ask("what is this?", "cat.png")
    assert code == ExitCode.INPUT
    assert "`tinyv ask cat.png 'what is this?'`" in err


@pytest.mark.parametrize("word", ["dog.png", "gone.jpg", "b.jgp", "https://example.org/c.png"])
def test_a_picture_in_the_place_of_a_batch_s_prompt_is_told(place, capsys, word):
    assert main(["batch", "cat.png", word, "-o", "o.jsonl"]) == ExitCode.USAGE
    assert "the prompt, which comes last, is the " in capsys.readouterr().err
    assert not (place / "o.jsonl").exists()


def test_a_picture_among_the_questions_of_a_script_is_asked_and_noted(
    place, toys, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"dog.png\ncat.png\n")))
    assert main(["chat", "cat.png", "-m", "bits4"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "1:dog.png\n2:cat.png\n"
    assert err.count("note: 'dog.png' is asked; name the picture at the start") == 1
    assert err.count("is asked") == 1


# What is replaced


def test_a_drawing_replaces_nothing_unless_forced(ask, place):
    target = place / "photo.png"
    target.write_bytes(b"mine")
    code, out, err = ask("cat.png", "where?", "--draw", "photo.png", says=BOX)
    assert (code, out) == (ExitCode.USAGE, "")
    assert "error: photo.png is there already\n" in err
    assert "--draw photo-drawn.png" in err
    assert "--force" in err
    assert target.read_bytes() == b"mine"
    assert ask("cat.png", "where?", "--draw", "photo.png", "--force", says=BOX)[0] == ExitCode.OK
    with Image.open(target) as drawn:
        assert drawn.format == "PNG"


def test_the_file_is_looked_for_before_any_picture_is_read(ask, place):
    (place / "photo.png").write_bytes(b"mine")
    code, _, err = ask("gone.png", "where?", "--draw", "photo.png")
    assert code == ExitCode.USAGE
    assert "is there already" in err


@pytest.mark.parametrize("name", ["cat.png", "./cat.png", "soft.png", "hard.png", "link/cat.png"])
@pytest.mark.parametrize("picture", ["cat.png", "hard.png", "-"])
def test_the_picture_itself_is_never_replaced(ask, place, monkeypatch, name, picture):
    (place / "soft.png").symlink_to("cat.png")
    (place / "hard.png").hardlink_to(place / "cat.png")
    (place / "link").symlink_to(place)
    before = (place / "cat.png").read_bytes()
    kept = os.dup(0)
    with (place / "cat.png").open("rb") as stream:
        os.dup2(stream.fileno(), 0)
        try:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
            code, _, err = ask(picture, "where?", "--draw", name, "--force", says=BOX)
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    assert code == ExitCode.USAGE
    assert "is the picture itself" in err
    assert (place / "cat.png").read_bytes() == before


def test_a_chart_replaces_nothing_unless_forced(tmp_path):
    path = tmp_path / "rates.png"
    check_chart(path)
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"rates\.png is there already"):
        check_chart(path)
    check_chart(path, replaces=True)
