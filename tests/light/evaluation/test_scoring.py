import math

import numpy as np
import pytest

from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.evaluation.figures import make_mean, make_share
from tinyv_cli.evaluation.scoring import (
    TASKS,
    agree,
    check_reference,
    count_things,
    is_right,
    normalise,
    to_singular,
)

BOX = "{<10><10><50><50>}"
FAR = "{<60><60><90><90>}"


def test_the_tasks_are_those_of_the_file_format():
    short = ["what", "colour", "count", "exists", "relation"]
    assert list(TASKS) == [*short, "caption", "refer", "identify", "detection", "grounding"]


def test_case_white_space_around_and_one_full_stop_do_not_count():
    assert normalise(" A Cat. \n") == normalise("a cat") == "a cat"
    assert normalise("a  cat") != normalise("a cat")
    assert normalise("a cat..") != normalise("a cat")
    assert normalise("a cat!") != normalise("a cat")


@pytest.mark.parametrize("task", ["what", "colour", "count", "exists", "relation", "identify"])
def test_most_tasks_want_the_reference_to_the_letter(task):
    assert is_right(task, "Two. ", "two")
    assert not is_right(task, "two cats", "two")
    assert not is_right(task, "", "two")


@pytest.mark.parametrize(
    ("caption", "things"),
    [
        ("two cats and a red car on a green background", {"cat": 2, "car": 1}),
        ("A dog.", {"dog": 1}),
        ("an apple, three blue stars and one fish on a white background",
         {"apple": 1, "star": 3, "fish": 1}),
        ("a cat, a dog, and four cars", {"cat": 1, "dog": 1, "car": 4}),
        ("a red car and two blue cars", {"car": 3}),
        ("an orange and a dark orange car", {"orange": 1, "car": 1}),
        ("a traffic light", {"traffic light": 1}),
        ("two sandwiches", {"sandwich": 2}),
    ],
)  # fmt: skip
def test_a_caption_counts_kinds(caption, things):
    assert count_things(caption) == things


@pytest.mark.parametrize(
    "caption",
    ["", "cats", "two", "some cats", "a cat and", "there is a cat", "a cat and dogs", "on a mat"],
)
def test_a_caption_of_another_form_counts_nothing(caption):
    assert count_things(caption) is None


def test_a_caption_is_right_by_kinds_and_counts_alone():
    reference = "two cats and a red car on a green background"
    assert is_right("caption", reference, reference)
    assert is_right("caption", "a blue car, a cat and a cat on a red background.", reference)
    assert is_right("caption", "a car and two cats", reference)
    for wrong in (
        "two cats on a green background",
        "three cats and a red car on a green background",
        "two dogs and a red car on a green background",
        "two cats, a red car and a dog on a green background",
        "two cats a red car",
        "",
    ):
        assert not is_right("caption", wrong, reference), wrong


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("cats", "cat"), ("horses", "horse"), ("houses", "house"), ("buses", "bus"),
        ("boxes", "box"), ("churches", "church"), ("brushes", "brush"), ("glasses", "glass"),
        ("cherries", "cherry"), ("ties", "tie"), ("people", "person"), ("mice", "mouse"),
        ("cactuses", "cactus"), ("men", "man"), ("strawberries", "strawberry"),
        ("fish", "fish"), ("sheep", "sheep"), ("leaves", "leaf"), ("shoes", "shoe"),
    ],
)  # fmt: skip
def test_singular_and_plural_are_one_kind(plural, singular):
    assert to_singular(plural) == singular
    assert to_singular(singular) == singular


def test_a_referred_box_must_cover_more_than_half():
    assert is_right("refer", "{<10><10><50><50>}", BOX)
    assert is_right("refer", "<p>the cat</p> {<12><8><50><50>}", BOX)
    assert is_right("refer", "{<10><10><50><31>}", BOX)
    assert not is_right("refer", "{<10><10><50><30>}", BOX)  # exactly a half
    assert not is_right("refer", FAR, BOX)
    assert not is_right("refer", f"{BOX}<delim>{FAR}", BOX)
    assert not is_right("refer", "there", BOX)


def test_detection_wants_every_box_once_in_any_order():
    reference = f"<p>cats</p> {BOX}<delim>{FAR}"
    assert is_right("detection", f"{FAR}<delim>{BOX}", reference)
    assert not is_right("detection", BOX, reference)
    assert not is_right("detection", f"{BOX}<delim>{BOX}", reference)
    assert not is_right("detection", f"{BOX}<delim>{FAR}<delim>{FAR}", reference)


