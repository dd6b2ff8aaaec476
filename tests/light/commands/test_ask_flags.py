"""`tinyv ask` with several pictures, tasks, boxes, choices and drawings; a script answers."""

import json

import pytest
from PIL import Image

from tests.light.toy_variant import make_open_backend, make_script, write_picture, write_variant
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode

BOX = "{<10><20><50><60>}"


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Runs `tinyv ask` in a folder with two pictures; the runtime says these texts in turn."""
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("cat.png", "dog.png"):
        write_picture(tmp_path / name)
    write_variant(places.variants_dir() / "toy")

    def run(*words, says=("yes",)):
        script = [step for text in says for step in make_script(text)]
        monkeypatch.setattr(backends, "open_backend", make_open_backend(script))
        code = main(["ask", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def read_prompt(err):
    return err.splitlines()[0]


def test_several_pictures_are_asked_the_same_and_each_answer_names_its_own(ask):
    assert ask("cat.png", "dog.png", "what?", says=["a cat", "a dog"]) == (
        ExitCode.OK,
        "cat.png: a cat\ndog.png: a dog\n",
        "",
    )
    code, out, _ = ask("cat.png", "dog.png", "what?", "--json", says=["a cat", "a dog"])
    documents = [json.loads(line) for line in out.splitlines()]
    assert code == ExitCode.OK
    assert [(d["picture"], d["answer"]) for d in documents] == [
        ("cat.png", "a cat"),
        ("dog.png", "a dog"),
    ]


def test_a_second_picture_that_cannot_be_read_is_said_before_anything_is_answered(ask):
    code, out, err = ask("cat.png", "fish.png", "what?")
    assert (code, out) == (ExitCode.INPUT, "")
    assert "fish.png" in err


def test_a_task_puts_its_tag_before_the_question(ask):
    _, _, err = ask("cat.png", "what colour?", "--task", "vqa", "--show-prompt")
    assert "<ImageHere></Img> [vqa] what colour?###" in read_prompt(err)
    code, out, err = ask("cat.png", "--task", "caption", "--show-prompt", says=["a cat"])
    assert (code, out) == (ExitCode.OK, "a cat\n")
    assert "[caption] please describe this image###" in read_prompt(err)


def test_a_place_in_pixels_or_shares_becomes_a_box_of_the_question(ask, tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    for place in ("0.1,0.2,0.5,0.6", "20,20,100,60"):
        _, _, err = ask("wide.png", "--at", place, "--show-prompt")
        assert f"[identify] what is this {BOX}###" in read_prompt(err)
    code, _, err = ask("wide.png", "--at", "20,20,300,60")
    assert code == ExitCode.USAGE
    assert "200×100" in err


def test_boxes_are_in_the_document_in_shares_and_pixels(ask, tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    _, out, _ = ask("wide.png", "a cat", "--task", "refer", "--json", says=[BOX])
    assert json.loads(out)["boxes"] == [
        {"label": "", "box": [0.1, 0.2, 0.5, 0.6], "pixels": [20, 20, 100, 60]}
    ]


def test_a_person_is_told_where_boxes_are_and_a_program_gets_the_numbers(ask, monkeypatch):
    raw = "<p>a cat</p> {<10><20><50><60>}"
    assert ask("cat.png", "where?", says=[raw])[1] == f"{raw}\n"
    monkeypatch.setattr("tinyv_cli.commands.ask.is_terminal", lambda _: True)
    code, out, err = ask("cat.png", "where?", says=[raw])
    assert (code, out) == (0, "a cat (left: 10-50 % across, 20-60 % down)\n")
    assert "note: `--draw FILE.png` draws it\n" in err
    _, out, err = ask("cat.png", "where?", "--draw", "b.png", "-q", says=[raw])
    assert "`--draw FILE.png`" not in err
    choices = ("--choices", f"{raw},no")
    assert ask("cat.png", "where?", *choices, says=[raw])[1] == f"{raw}\n"


def test_boxes_are_drawn_into_a_file(ask, tmp_path):
    Image.new("RGB", (400, 400), "white").save(tmp_path / "white.png")
    code, out, _ = ask("white.png", "where?", "--draw", "out.png", says=[BOX])
    assert (code, out) == (ExitCode.OK, f"{BOX}\n")
    drawn = Image.open(tmp_path / "out.png").convert("RGB")
    assert drawn.getpixel((39, 160)) != (255, 255, 255)
    assert drawn.getpixel((300, 350)) == (255, 255, 255)
    _, _, err = ask("white.png", "where?", "--draw", "no.png", says=["nowhere"])
    assert "the answer holds no box" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["cat.png", "dog.png", "where?", "--draw", "o.png"], ExitCode.USAGE, "one picture"),
        (["cat.png", "where?", "--draw", "cat.png"], ExitCode.USAGE, "would be lost"),
        (["cat.png", "where?", "--draw", "out.txt"], ExitCode.USAGE, "suffix"),
        (["cat.png", "where?", "--show"], ExitCode.USAGE, "needs a terminal"),
        (["cat.png", "what?", "--system", "be brief"], ExitCode.USAGE, "no system prompt"),
        (["cat.png", "what?", "--task", "poem"], ExitCode.USAGE, "there is no task poem"),
        (["cat.png", "w?", "--choices", "a,b", "--schema", "{}"], ExitCode.USAGE, "exclude"),
        (["cat.png", "w?", "--choices", "a,b", "--stop", "x"], ExitCode.USAGE, "--stop could"),
        (["cat.png", "w?", "--choices", "a,,b"], ExitCode.USAGE, "empty choice"),
        (["cat.png", "w?", "--schema", "nowhere.json"], ExitCode.INPUT, "cannot be read"),
        (["cat.png", "w?", "--stop", ""], ExitCode.USAGE, "--stop is empty"),
        (["ftp://x/cat.png", "what?"], ExitCode.INPUT, "ftp://"),
        (["http://127.0.0.1:9/c.png", "what?"], ExitCode.INPUT, "allow-private"),
        (["https://example.org/c.png", "what?", "--offline"], ExitCode.INPUT, "--offline"),
    ],
)
def test_what_cannot_be_is_said_before_the_model_is_opened(ask, words, code, said, monkeypatch):
    found, out, err = ask(*words, says=["never said"])
    assert (found, out) == (code, "")
    assert said in err


def test_a_stop_text_ends_the_answer(ask):
    assert ask("cat.png", "what?", "--stop", " and", says=["a cat and a dog"])[1] == "a cat\n"


def test_quiet_leaves_notes_out_and_verbose_tells_prompt_and_times(ask):
    assert ask("cat.png", "where?", "--draw", "o.png", "-q", says=["no"]) == (0, "no\n", "")
    _, out, err = ask("cat.png", "what?", "-v")
    assert out == "yes\n"
    assert "<ImageHere>" in err
    assert "first token" in err


def test_several_pictures_can_stand_in_one_prompt(ask):
    code, out, err = ask("cat.png", "dog.png", "the same?", "--together", "--show-prompt")
    assert (code, out) == (ExitCode.OK, "yes\n")
    assert read_prompt(err).count("<Img><ImageHere></Img>") == 2


def test_a_question_without_quotes_is_put_right(ask):
    code, out, err = ask("cat.png", "dog.png", "what", "is", "this?")
    assert (code, out) == (ExitCode.INPUT, "")
    assert err == (
        "error: there is no file what\n"
        "hint:  put the question in quotes: `tinyv ask cat.png dog.png 'what is this?'`\n"
    )
    assert "check its name" in ask("cat.png", "fish.png", "dog.png", "what?")[2]
