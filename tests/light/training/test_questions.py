"""Reads every question and answer as text again and holds it against the scene's numbers."""

import re
from collections import Counter

from tests.light.training.question_reader import (
    N_SCENES,
    NAMES,
    NUMBERS,
    find_called,
    find_names,
    make_scene_of,
    put,
    read_boxes,
    split_tag,
    strip_article,
    to_box,
    to_plain,
)
from weights.training.language.asking import Task
from weights.training.language.questions import make_questions
from weights.training.language.wording import make_caption, make_grounded_caption
from weights.training.world.splits import make_generator

TAGS = {task: {task} for task in ("caption", "refer", "identify", "detection", "grounding")}
TAGS |= {task: {"vqa", ""} for task in ("what", "colour", "count", "exists", "relation")}
TAGS["caption"].add("")


def test_a_scene_is_asked_of_each_task_once_at_most_and_most_tasks_always(examples):
    for scene, questions in examples["train"]:
        tasks = [each.task for each in questions]
        assert len(set(tasks)) == len(tasks) >= 7
        assert set(tasks) <= set(Task.__args__)
        if len(scene.objects) == 1:
            assert "relation" not in tasks
            assert {"what", "refer", "identify"} <= set(tasks)


def test_every_task_is_asked_often(asked):
    assert set(asked) == set(Task.__args__)
    assert min(len(questions) for questions in asked.values()) > 0.4 * 3 * N_SCENES


def test_a_question_carries_its_tag_and_says_nothing_twice(asked):
    for task, questions in asked.items():
        tags = set()
        for _, each in questions:
            tag, text = split_tag(each.question)
            tags.add(tag)
            assert text == text.strip() != ""
            assert "  " not in text
            assert not re.search(r"\{[a-z]|None", each.question + each.answer)
            assert each.answer == each.answer.strip() != ""
        assert tags == TAGS[task]


def test_the_tag_vqa_asks_for_a_bare_answer(asked):
    for task in ("what", "colour", "count", "exists", "relation"):
        for _, each in asked[task]:
            if each.question.startswith("[vqa]"):
                assert not re.match(r"(an|a|the) ", each.answer), each


def test_what_is_asked_for_is_there(asked):
    for scene, each in asked["what"]:
        kinds = [item.kind for item in scene.objects]
        names = find_names(to_plain(each.question))
        answer = strip_article(each.answer)
        if names:
            (known,) = find_called(scene, names[0])
            (other,) = [item for item in scene.objects if item is not known]
            assert answer == other.kind != known.kind
        elif len(kinds) == 1:
            assert answer == kinds[0]
        else:
            assert answer == scene.objects[0].plural
            assert len(set(kinds)) == 1


def test_a_colour_is_that_of_the_objects_named_or_of_the_background(asked):
    for scene, each in asked["colour"]:
        names = find_names(to_plain(each.question))
        if names:
            assert {item.colour for item in find_called(scene, names[0])} == {each.answer}
        else:
            assert "background" in each.question
            assert each.answer == scene.background.colour


def test_a_number_is_that_of_the_objects_named(asked):
    for scene, each in asked["count"]:
        names = find_names(to_plain(each.question))
        n_objects = len(find_called(scene, names[0])) if names else len(scene.objects)
        assert names or re.search(r"\b(objects|things)\b", each.question)
        assert NUMBERS[each.answer] == n_objects


def test_yes_and_no_say_whether_the_object_named_is_there(asked):
    for scene, each in asked["exists"]:
        (name,) = find_names(to_plain(each.question))
        assert each.answer == ("yes" if find_called(scene, name) else "no")


def test_no_is_also_the_answer_for_a_colour_that_what_is_there_does_not_have(asked):
    hard = [
        each
        for scene, each in asked["exists"]
        for name in find_names(to_plain(each.question))
        if each.answer == "no" and any(NAMES[name][0] == item.kind for item in scene.objects)
    ]
    assert len(hard) > 0.04 * len(asked["exists"])


CAPTION = re.compile(r"(?P<objects>.+) on a (?P<background>\w+) background")


def read_caption(caption):
    """Names and numbers of a caption, and its background."""
    found = CAPTION.fullmatch(caption)
    numbers = {}
    for phrase in re.split(r", | and ", found["objects"]):
        number, name = phrase.split(" ", 1)
        numbers[NAMES[name]] = NUMBERS[number]
    return numbers, found["background"]


def test_a_caption_names_every_object_with_its_number_and_nothing_else(asked):
    for scene, each in asked["caption"]:
        numbers, background = read_caption(each.answer)
        assert numbers == Counter((item.kind, item.colour) for item in scene.objects)
        assert background == scene.background.colour


def test_a_caption_reads_like_one():
    cats = (put("cat", box=(50, 0, 90, 40)), put("cat", box=(20, 50, 60, 90)))
    car = put("car", "red", box=(30, 0, 50, 40))
    assert make_caption(make_scene_of(cats[0], car, cats[1])) == (
        "two cats and a red car on a green background"
    )
    assert make_caption(make_scene_of(put("apple"), put("octopus"), put("fish"))) == (
        "an apple, an octopus and a fish on a green background"
    )
    assert make_grounded_caption(make_scene_of(cats[0], car, cats[1])) == (
        "<p>two cats</p> {<20><50><60><90>}<delim>{<50><0><90><40>} and "
        "<p>a red car</p> {<30><0><50><40>} on a green background"
    )


def test_grounding_is_the_caption_with_the_boxes_of_each_phrase(asked):
    for scene, each in asked["grounding"]:
        phrases = re.findall(r"<p>(.+?)</p> (\S+?)(?=,? |$)", each.answer)
        assert re.sub(r"</?p>| \{\S+\}(?=,)| \{[^ ]+\}", "", each.answer) == make_caption(scene)
        for phrase, boxes in phrases:
            number, name = phrase.split(" ", 1)
            called = find_called(scene, name)
            assert len(called) == NUMBERS[number]
            assert read_boxes(boxes) == sorted(item.box_percent for item in called)
        assert len(read_boxes(each.answer)) == len(scene.objects)


def test_detection_gives_the_boxes_of_all_that_are_named_from_left_to_right(asked):
    for scene, each in asked["detection"]:
        (asked_name,) = find_names(to_plain(each.question))
        found = re.fullmatch(r"<p>(.+)</p> (\S+)", each.answer)
        assert NAMES[found[1]] == NAMES[asked_name]
        assert find_called(scene, found[1])
        boxes = sorted(item.box_percent for item in find_called(scene, found[1]))
        assert "<delim>".join(to_box(box) for box in boxes) == found[2]


def test_identify_names_the_object_whose_box_is_given(asked):
    for scene, each in asked["identify"]:
        (box,) = read_boxes(each.question)
        fitting = [item for item in scene.objects if item.box_percent == box]
        assert {item.name for item in fitting} == {strip_article(each.answer)}


def test_a_box_that_fits_two_objects_about_as_well_is_not_asked_about():
    hammer, moon = put("hammer", box=(32, 0, 68, 34)), put("moon", box=(35, 4, 68, 33))
    pizza = put("pizza", box=(53, 30, 90, 69))
    for i in range(20):
        generator = make_generator("train", 0, i)
        questions = make_questions(make_scene_of(hammer, moon, pizza), generator)
        (identify,) = [each for each in questions if each.task == "identify"]
        assert identify.answer == "a pizza"
    questions = make_questions(make_scene_of(hammer, moon), generator)
    assert "identify" not in {each.task for each in questions}
