import json

import pytest

from tests.golden import CASES, GOLDEN, needs_golden
from tinyv_cli.errors import InputError
from tinyv_cli.prompts.prompt import TEMPLATES, Turn, default_template, make_prompt

SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I "
    "provide it to you. Please answer my questions."
)


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_prompts_of_both_turns_are_the_published_ones(case):
    expected = json.loads((GOLDEN / case / "expected.json").read_text())
    turns = []
    for turn in expected["turns"]:
        prompt = make_prompt(TEMPLATES[expected["template"]], turns, turn["question"])
        assert prompt.text == turn["prompt"]
        turns.append(Turn(turn["question"], turn["answer"]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("human-system", SYSTEM + "###Human: <Img><ImageHere></Img> why?###Assistant: "),
        ("human", "###Human: <Img><ImageHere></Img> why?###Assistant: "),
        ("inst", "<s>[INST] <Img><ImageHere></Img> why? [/INST]"),
        ("train-inst", "<|endoftext|>[INST] <Img><ImageHere></Img> why?  [/INST]"),
    ],
)
def test_a_first_question(name, text):
    assert make_prompt(TEMPLATES[name], [], "why?").text == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("human-system", "yes###Human: b###Assistant: no###Human: c###Assistant: "),
        ("human", "yes###Human: b###Assistant: no###Human: c###Assistant: "),
        ("inst", "yes<s>[INST] b [/INST]no<s>[INST] c [/INST]"),
    ],
)
def test_further_questions_follow_the_answers(name, text):
    first = make_prompt(TEMPLATES[name], [], "a").text
    prompt = make_prompt(TEMPLATES[name], [Turn("a", "yes"), Turn("b", "no")], "c")
    assert prompt.text == first + text


def test_a_question_is_used_exactly_as_given():
    prompt = make_prompt(TEMPLATES["human"], [], "  [vqa] why?\n ")
    assert prompt.pieces == ("###Human: <Img>", "</Img>   [vqa] why?\n ###Assistant: ")


def test_a_users_placeholder_does_not_become_a_picture():
    turns = [Turn("<ImageHere> a", "<ImageHere> b")]
    pieces = make_prompt(TEMPLATES["human"], turns, "what is <ImageHere>?").pieces
    assert len(pieces) == 2
    assert pieces[1].count("<ImageHere>") == 3


def test_without_a_picture_its_marks_are_left_out():
    pieces = make_prompt(TEMPLATES["inst"], [], "why?", n_images=0).pieces
    assert pieces == ("<s>[INST] why? [/INST]",)


def test_two_pictures_stand_between_three_pieces():
    pieces = make_prompt(TEMPLATES["inst"], [], "same?", n_images=2).pieces
    assert pieces == ("<s>[INST] <Img>", "</Img> <Img>", "</Img> same? [/INST]")


@pytest.mark.parametrize("question", ["", " ", "\n\t "])
def test_a_blank_question_is_refused(question):
    with pytest.raises(InputError, match="blank"):
        make_prompt(TEMPLATES["human"], [], question)


def test_bytes_that_were_not_text_are_refused():
    with pytest.raises(InputError, match="not UTF-8") as caught:
        make_prompt(TEMPLATES["human"], [], "caf\udce9?")
    assert "character 3" in caught.value.problem


def test_each_stage_has_its_demos_template():
    assert [default_template(stage) for stage in (1, 2, 3, 4)] == ["human-system"] * 3 + ["inst"]
