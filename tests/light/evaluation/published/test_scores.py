"""Marks become scores: exact sums, the right interval, and figures of several categories."""

import pytest

from tests.light.evaluation.published.made import make_record, make_region, score
from tinyv_cli.evaluation.figures import make_mean, make_share
from tinyv_cli.evaluation.published.records import Given
from tinyv_cli.evaluation.published.rules.scores import score_all, score_nothing

YES, NO = make_record("yes", group="random"), make_record("no", group="random")


def test_whole_marks_have_wilsons_interval_and_shares_the_means():
    pairs = [(make_record("a"), each) for each in ("a", "b", "b")]
    found = score("gqa", *pairs)["official"]
    share = make_share(1 / 3, 3)
    assert (found.low, found.high) == (100 * share.low, 100 * share.high)
    assert found.value == 100 / 3
    record = make_record("a", "a", *["b"] * 8)
    shares = score("vizwiz", (record, "a"), (record, "b"), (record, "c"))["official"]
    mean = make_mean([0.6, 1, 0], [1] * 3)
    assert (shares.low, shares.high) == (100 * mean.low, 100)
    assert shares.value == pytest.approx(160 / 3)


def test_a_sum_of_thirds_is_exact():
    record = make_record("yellow", *["x"] * 9)
    marks = [(record, "yellow"), (record, ""), (record, ""), (record, ""), (record, "")]
    assert score("vizwiz", *marks)["paper"].value == 260 / 3


def test_a_question_of_the_second_script_can_count_twice():
    found = score("vsr", (make_record("true"), "yes, true"), (make_record("true"), "no"))
    assert found["paper-yes-no"].per_record == (2, 0)
    assert found["paper-yes-no"].value == 100
    assert found["paper-yes-no"].high <= 200


def test_groups_are_scored_apart_too():
    one, other = make_record("a", group="val"), make_record("a", group="testA")
    details = score("gqa", (one, "a"), (other, "b"), (other, "a"))["official"].details
    assert details["categories"]["val"]["score"] == 100
    assert details["categories"]["testA"]["score"] == 50
    assert score("gqa", (one, "a"))["official"].details == {}


def test_choices_are_ranked_by_the_least_loss_and_split_as_published():
    record = make_record(choices=("a_b", "c", "d"), right_choice=1)
    losses = {"a_b": 2.0, "c": 1.0, "d": 3.0, "a": 5.0, "b": 0.5}
    found = score("iconqa", (record, losses))
    assert found["official"].details == {"chosen": [1]}
    assert found["paper"].details == {"chosen": [1]}  # `b`, which is 1 of a, b, c, d
    assert (found["official"].value, found["paper"].value) == (100, 100)
    whole = {key: losses[key] for key in record.choices}
    assert score("iconqa", (record, whole))["paper"] is None
    assert score("iconqa", (record, whole))["official"].value == 100


def test_the_area_under_the_curve_counts_ties_as_halves():
    def ask(*chances):
        labels = (YES, NO, YES, NO)
        given = [Given("", {"yes": -p, "no": 0.0}) for p in chances]
        return score_all("hateful-memes", list(zip(labels, given, strict=True)))["official-auroc"]

    assert ask(4, 1, 3, 2).value == 100
    assert ask(1, 4, 2, 3).value == 0
    assert ask(1, 1, 1, 1).value == 50
    assert ask(4, 3, 3, 1).value == 100 * 3.5 / 4
    assert 0 <= ask(4, 3, 3, 1).low < 87.5 < ask(4, 3, 3, 1).high <= 100
    assert ask(-1e5, 1e5, 3, 2).value == 25  # beyond what an exponential holds
    one_label = [(YES, Given("yes", {"yes": 0.0, "no": 1.0}))]
    assert score_all("hateful-memes", one_label)["official-auroc"] is None
    assert score_all("hateful-memes", [(YES, Given("yes"))])["official-auroc"] is None


def test_pope_by_three_rules():
    answers = ["Yes.", "no", "There is not", "Maybe, I cannot say", "No. Yes"]
    labels = [YES, NO, YES, NO, YES]
    found = score("pope", *zip(labels, answers, strict=True))
    # read as yes, no, no, yes, no
    official = found["official"]
    assert official.details["predicted"] == ["yes", "no", "no", "yes", "no"]
    assert official.details["accuracy"] == 40
    assert (official.details["precision"], official.details["recall"]) == (50, 100 / 3)
    assert official.value == official.details["f1"] == 40
    assert official.details["yes_ratio"] == 40
    lmms = found["lmms-eval"].details
    assert (lmms["accuracy"], lmms["yes_ratio"], lmms["f1"]) == (20, 60, 0)
    kit = found["vlmevalkit"].details
    assert kit["predicted"] == ["yes", "no", "unknown", "unknown", "unknown"]
    assert (kit["precision"], kit["recall"], kit["f1"]) == (100, 100 / 3, 50)


def test_lmms_eval_misses_only_where_the_bare_word_is_no():
    found = score("pope", (YES, "yes"), (YES, "nothing"), (YES, "no"))["lmms-eval"].details
    assert found["recall"] == 50


def test_popes_own_score_is_the_mean_of_its_categories():
    both, other = make_record("yes", group="random,popular"), make_record("no", group="popular")
    found = score("pope", (both, "yes"), (other, "yes"))
    assert found["official"].details["categories"]["random"]["f1"] == 100
    assert found["official"].value == pytest.approx((100 + 200 / 3) / 2)
    assert found["vlmevalkit"].value == 80  # three lines: two right of the three that say yes


def test_mme_adds_categories_up():
    def pair(category, picture, *answers):
        group = f"{category}/{picture}"
        labels = ("yes", "no")
        return [(make_record(a, group=group), b) for a, b in zip(labels, answers, strict=True)]

    answers = [
        *pair("OCR", "1", "Yes", "no"),
        *pair("OCR", "2", "yes", "Yes, no"),
        *pair("count", "1", "I say yes", "no"),
        *pair("code_reasoning", "1", " Yes", "not so"),
    ]
    found = score("mme", *answers)["official"]
    assert found.details["categories"]["OCR"]["score"] == 75 + 50
    assert found.details["categories"]["count"]["score"] == 50
    assert (found.details["perception"], found.details["cognition"]) == (175, 200)
    assert found.value == 375
    assert "cognition" not in score("mme", *answers[:2])["official"].details


def test_what_saying_nothing_comes_to():
    memes = [make_record("yes"), make_record("no")]
    empty = score_nothing("hateful-memes", memes)
    assert [each.value for each in empty.values()] == [0, 0, 50]
    assert score_nothing("vizwiz", [make_record(*["red"] * 10)])["paper"].value == 100
    assert score_nothing("pope", [YES, NO])["official"].value == pytest.approx(200 / 3)
    choices = [make_record(choices=("a_b", "c"))]
    by_chance = score_nothing("iconqa", choices)
    assert by_chance["official"].value == 50
    assert by_chance["paper"].value == pytest.approx(100 / 3)
    assert score_nothing("refcoco", [make_region(0, 0, 9, 9)])["official"].value == 0


def test_a_rule_whose_text_was_not_given_has_no_score():
    assert set(score("vsr", (make_record("true"), {"a": 1.0})).values()) == {None}
    assert score("pope", (YES, {}))["official"] is None
    assert score("mme", (make_record("yes", group="OCR/1"), {}))["official"] is None
