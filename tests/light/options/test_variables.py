"""Values out of the environment, sizes without a unit, and what is written in spite of `-q`."""

import os

import pytest

from tests.light.toy_variant import make_open_backend, make_script, write_picture, write_variant
from tinyv_cli import app as app_module
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.commands import ask as ask_module
from tinyv_cli.disk.places import variants_dir
from tinyv_cli.errors import ExitCode, InputError
from tinyv_cli.pictures.image import read_picture


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TINYV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """The arguments that `ask` was run with; nothing is answered."""
    seen = []
    monkeypatch.setattr(ask_module, "answer_question", seen.append)
    return seen


SEP = os.pathsep


@pytest.mark.parametrize(
    ("value", "images"),
    [
        ("my cat.png", ["my cat.png"]),
        (f"my cat.png{SEP}/photos/a dog.jpg", ["my cat.png", "/photos/a dog.jpg"]),
        (f"{SEP}a.png{SEP}", ["a.png"]),
        ("a b.png\nc d.png\n", ["a b.png", "c d.png"]),
        ("https://example.org:8080/my%20cat.png", ["https://example.org:8080/my%20cat.png"]),
        ("https://example.org/a.png\nb:c.png", ["https://example.org/a.png", "b:c.png"]),
        ("data:image/png;base64,AAAA", ["data:image/png;base64,AAAA"]),
    ],
)
def test_pictures_of_the_variable_are_separated_as_paths_are(asked, monkeypatch, value, images):
    monkeypatch.setenv("TINYV_IMAGE", value)
    assert main(["ask", "what?"]) == ExitCode.OK
    assert asked[0].images == images


def test_a_file_with_the_separator_in_its_name_is_one(asked, monkeypatch, tmp_path):
    write_picture(tmp_path / "12:30.png")
    monkeypatch.setenv("TINYV_IMAGE", "12:30.png")
    assert main(["ask", "what?"]) == ExitCode.OK
    assert asked[0].images == ["12:30.png"]


@pytest.mark.parametrize(
    ("value", "stop"),
    [
        ("two words", ["two words"]),
        ("two words\nthree of them\n", ["two words", "three of them"]),
        ("a:b", ["a:b"]),
        (" ", [" "]),
    ],
)
def test_texts_of_the_variable_are_separated_by_lines(asked, monkeypatch, value, stop):
    monkeypatch.setenv("TINYV_STOP", value)
    assert main(["ask", "a.png", "what?"]) == ExitCode.OK
    assert asked[0].stop == stop


def test_a_flag_wins_over_the_variable_and_is_never_split(asked, monkeypatch):
    monkeypatch.setenv("TINYV_IMAGE", "my cat.png")
    monkeypatch.setenv("TINYV_STOP", "two words")
    assert main(["ask", "-i", f"a{SEP}b.png", "what?", "--stop", "x\ny"]) == ExitCode.OK
    assert (asked[0].images, asked[0].stop) == ([f"a{SEP}b.png"], ["x\ny"])


def test_the_help_says_how_several_values_are_separated():
    assert "TINYV_IMAGE" in app_module.NOTES
    assert "TINYV_STOP" in app_module.NOTES


@pytest.mark.parametrize("value", ["2", "8", "900", "0.5", " 16 "])
def test_a_budget_of_a_few_bytes_is_a_forgotten_unit(capsys, value):
    assert main(["ask", "a.png", "what?", "--memory-budget", value]) == ExitCode.USAGE
    problem, hint = capsys.readouterr().err.splitlines()
    assert problem == f"error: '{value}' is no value for --memory-budget"
    assert f"{value.strip()}GB or {value.strip()}MB" in hint


@pytest.mark.parametrize(
    ("value", "size_bytes"), [("2GB", 2_000_000_000), ("2B", 2), ("2000000000", 2_000_000_000)]
)
def test_a_budget_with_a_unit_or_of_many_bytes_is_taken(asked, value, size_bytes):
    assert main(["ask", "a.png", "what?", "--memory-budget", value]) == ExitCode.OK
    assert asked[0].memory_budget_bytes == size_bytes


@pytest.mark.parametrize("value", ["9" * 400, "9" * 400 + "GB", "1" + "0" * 30])
def test_a_budget_that_no_computer_has_is_refused(capsys, value):
    assert main(["ask", "a.png", "what?", "--memory-budget", value]) == ExitCode.USAGE
    assert "is no value for --memory-budget" in capsys.readouterr().err


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A variant that says `a cat`, and a picture."""
    write_variant(variants_dir() / "toy")
    write_picture(tmp_path / "cat.png")
    script = make_open_backend(make_script("a cat"))
    monkeypatch.setattr(backends, "open_backend", lambda *args: script(*args))


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--stats"], ["tokens"]),
        (["--show-prompt"], ["what is it?"]),
        (["-v"], ["tokens", "what is it?"]),
        ([], []),
    ],
)
def test_what_an_option_asks_for_is_written_though_it_is_quiet(capsys, flags, shown):
    assert main(["ask", "cat.png", "what is it?", "-q", *flags]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "a cat\n"
    assert all(text in err for text in shown)
    assert bool(err) == bool(shown)
    assert "note:" not in err


@pytest.mark.usefixtures("toy")
def test_a_batch_that_goes_on_with_another_default_names_its_own(capsys):
    words = ["batch", "cat.png", "what is it?", "-o", "lines.jsonl"]
    assert main(words) == ExitCode.OK
    write_variant(variants_dir() / "new er", made_s=4e9)
    capsys.readouterr()
    assert main(words) == ExitCode.USAGE
    problem, hint = capsys.readouterr().err.splitlines()[-2:]
    assert problem == "error: lines.jsonl was begun with other settings: model toy"
    assert hint.startswith("hint:  give `-m toy`, name another file")
    assert main([*words, "-m", "toy"]) == ExitCode.OK


def test_a_piped_picture_that_cannot_be_read_gets_a_command_without_a_name():
    with pytest.raises(InputError) as caught:
        read_picture(b"no picture")
    assert "`magick - png:- < PICTURE | tinyv ask - QUESTION`" in caught.value.hint
