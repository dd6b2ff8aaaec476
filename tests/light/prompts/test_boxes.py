import itertools

import pytest

from tinyv_cli.prompts.boxes import Box, compute_iou, is_one_to_one, read_boxes, write_box


def corners(text):
    """The boxes of a text in hundredths."""
    return [
        tuple(round(100 * edge) for edge in (box.x1, box.y1, box.x2, box.y2))
        for box in read_boxes(text)
    ]


def test_a_box_is_read_in_shares_of_width_and_height():
    assert read_boxes("{<12><5><60><88>}") == (Box("", 0.12, 0.05, 0.6, 0.88),)
    assert read_boxes("{<0><0><100><100>}") == (Box("", 0, 0, 1, 1),)


@pytest.mark.parametrize(
    "text",
    [
        "{<1><2><30><40>}",
        "{ <1> <2>\n< 30 ><40> }",
        "{<1><2><30><40>",
        "{<1><2><30><40",
        "{<1><2><30><40 ",
        "{<1><2><30><40}",
        "<1><2><30><40>",
        "it is at {<1><2><30><40>}.",
        "{<30><40><1><2>}",
        "{<30><2><1><40>}",
        "{<01><02><30><40>}",
    ],
)
def test_a_box_is_read_however_it_is_written(text):
    assert corners(text) == [(1, 2, 30, 40)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat",
        "{1 2 30 40}",
        "{<1><2><30>}",
        "{<1><2><30",
        "{<1><2><30><>}",
        "{<a><2><30><40>}",
        "{<1><2><30><40 and more",
        "{<1><2><30><" + "9" * 5000 + ">}",
    ],
)
def test_what_has_no_four_numbers_is_no_box(text):
    assert read_boxes(text) == ()


def test_numbers_out_of_range_are_clamped():
    assert corners("{<-5><2><101><999>}") == [(0, 2, 100, 100)]


def test_joined_boxes_keep_their_order_and_their_phrase():
    boxes = read_boxes(
        "<p>two cats</p> {<1><2><3><4>}<delim>{<5><6><7><8>} <delim> {<9><9><10><10>}"
    )
    assert [box.label for box in boxes] == ["two cats"] * 3
    assert [round(100 * box.x1) for box in boxes] == [1, 5, 9]


def test_each_phrase_has_its_own_boxes():
    text = (
        "<p>a cat</p> {<1><2><3><4>}, <p> two dogs </p>{<5><6><7><8>}<delim>{<9><9><10><10>} on red"
    )
    assert [box.label for box in read_boxes(text)] == ["a cat", "two dogs", "two dogs"]


def test_a_phrase_without_its_end_mark_ends_at_the_box():
    assert [box.label for box in read_boxes("<p>a cat {<1><2><3><4>}")] == ["a cat"]


def test_words_between_boxes_part_the_second_from_the_phrase():
    text = "<p>a cat</p> {<1><2><3><4>} and also {<5><6><7><8>}"
    assert [box.label for box in read_boxes(text)] == ["a cat", ""]


def test_a_phrase_without_a_box_is_no_box():
    assert read_boxes("<p>a cat</p>") == ()


def test_pixels_are_whole_and_of_the_picture_asked_for():
    box = Box("", 0.12, 0.05, 0.6, 1)
    assert box.to_pixels(640, 480) == (77, 24, 384, 480)
    assert all(isinstance(edge, int) for edge in box.to_pixels(640, 480))


def test_the_overlap_of_two_boxes_is_their_common_share():
    one = Box("", 0, 0, 0.5, 0.5)
    assert compute_iou(one, one) == 1
    assert compute_iou(one, Box("", 0.25, 0, 0.75, 0.5)) == pytest.approx(1 / 3)
    assert compute_iou(one, Box("", 0, 0, 1, 1)) == pytest.approx(0.25)


def test_boxes_that_touch_or_are_apart_do_not_overlap():
    one = Box("", 0, 0, 0.5, 0.5)
    for other in (Box("", 0.5, 0, 1, 0.5), Box("", 0.6, 0.6, 1, 1), Box("", 0.6, 0, 1, 0.5)):
        assert compute_iou(one, other) == compute_iou(other, one) == 0


def test_boxes_without_area_overlap_with_nothing_not_even_themselves():
    line = Box("", 0.2, 0, 0.2, 1)
    assert compute_iou(line, line) == compute_iou(line, Box("", 0, 0, 1, 1)) == 0


def test_pairs_are_found_wherever_there_are_any():
    for bits in itertools.product([False, True], repeat=9):
        fits = [bits[0:3], bits[3:6], bits[6:9]]
        expected = any(
            all(fits[row][column] for row, column in enumerate(order))
            for order in itertools.permutations(range(3))
        )
        assert is_one_to_one(fits) == expected, fits


def test_a_box_that_is_left_over_on_either_side_spoils_the_match():
    assert is_one_to_one([])
    assert not is_one_to_one([[True, True]])
    assert not is_one_to_one([[True], [True]])
    assert not is_one_to_one([[]])


def test_what_is_written_is_what_is_read():
    for text in ("{<12><5><60><88>}", "{<0><0><100><100>}", "{<99><0><100><1>}"):
        (box,) = read_boxes(text)
        assert write_box(box) == text


def test_edges_that_would_meet_are_written_one_apart_inside_the_picture():
    assert write_box(Box("", 0.5, 0, 0.501, 1)) == "{<50><0><51><100>}"
    assert write_box(Box("", 1, 1, 1, 1)) == "{<99><99><100><100>}"
    assert write_box(Box("", 0, 0.999, 0, 1)) == "{<0><99><1><100>}"
