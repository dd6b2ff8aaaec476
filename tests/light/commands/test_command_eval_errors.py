import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.light.evaluation.toy_evaluation import make_line, run, write_questions
from tests.light.toy_variant import write_variant
from tinyv_cli.app import main
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode
from tinyv_cli.variants.manifest import read_variant

pytestmark = pytest.mark.usefixtures("place")


GOOD = json.dumps(make_line())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "it is not JSON (Expecting value at character 1)"),
        ("[1]", "it is not a JSON object"),
        ('{"picture": "cat.png"}', "task is missing"),
        (json.dumps(make_line() | {"answer": 2}), "answer is not a text"),
        (json.dumps(make_line(task="dream")), "there is no task 'dream', there are what, colour"),
        (json.dumps(make_line(task="refer")), "its answer holds no box"),
        (json.dumps(make_line(question=" ")), "the question is blank"),
        (json.dumps(make_line(answer="\ud800")), "surrogates not allowed"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_line_that_cannot_be_asked_is_named(runtimes, capsys, line, problem):
    write_questions([GOOD, "", line])
    err = run(capsys, code=ExitCode.INPUT)
    assert err.startswith("error: line 3 of questions.jsonl ")
    assert problem in err
    assert runtimes.opened == []


def test_blank_lines_and_a_byte_order_mark_are_passed_over(runtimes, capsys):
    Path("questions.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n{GOOD}".encode())
    assert run(capsys)["all"]["n"] == 2


def test_a_file_that_is_not_there_or_holds_nothing_is_an_error_of_input(runtimes, capsys):
    assert "there is no file questions.jsonl" in run(capsys, code=ExitCode.INPUT)
    write_questions([""])
    assert "questions.jsonl holds no question" in run(capsys, code=ExitCode.INPUT)
    assert main(["eval", "home"]) == ExitCode.INPUT
    assert "home cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("picture", ["bird.png", "\x00", "a" * 5000, ""])
def test_a_missing_picture_is_found_before_anything_is_opened(runtimes, capsys, picture):
    write_questions([GOOD, make_line(picture)])
    err = run(capsys, code=ExitCode.INPUT)
    assert "which line 2 of questions.jsonl asks about" in err
    assert runtimes.opened == []
    assert run(capsys, "--limit", "1")["all"]["n"] == 1


def test_pictures_lie_where_the_file_of_questions_lies(runtimes, capsys, place, monkeypatch):
    write_questions()
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert main(["eval", "../questions.jsonl", "-m", "bits4"]) == ExitCode.OK
    assert list(Path().iterdir()) == []


def test_a_question_that_does_not_fit_the_context_is_named(runtimes, capsys):
    write_questions([GOOD, make_line(answer="cat " * 200)])
    err = run(capsys, "--against", "bits8", "-c", "2048", code=ExitCode.OK)
    write_questions([GOOD, make_line(answer="x " * 1500)])
    err = run(capsys, "--against", "bits8", code=ExitCode.INPUT)
    assert "line 2 of questions.jsonl cannot be asked: prompt and answer need" in err
    assert "--ctx-size" in err


def test_a_variant_that_is_missing_is_an_error_of_the_weights(runtimes, capsys):
    write_questions()
    run(capsys, model="none", code=ExitCode.WEIGHTS)
    run(capsys, "--against", "none", code=ExitCode.WEIGHTS)
    (places.variants_dir() / "bits8" / "decoder.data").write_bytes(b"codes and scalez")
    assert "is damaged" in run(capsys, "--against", "bits8", code=ExitCode.WEIGHTS)
    assert runtimes.opened == []


def test_variants_of_different_tokens_cannot_be_compared(runtimes, capsys):
    write_questions()
    manifest = read_variant(places.variants_dir() / "bits4").manifest
    language = replace(manifest.spec.language, vocab_size=400)
    folder = places.variants_dir() / "odd"
    write_variant(folder, spec=replace(manifest.spec, language=language))
    err = run(capsys, "--against", "odd", code=ExitCode.USAGE)
    assert "bits4 and odd have different tokens" in err
