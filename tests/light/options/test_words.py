"""Half a command line, and words of other programs: what is missing or was meant is said.

Collected from a new user's first half hour.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.light.toy_variant import write_picture, write_variant
from tinyv_cli.app import main
from tinyv_cli.errors import ExitCode
from tinyv_cli.pictures.names import find_meant

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "cat.jpg")
    (tmp_path / "photos").mkdir()
    write_picture(tmp_path / "photos" / "IMG_0001.JPG")
    return tmp_path


def fail(capsys, *words):
    """Exit code, problem and hint of a command line that cannot be meant so."""
    code = main(list(words))
    out, err = capsys.readouterr()
    problem, hint = err.splitlines()
    assert out == ""
    return code, problem.removeprefix("error: "), hint.removeprefix("hint:  ")


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        (
            ["ask", "what is this?"],
            "the picture is missing: 'what is this?' is no file",
            "name it before the question: `tinyv ask PICTURE 'what is this?'`",
        ),
        (
            ["ask", "describe"],
            "the picture is missing: describe is no file",
            "name it before the question: `tinyv ask PICTURE describe`",
        ),
        (
            ["ask", "cat.jpg"],
            "the question is missing, which comes last",
            'ask something: `tinyv ask cat.jpg "what is it?"`',
        ),
        (
            ["ask", "bird.png"],  # not there, but called as a picture is
            "the question is missing, which comes last",
            'ask something: `tinyv ask bird.png "what is it?"`',
        ),
        (
            ["ask", "-i", "cat.jpg", "-i", "a b.png"],
            "the question is missing, which comes last",
            "ask something: `tinyv ask cat.jpg 'a b.png' \"what is it?\"`",
        ),
        (
            ["ask", "https://me:secret@example.org/a.png?token=x"],
            "the question is missing, which comes last",
            "ask something: `tinyv ask ",
        ),
        (
            ["batch", "photos", "-o", "x"],
            "the prompt is missing, which comes last",
            'ask something: `tinyv batch photos "what is it?" -o FILE.jsonl`',
        ),
        (
            ["batch", "-o", "x", "-r", "--seed", "3", "photos"],
            "the prompt is missing, which comes last",
            'ask something: `tinyv batch photos "what is it?" -o FILE.jsonl`',
        ),
        (
            ["batch", "-o", "x", "--", "what is it?"],
            "the pictures are missing: 'what is it?' is no file or folder",
            "name them before the prompt: `tinyv batch FOLDER 'what is it?' -o FILE.jsonl`",
        ),
        (
            ["batch", "-o", "x"],
            "the pictures and the prompt are missing",
            'name both: `tinyv batch FOLDER "what is it?" -o FILE.jsonl`',
        ),
        (
            ["batch", "photos", "what is it?"],
            "the file for the answers is missing",
            "name one: `-o answers.jsonl`; `-o -` is stdout",
        ),
        (["eval"], "the file of questions is missing", "name it: `tinyv eval questions.jsonl`"),
        (["ask"], "the picture and question are missing", "name them: `tinyv ask PICTURE"),
    ],
)
def test_half_a_command_line_is_told_which_half_is_missing(capsys, words, problem, hint):
    code, found, way_out = fail(capsys, *words)
    assert code == ExitCode.USAGE
    assert found == problem
    assert way_out.startswith(hint)
    assert "secret" not in way_out


def run(*words, **stdin):
    return subprocess.run(
        [sys.executable, "-m", "tinyv_cli", *words],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        **stdin,
    )


def test_without_a_pipe_the_missing_question_is_told():
    done = run("ask", "cat.jpg", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert done.stderr.startswith("error: the question is missing")


def test_with_a_pipe_it_is_read():
    done = run("ask", "cat.jpg", "-m", "none", input="what is it?\n")
    assert done.returncode == ExitCode.WEIGHTS  # the words were complete


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["ls"], ["list"]),
        (["ls", "--json"], ["list", "--json"]),
        (["help"], ["--help"]),
        (["help", "ask"], ["ask", "--help"]),
        (["version"], ["--version"]),
        (["-V"], ["--version"]),
    ],
)
def test_a_word_that_can_mean_only_one_thing_is_it(capsys, words, same):
    answers = []
    for line in (words, same):
        assert main(line) == ExitCode.OK
        answers.append(capsys.readouterr())
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("run", "did you mean `tinyv ask PICTURE PROMPT`, or `tinyv chat PICTURE`?"),
        ("ps", "nothing runs between two commands; `tinyv list`"),
        ("remove", "did you mean `tinyv rm NAME`?"),
        ("quantise", "did you mean `tinyv quantize`?"),
        ("caht", "did you mean `tinyv chat`?"),
        ("cat.jpg", "ask about a picture with `tinyv ask cat.jpg PROMPT`"),
        ("chat.png", "ask about a picture with `tinyv ask chat.png PROMPT`"),
        ("sing", "`tinyv --help` lists the commands"),
    ],
)
def test_a_verb_of_another_program_gets_a_suggestion(capsys, word, hint):
    code, problem, way_out = fail(capsys, word, "x")
    assert (code, problem) == (ExitCode.USAGE, f"there is no command '{word}'")
    assert way_out.startswith(hint)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["-v"], "--version"),
        (["ask", "-V"], "-v"),
        (["ask", "-Q"], "-q"),
        (["ask", "--temperature", "1"], "--temp"),
        (["ask", "--tem", "1"], "--temp"),
        (["ask", "--templat", "x"], "--template"),
        (["ask", "--top_p", "1"], "--top-p"),
        (["ask", "--Max-Tokens", "1"], "--max-tokens"),
        (["ask", "--max-new-tokens", "1"], "--max-tokens"),
        (["ask", "--n-predict", "1"], "--max-tokens"),
        (["ask", "--num-ctx", "1"], "--ctx-size"),
        (["ask", "--images", "a"], "--image"),
        (["ask", "--gpu"], "--device cuda"),
        (["batch", "--recursiv"], "--recursive"),
    ],
)
def test_an_option_of_another_program_gets_a_suggestion(capsys, words, meant):
    code, problem, hint = fail(capsys, *words)
    assert (code, hint) == (ExitCode.USAGE, f"did you mean {meant}?")
    assert problem.startswith("there is no option -")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cta.jpg", "cat.jpg"),
        ("Cat.JPG", "cat.jpg"),
        ("cat.jpeg", "cat.jpg"),
        ("cat", "cat.jpg"),
        ("photos/img_001.jpg", "photos/IMG_0001.JPG"),
        ("example.org/cat.png", "https://example.org/cat.png"),
        ("www.example.org", "https://www.example.org"),
        ("localhost.test:8080/a", "https://localhost.test:8080/a"),
        ("elephant.gif", None),
        ("nowhere/cat.jpg", None),
        ("x" * 300, None),
    ],
)
def test_a_name_that_is_not_there_gets_the_one_that_is(name, meant):
    assert find_meant(Path(name)) == meant


@pytest.mark.parametrize("verb", [["ask"], ["batch", "-o", "-"]])
@pytest.mark.parametrize("name", ["cta.jpg", "example.org/cat.png"])
def test_the_suggestion_is_the_hint(capsys, verb, name, tmp_path):
    write_variant(tmp_path / "home" / "variants" / "v")
    code, problem, hint = fail(capsys, *verb, name, "what is it?")
    assert code == ExitCode.INPUT
    assert problem.endswith(name)
    assert hint == f"did you mean {find_meant(Path(name))}?"


def test_the_hint_about_a_file_of_questions_is_not_what_was_typed(capsys, tmp_path):
    code, problem, hint = fail(capsys, "eval", "questions.jsonl")
    assert (code, problem) == (ExitCode.INPUT, "there is no file questions.jsonl")
    assert hint.startswith('write a question a line into it: `{"picture": "cat.png"')
    (tmp_path / "question.jsonl").write_text("{}")
    assert fail(capsys, "eval", "questions.jsonl")[2] == "did you mean question.jsonl?"
