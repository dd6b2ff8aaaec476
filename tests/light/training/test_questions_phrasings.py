import re
from collections import Counter
from itertools import pairwise
from string import Formatter

import pytest

from tests.light.training.question_reader import (
    N_SCENES,
    NUMBERS,
    find_called,
    find_names,
    strip_article,
    to_box,
    to_plain,
)
from weights.training.language.asking import Task
from weights.training.language.dialogues import make_conversation
from weights.training.language.phrasings import (
    PHRASINGS,
)
from weights.training.world.colours import BACKGROUND_COLOURS
from weights.training.world.splits import SPLITS, make_generator

# The largest share that one answer may have of a task's; guessing scores no more.
LARGEST_SHARES = {
    "what": 0.04,
    "colour": 0.16,
    "count": 0.3,
    "exists": 0.53,
    "relation": 0.22,
    "caption": 0.01,
    "refer": 0.01,
    "identify": 0.04,
    "detection": 0.01,
    "grounding": 0.01,
}


@pytest.mark.parametrize("task", Task.__args__)
def test_no_answer_is_right_often_enough_to_be_guessed(asked, task):
    answers = Counter(strip_article(each.answer) for _, each in asked[task])
    assert max(answers.values()) / answers.total() < LARGEST_SHARES[task]


@pytest.mark.parametrize("task", ["exists", "relation"])
def test_yes_and_no_are_as_common_as_each_other(asked, task):
    answers = Counter(each.answer for _, each in asked[task])
    assert abs(answers["yes"] / (answers["yes"] + answers["no"]) - 0.5) < 0.04


def test_every_number_and_colour_is_an_answer_often(asked):
    numbers = Counter(each.answer for _, each in asked["count"])
    assert set(numbers) == {"zero", "one", "two", "three", "four"}
    assert min(numbers.values()) > 0.08 * numbers.total()
    colours = Counter(each.answer for _, each in asked["colour"])
    assert set(colours) == set(BACKGROUND_COLOURS)
    assert min(colours.values()) > 0.04 * colours.total()


def test_every_phrasing_is_used_and_the_kept_ones_in_tests_only(examples):
    shares = {}
    for split in SPLITS:
        questions = [each for _, questions in examples[split] for each in questions]
        shares[split] = sum(each.is_held_out for each in questions) / len(questions)
    assert shares["train"] == shares["validation"] == 0
    assert 0.15 < shares["test"] < 0.35


def test_no_kept_phrasing_is_asked_in_training(examples):
    def to_pattern(phrasing):
        pieces = [re.escape(text) + (".+" if name else "") for text, name, *_ in parse(phrasing)]
        return re.compile("".join(pieces).removesuffix("\\?").removesuffix("\\."), re.IGNORECASE)

    def parse(phrasing):
        return Formatter().parse(phrasing.rstrip("?."))

    texts = {
        task: {
            to_plain(each.question)
            for _, qs in examples["train"]
            for each in qs
            if each.task == task
        }
        for task in ("caption", "grounding", "colour", "what")
    }
    groups = {"caption": "caption", "grounding": "grounding", "colour": "colour of background"}
    for task, group in groups.items():
        for phrasing in PHRASINGS[group].held_out:
            assert not any(to_pattern(phrasing).fullmatch(text) for text in texts[task]), phrasing


def test_there_are_many_phrasings_and_none_stands_twice_in_a_group():
    for group, phrasings in PHRASINGS.items():
        every = phrasings.usual + phrasings.held_out
        assert len({text.rstrip("?.") for text in every}) == len(every), group
        assert len(phrasings.usual) >= 3
        assert phrasings.held_out
    assert sum(len(each.usual) for each in PHRASINGS.values()) >= 100


def find_words_of(phrasings):
    text = re.sub(r"\{\w+\}", "", " ".join(phrasings)).lower()
    return set(re.findall(r"[a-z']+", text))


def test_a_kept_phrasing_holds_only_words_that_training_knows():
    known = find_words_of(text for each in PHRASINGS.values() for text in each.usual)
    for group, each in PHRASINGS.items():
        assert find_words_of(each.held_out) <= known, group


def test_a_conversation_has_two_to_four_turns_and_repeats_none(examples):
    lengths = Counter()
    for i, (scene, _) in enumerate(examples["train"]):
        turns = make_conversation(scene, make_generator("train", 9, i))
        lengths[len(turns)] += 1
        assert len({question for question, _ in turns}) == len(turns)
    assert set(lengths) == {2, 3, 4}
    assert min(lengths.values()) > 0.2 * N_SCENES


FOLLOW_UP = re.compile(r"\b(it|its|them)\b|^how many( are there)?$|^and ")


def test_a_later_turn_speaks_of_what_was_spoken_of_before(examples):
    n_follow_ups = 0
    for i, (scene, _) in enumerate(examples["train"]):
        turns = make_conversation(scene, make_generator("train", 9, i))
        if FOLLOW_UP.search(to_plain(turns[1][0])):
            n_follow_ups += 1
            check_follow_up(scene, turns)
        assert not FOLLOW_UP.search(to_plain(turns[0][0]))
    assert n_follow_ups > 0.4 * N_SCENES


def check_follow_up(scene, turns):
    (question, answer), (_, later) = turns[:2]
    names = find_names(to_plain(question)) or [strip_article(answer)]
    called = find_called(scene, names[0])
    if later in NUMBERS:
        assert answer == "yes"
        assert NUMBERS[later] == len(called) > 1
        return
    (one,) = called
    if later.startswith("{"):
        assert later == to_box(one.box_percent)
    else:
        assert later == (one.colour or scene.background.colour)


def test_the_same_state_gives_the_same_conversation_and_another_one_another(examples):
    scene, _ = examples["train"][0]
    talks = [make_conversation(scene, make_generator("train", 2, i)) for i in (0, 0, 1, 2, 3)]
    assert talks[0] == talks[1]
    assert any(one != other for one, other in pairwise(talks[1:]))
