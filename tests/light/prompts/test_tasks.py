import pytest

from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.prompts.boxes import Box, read_boxes
from tinyv_cli.prompts.tasks import (
    DEFAULT_WORDS,
    TASKS,
    check_task,
    make_question,
    read_corners,
    to_box,
)

BOX = Box("", 0.12, 0.05, 0.6, 0.88)
NOTATION = "{<12><5><60><88>}"


def test_without_task_and_box_a_question_is_passed_on_as_typed():
    for words in ("what is it?", "  [vqa]  why?\n", "[VQA] x", "[caption]", "[other] a", NOTATION):
        assert make_question(words) == words


@pytest.mark.parametrize("task", ["vqa", "caption", "refer", "grounding", "detection"])
def test_a_task_puts_its_tag_and_one_space_before_the_words(task):
    assert make_question("the red car", task) == f"[{task}] the red car"
    assert make_question("  the red car ", task) == f"[{task}] the red car "


def test_a_tag_that_is_there_already_is_not_put_twice():
    assert make_question("[vqa] what?", "vqa") == "[vqa] what?"
    assert make_question(" [VQA]what?", "vqa") == "[vqa] what?"


def test_a_bracket_that_is_no_tag_is_part_of_the_words():
    assert make_question("[sic] what?", "vqa") == "[vqa] [sic] what?"


def test_a_tag_of_another_task_is_refused():
    with pytest.raises(UsageError) as caught:
        make_question("[refer] the car", "vqa")
    assert caught.value.problem == "--task vqa is given, and the question begins with [refer]"
    assert "`--task refer`" in caught.value.hint


def test_a_task_alone_asks_what_it_was_taught_with():
    assert make_question(None, "caption") == "[caption] please describe this image"
    assert make_question("[caption] ", "caption") == "[caption] please describe this image"
    assert make_question(None, "grounding") == "[grounding] describe this image in detail"
    assert make_question(None, "identify", BOX) == f"[identify] what is this {NOTATION}"
    assert make_question(None, None, BOX) == f"[identify] what is this {NOTATION}"


@pytest.mark.parametrize("task", sorted(set(TASKS) - set(DEFAULT_WORDS)))
def test_a_task_that_asks_nothing_by_itself_needs_words(task):
    with pytest.raises(UsageError) as caught:
        make_question(None, task)
    assert caught.value.problem == f"the task {task} needs words"
    assert f"tinyv ask --task {task} PICTURE" in caught.value.hint


def test_blank_words_are_no_question_with_a_task_or_without():
    for arguments in ((None,), ("",), (" \n",), ("", "caption"), (" ", None, BOX)):
        with pytest.raises(InputError) as caught:
            make_question(*arguments)
        assert caught.value.problem == "the question is blank"


def test_a_box_stands_behind_the_words_of_an_identify_question():
    for words in ("what is this", "[identify] what is this", "[identify]what is this \n"):
        assert make_question(words, None, BOX) == f"[identify] what is this {NOTATION}"
        assert make_question(words, "identify", BOX) == f"[identify] what is this {NOTATION}"


def test_a_box_in_the_words_will_do():
    assert make_question(f"what? {NOTATION}", "identify") == f"[identify] what? {NOTATION}"


def test_a_box_goes_with_no_other_task():
    for words, task in (("what?", "vqa"), ("[refer] a", None), (None, "caption")):
        with pytest.raises(UsageError) as caught:
            make_question(words, task, BOX)
        assert "[identify] question" in caught.value.problem


def test_two_boxes_are_one_too_many_and_none_is_one_too_few():
    with pytest.raises(UsageError, match="gives another"):
        make_question(f"what is {NOTATION}", None, BOX)
    with pytest.raises(UsageError, match="there is no box") as caught:
        make_question("what is this", "identify")
    assert "--at 0.1,0.2,0.5,0.9" in caught.value.hint


def test_a_misspelt_task_is_told_which_was_meant():
    with pytest.raises(UsageError) as caught:
        make_question("x", "indentify")
    assert caught.value.problem == "there is no task indentify"
    assert caught.value.hint == "did you mean `--task identify`?"
    with pytest.raises(UsageError) as caught:
        check_task("[VQA]")
    assert "`--task vqa`" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        check_task("zzz")
    assert "detection" in caught.value.hint


def test_shares_are_shares_of_any_picture():
    assert to_box(read_corners("0.12,0.05, 0.6 0.88"), 640, 480) == BOX
    assert to_box(read_corners("0,0,1,1"), 640, 480) == Box("", 0, 0, 1, 1)


def test_one_number_above_one_makes_all_four_pixels():
    assert to_box(read_corners("64,0,320,480"), 640, 480) == Box("", 0.1, 0, 0.5, 1)
    assert to_box(read_corners("0,0,1,2"), 4, 4) == Box("", 0, 0, 0.25, 0.5)
    assert to_box(read_corners("1.5,0,3,2"), 4, 4) == Box("", 0.375, 0, 0.75, 0.5)


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("", "--at is '', not four numbers", "--at 0.1,0.2,0.5,0.9"),
        ("1,2,3", "not four numbers", "--at 0.1,0.2,0.5,0.9"),
        ("1,2,3,4,5", "not four numbers", "--at 0.1,0.2,0.5,0.9"),
        ("a,b,c,d", "not four numbers", "left, top, right and bottom"),
        ("0,0,nan,1", "not four numbers", "left, top, right and bottom"),
        ("0,0,inf,1", "not four numbers", "left, top, right and bottom"),
        ("-3,2,30,40", "not below 0", "`--at 0,2,30,40`"),
        ("5,2,5,40", "a box of no width", "left, top"),
        ("5,2,6,2", "a box of no height", "left, top"),
        ("30,40,3,4", "its corners are swapped", "`--at 3,4,30,40`"),
        ("0.5,0.1,0.2,0.9", "its corners are swapped", "`--at 0.2,0.1,0.5,0.9`"),
    ],
)
def test_what_is_no_box_is_told_with_a_way_out(text, problem, hint):
    with pytest.raises(UsageError) as caught:
        read_corners(text)
    assert problem in caught.value.problem
    assert hint in caught.value.hint


def test_pixels_outside_the_picture_are_told_with_its_size_and_a_box_inside():
    with pytest.raises(UsageError) as caught:
        to_box((600, 10, 700, 90), 640, 480)
    assert "640×480 pixels upright" in caught.value.problem
    assert caught.value.hint == "stay inside: `--at 600,10,640,90`"
    with pytest.raises(UsageError) as caught:
        to_box((700, 500, 800, 600), 640, 480)
    assert caught.value.hint == "stay inside: `--at 639,479,640,480`"


def test_shares_and_pixels_do_not_mix():
    with pytest.raises(UsageError) as caught:
        to_box(read_corners("0.1,0.2,300,400"), 640, 480)
    assert "mixes shares" in caught.value.problem
    assert "640×480" in caught.value.hint


def test_what_is_written_is_read_back_and_keeps_an_area():
    thin = to_box(read_corners("3000,0,3001,6000"), 6000, 6000)
    assert make_question(None, None, thin) == "[identify] what is this {<50><0><51><100>}"
    last = to_box(read_corners("5999,5999,6000,6000"), 6000, 6000)
    (box,) = read_boxes(make_question(None, None, last))
    assert (box.x1, box.y1, box.x2, box.y2) == (0.99, 0.99, 1, 1)