def test_grounding_wants_the_phrase_too():
    reference = f"<p>a cat</p> {BOX} and <p>a dog</p> {FAR} on a red background"
    assert is_right("grounding", f"<p>A dog</p> {FAR} and <p>a cat</p> {BOX}", reference)
    assert not is_right("grounding", f"<p>a dog</p> {BOX} and <p>a cat</p> {FAR}", reference)
    assert not is_right("grounding", f"{BOX}<delim>{FAR}", reference)


@pytest.mark.parametrize(
    ("task", "reference", "problem"),
    [
        ("what", " . ", "blank"),
        ("caption", "some cats", "with their number"),
        ("refer", "a cat", "no box"),
        ("refer", f"{BOX}<delim>{FAR}", "several boxes"),
        ("detection", "{<10><10><10><50>}", "without area"),
        ("grounding", BOX, "without a phrase"),
    ],
)
def test_a_reference_that_nothing_can_match_is_refused(task, reference, problem):
    with pytest.raises(ValueError, match=problem):
        check_reference(task, reference)


@pytest.mark.parametrize("task", TASKS)
def test_a_reference_that_is_let_pass_is_right_by_itself(task):
    reference = {"caption": "a cat", "grounding": f"<p>a cat</p> {BOX}"}.get(task, BOX)
    check_reference(task, reference)
    assert is_right(task, reference, reference)


NEAR = "{<10><10><50><52>}"


@pytest.mark.parametrize(
    ("task", "one", "other", "do"),
    [
        ("what", "a cat", "A cat.", True),
        ("what", "a cat", "a dog", False),
        ("refer", BOX, NEAR, True),
        ("refer", BOX, FAR, False),
        ("refer", f"{BOX}{FAR}", f"{BOX}{FAR}", True),
        ("refer", "nowhere", "not there", False),
        ("refer", BOX, "not there", False),
        ("detection", f"<p>cat</p> {BOX}{FAR}", f"<p>cat</p> {FAR}{NEAR}", True),
        ("detection", BOX, f"{BOX}{FAR}", False),
        ("grounding", f"<p>a cat</p> {BOX}", f"<p>a dog</p> {BOX}", False),
        ("caption", "a red cat on a blue background", "a cat", True),
        ("caption", "two cats", "a cat", False),
        ("caption", "no idea", "who knows", False),
        ("identify", "", "", True),
    ],
)
def test_answers_agree_where_each_is_right_by_the_other(task, one, other, do):
    assert agree(task, one, other) is agree(task, other, one) is do


def test_wilsons_interval_is_the_published_one():
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I.
    for n_right, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        figure = make_share(n_right / n, n)
        assert (figure.low, figure.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000])
def test_a_share_lies_in_its_interval_and_both_in_0_to_1(n):
    for n_right in range(n + 1):
        figure = make_share(n_right / n, n)
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
        assert figure.low < figure.high


def test_a_mean_weighs_positions_and_its_interval_questions():
    figure = make_mean([1.0, 6.0], [1, 2])
    assert figure.value == pytest.approx(7 / 3)
    even = make_mean([2.0, 4.0, 6.0, 8.0], [2, 2, 2, 2])
    # With equal counts it is the plain interval of the mean of 1, 2, 3 and 4.
    assert even.high - even.value == pytest.approx(1.96 * math.sqrt(5 / 3) / 2, rel=1e-4)
    assert make_mean([0.5], [2]) == make_mean([0.25], [1])


def test_means_of_the_same_source_lie_in_their_interval_19_times_of_20():
    draw = np.random.default_rng(3)
    n_inside = 0
    for _ in range(400):
        counts = draw.integers(1, 9, 60)
        sums = [draw.exponential(0.5, n).sum() for n in counts]
        figure = make_mean(sums, [int(n) for n in counts])
        n_inside += figure.low <= 0.5 <= figure.high
    assert 0.9 < n_inside / 400 < 0.98


def test_equal_logits_do_not_diverge_and_a_constant_changes_nothing():
    logits = np.random.default_rng(1).standard_normal((3, 50)).astype(np.float32)
    assert compute_divergences(logits, logits + 2) == pytest.approx([0, 0, 0], abs=1e-6)
    assert (compute_divergences(logits, logits) == 0).all()


def test_a_divergence_is_the_mean_logarithm_of_the_ratio_under_the_exact_one():
    exact, other = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert compute_divergences(exact, other) == pytest.approx([expected])
    assert compute_divergences(other, exact) != pytest.approx([expected])
