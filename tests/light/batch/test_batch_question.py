"""`tinyv batch` asks as `ask` does: tasks, boxes, choices and schemas."""

import json

import pytest
from PIL import Image

from tests.light.batch.test_batch import echo, put_on_stdin, run  # noqa: F401 - a fixture
from tests.light.batch.test_batch_program import read_lines
from tinyv_cli.app import main
from tinyv_cli.errors import ExitCode

pytestmark = pytest.mark.usefixtures("place")


def ask(capsys, *words):
    assert main(["ask", *words, "-m", "bits4", "-n", "5", "--json"]) == ExitCode.OK
    return json.loads(capsys.readouterr().out)["answer"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--task", "caption"],
        ["--at", "0.1,0.2,0.5,0.9"],
        ["--at", "1,1,5,6"],  # pixels: of each picture its own shares
        ["--choices", "yes,no", "--task", "grounding"],
        ["--schema", '{"type": "boolean"}', "--task", "caption"],
    ],
)
def test_without_a_prompt_each_is_asked_what_ask_would_ask(capsys, flags):
    Image.new("RGB", (40, 20), "green").save("bird.png")
    run(capsys, "dog.png", "bird.png", *flags)
    lines = read_lines()
    assert [each["path"] for each in lines] == ["dog.png", "bird.png"]
    assert [each["answer"] for each in lines] == [
        ask(capsys, name, *flags) for name in ("dog.png", "bird.png")
    ]
    if "--choices" in flags:
        assert {each["answer"] for each in lines} <= {"yes", "no"}
    if "--schema" in flags:
        assert {each["answer"] for each in lines} <= {"true", "false"}


def test_a_task_and_a_prompt_go_together(capsys):
    run(capsys, "cat.png", "the cat", "--task", "refer")
    assert read_lines()[0]["answer"] == ask(capsys, "cat.png", "[refer] the cat")


def test_with_a_task_a_folder_a_pattern_and_a_list_may_stand_alone(capsys, place, monkeypatch):
    (place / "album").mkdir()
    (place / "cat.png").rename(place / "album" / "cat.png")
    run(capsys, "album", "--task", "caption", output="one.jsonl")
    run(capsys, "album", "*.png", "--task", "caption", output="two.jsonl")
    put_on_stdin(monkeypatch, b"album/cat.png\n")
    run(capsys, "-", "--task", "caption", output="three.jsonl")
    first, second, third = (read_lines(f"{name}.jsonl") for name in ("one", "two", "three"))
    assert first == third == second[:1]
    assert second[1]["path"] == "dog.png"


def test_a_box_beside_a_small_picture_is_that_pictures_error(capsys):
    Image.new("RGB", (400, 200)).save("large.png")
    run(capsys, "dog.png", "large.png", "--at", "100,50,200,100", code=ExitCode.BATCH)
    small, large = read_lines()
    assert "lies outside the picture, which is 9×9 pixels" in small["error"]["problem"]
    assert large["answer"] == ask(capsys, "large.png", "--at", "100,50,200,100")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--task", "capton"], "there is no task capton"),
        (["--task", "vqa"], "the task vqa needs words"),
        (["--at", "0.1,0.2"], "not four numbers"),
        (["--at", "0,0,1,1", "--task", "caption"], "--at puts a box into an [identify] question"),
        (["--task", "caption", "--choices", "a,b", "--schema", "{}"], "exclude each other"),
        (["--task", "caption", "--choices", "a,a"], "--choices"),
    ],
)
def test_what_cannot_be_asked_is_said_before_a_file_is_begun(capsys, place, flags, problem):
    assert problem in run(capsys, "cat.png", *flags, code=ExitCode.USAGE)
    assert not list(place.glob("out*"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--task", "grounding"], "task caption"),
        (["--task", "caption", "--choices", "a,b"], "choices unset"),
        (["--task", "caption", "--schema", "{}"], "schema unset"),
        (["--at", "0,0,1,1"], "task caption, at unset"),
    ],
)
def test_another_task_or_form_is_another_batch(capsys, flags, told):
    run(capsys, "cat.png", "--task", "caption")
    err = run(capsys, "cat.png", *flags, code=ExitCode.USAGE)
    assert f"error: out.jsonl was begun with other settings: {told}\n" in err
