"""Words after `tinyv ask`: which are pictures, which the question, and what is said of nonsense."""

import pytest

from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.prompts import request
from tinyv_cli.prompts.request import AskRequest, Words, read_request


def never():
    raise AssertionError("stdin was read")


@pytest.mark.parametrize(
    ("words", "pictures", "question"),
    [
        (Words(["a.png", "what?"]), ["a.png"], "what?"),
        (Words(["a.png", "b.png", "what?"]), ["a.png", "b.png"], "what?"),
        (Words(["what?"], images=["a.png"]), ["a.png"], "what?"),
        (Words(["b.png", "what?"], images=["a.png"]), ["a.png", "b.png"], "what?"),
        (Words(["a.png", "b.png"], prompt="what?"), ["a.png", "b.png"], "what?"),
        (Words([], images=["a.png"], prompt="what?"), ["a.png"], "what?"),
        (Words(["a.png"], asks_by_itself=True), ["a.png"], None),
        (Words([], images=["a.png"], asks_by_itself=True), ["a.png"], None),
        (Words(["a.png", "what?"], asks_by_itself=True), ["a.png"], "what?"),
        (Words(["a.png", "  two  spaces "]), ["a.png"], "  two  spaces "),
    ],
)
def test_the_last_word_is_the_question_unless_it_was_given(words, pictures, question):
    assert read_request(words, never) == AskRequest(tuple(pictures), question)


def test_with_a_task_a_last_word_that_is_a_file_is_a_picture(tmp_path):
    (tmp_path / "b.png").write_bytes(b"")
    last = str(tmp_path / "b.png")
    assert read_request(Words(["a.png", last], asks_by_itself=True), never).pictures == (
        "a.png",
        last,
    )
    with pytest.raises(UsageError, match=r"which comes last, is the picture .*b\.png"):
        read_request(Words(["a.png", last]), never)
    assert read_request(Words(["a.png"], prompt=last), never).question == last


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (Words([]), "the picture and question are missing"),
        (Words([], prompt="what?"), "the picture is missing"),
        (Words(["a.png"]), "the question is missing"),
        (Words([], images=["a.png"]), "the question is missing"),
        (Words(["what is this?"]), "the picture is missing: 'what is this[?]' is no file"),
        (Words([], asks_by_itself=True), "the picture is missing"),
        (Words(["-", "-"]), "cannot both come from stdin"),
        (Words(["-", "what?"], takes_stdin=True), "cannot both come from stdin"),
        (Words(["a.png", "-"], takes_stdin=True), "cannot both come from stdin"),
    ],
)
def test_what_is_missing_or_double_is_said(words, problem):
    with pytest.raises(UsageError, match=problem):
        read_request(words, never)


def test_a_question_comes_from_stdin_or_a_file_without_its_last_newline(tmp_path):
    (tmp_path / "q.txt").write_bytes(b"line one\nline two\r\n")
    from_file = Words(["a.png"], prompt_file=tmp_path / "q.txt")
    assert read_request(from_file, never).question == "line one\nline two"
    assert read_request(Words(["a.png", "-"]), lambda: b"what?\n").question == "what?"


def test_text_on_stdin_goes_before_the_question():
    words = Words(["a.png", "is that right?"], takes_stdin=True)
    assert read_request(words, lambda: b"a cat\n").question == "a cat\nis that right?"
    alone = Words(["a.png"], asks_by_itself=True, takes_stdin=True)
    assert read_request(alone, lambda: b"a cat\n").question == "a cat"


def test_both_ways_to_give_the_question_at_once_are_refused(tmp_path):
    with pytest.raises(UsageError, match="both give the question"):
        read_request(Words(["a.png"], prompt="x", prompt_file=tmp_path / "q"), never)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_question_that_cannot_be_read_is_told_with_its_file(tmp_path, content):
    path = tmp_path / "q.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"q\.txt"):
        read_request(Words(["a.png"], prompt_file=path), never)


@pytest.mark.parametrize(
    ("words", "piped", "pictures", "question"),
    [
        (Words(["what is this?"]), None, ["-"], "what is this?"),
        (Words([], prompt="what?"), None, ["-"], "what?"),
        (Words([], asks_by_itself=True), None, ["-"], None),
        (Words(["the cat"], asks_by_itself=True), None, ["-"], "the cat"),
        (Words(["a.png"], asks_by_itself=True), None, ["a.png"], None),
        (Words(["a.png"]), b"what is this?\n", ["a.png"], "what is this?"),
        (Words([], images=["a.png", "b.png"]), b"which?", ["a.png", "b.png"], "which?"),
        (Words(["a.png", "what?"]), None, ["a.png"], "what?"),
    ],
)
def test_what_is_piped_stands_for_the_word_that_is_missing(
    monkeypatch, words, piped, pictures, question
):
    monkeypatch.setattr(request, "is_piped", lambda: True)
    read = never if piped is None else lambda: piped
    assert read_request(words, read) == AskRequest(tuple(pictures), question)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (Words([]), "the picture and question are missing"),
        (Words(["a.png"]), "the question is missing"),
        (Words(["-"]), "the question is missing"),
        (Words([], prompt="-"), "the picture is missing"),
        (Words(["what?"], takes_stdin=True), "the picture is missing"),
    ],
)
def test_an_empty_pipe_and_one_that_is_taken_stand_for_nothing(monkeypatch, words, problem):
    monkeypatch.setattr(request, "is_piped", lambda: True)
    with pytest.raises(UsageError, match=problem):
        read_request(words, lambda: b"\n")
