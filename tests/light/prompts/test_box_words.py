import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyv_cli.prompts.box_words import BoxTeller, describe_place, tell_boxes
from tinyv_cli.prompts.boxes import Box, read_boxes


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("a cat", "a cat"),
        ("3 < 5 and {x} <b>", "3 < 5 and {x} <b>"),
        ("{<5><52><40><90>}", "lower left: 5-40 % across, 52-90 % down"),
        (
            "{<0><0><30><30>}<delim>{<70><40><99><60>}",
            "upper left: 0-30 % across, 0-30 % down, right: 70-99 % across, 40-60 % down",
        ),
        (
            "<p>a cat</p> {<5><52><40><90>} on <p>a mat</p>{<0><0><99><100>}",
            "a cat (lower left: 5-40 % across, 52-90 % down) on a mat "
            "(nearly everywhere: 0-99 % across, 0-100 % down)",
        ),
        ("<p>cars</p> {<40><40><60><60>", "cars (middle: 40-60 % across, 40-60 % down)"),
        ("<p>cut {<4", "cut {<4"),
        ("<5><5><6><6><", "upper left: 5-6 % across, 5-6 % down<"),
        ("\t<5><5><6><6>", "\tupper left: 5-6 % across, 5-6 % down"),
        ("<5><5> <3><7{", "<5><5> <3><7{"),
        ("", ""),
    ],
)
def test_boxes_are_told_in_words_and_all_else_stays(answer, told):
    assert tell_boxes(answer) == told


@pytest.mark.parametrize(
    ("corners", "place"),
    [
        ((0.4, 0, 0.6, 0.2), "top"),
        ((0.4, 0.8, 0.6, 1), "bottom"),
        ((0, 0.4, 0.2, 0.6), "left"),
        ((0.9, 0.9, 1, 1), "lower right"),
        ((1, 1, 1, 1), "lower right"),
        ((0, 0, 1, 0.5), "top"),
    ],
)
def test_a_place_is_named_by_the_third_in_which_the_middle_lies(corners, place):
    assert describe_place(Box("", *corners)).startswith(f"{place}: ")


PIECES = st.sampled_from(
    [
        "<p>",
        "</p>",
        "cat",
        " ",
        "{",
        "}",
        "<",
        ">",
        "<5>",
        "<50>",
        "<delim>",
        "{<1><2><30><40>}",
        "7",
        "-",
        "\t",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=14), st.data())
def test_an_answer_is_told_alike_however_it_is_cut_into_pieces(pieces, data):
    answer = "".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)), max_size=5)))
    teller = BoxTeller()
    ends = [*cuts, len(answer)]
    told = [teller.tell(answer[a:b]) for a, b in zip([0, *cuts], ends, strict=True)]
    whole = "".join(told) + teller.tell("", is_last=True)
    assert whole == tell_boxes(answer)
    assert whole.count(" % down") == len(read_boxes(answer))


def test_words_are_never_held_back():
    teller = BoxTeller()
    assert teller.tell("a cat ") == "a cat "
    assert teller.tell("{<5><52>") == ""
    assert teller.tell("<40><90>} sits") == "(lower left: 5-40 % across, 52-90 % down) sits"
    assert teller.tell("") == ""
