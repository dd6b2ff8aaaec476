"""Answers to a benchmark's records become the score of each rule, with its interval, in per cent.

All intervals are at 95 %: Wilson's where a question is right or wrong, the mean's where it has a
share, Hanley's and McNeil's for the area under a curve. Sums of several shares have none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from tinyv_cli.evaluation.figures import Z, make_mean, make_share
from tinyv_cli.evaluation.published.benchmarks import MME_CATEGORIES
from tinyv_cli.evaluation.published.records import Given, Record
from tinyv_cli.evaluation.published.rules import texts
from tinyv_cli.evaluation.published.rules.texts import MarkText

PAPER = "paper"

_LARGEST_DENOMINATOR = 10_000  # of a mark: three times the references, or the choices


@dataclass(frozen=True)
class Score:
    """What one rule comes to.

    Attributes:
        value: in per cent; MME's in points, 200 a category.
        low: of its interval; None where there is no interval.
        high: likewise.
        per_record: marks in the order of the records; none where the rule gives none.
        details: further figures by name, in per cent or points, and what was read.
    """

    value: float
    low: float | None = None
    high: float | None = None
    per_record: tuple[float, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


Answers = Sequence[tuple[Record, Given]]
Rule = Callable[[Answers], Score | None]  # None where what it needs was not given


def _sum_marks(marks: Sequence[float], most: float = 1) -> Score:
    """Makes the score of some marks.

    Args:
        marks: one a record, at least one.
        most: that a record can have.
    """
    n = len(marks)
    # Marks are shares of small numbers: added up as such, nothing is lost to rounding.
    total = sum(Fraction(mark).limit_denominator(_LARGEST_DENOMINATOR) for mark in marks)
    is_whole = most == 1 and {*marks} <= {0, 1}
    figure = make_share(float(total / n), n) if is_whole else make_mean(marks, [1] * n)
    high = 100 * min(figure.high, most)
    return Score(float(100 * total / n), 100 * figure.low, high, tuple(marks))


def mark_each(mark: MarkText, most: float = 1) -> Rule:
    """Makes a rule of one that looks at an answer alone; groups are scored apart as well."""

    def score(answers: Answers) -> Score | None:
        groups: dict[str, list[float]] = {}
        marks: list[float] = []
        for record, given in answers:
            if given.text is None:
                return None
            marks.append(mark(record, texts.clean(given.text)))
            groups.setdefault(record.group, []).append(marks[-1])
        whole = _sum_marks(marks, most)
        if len(groups) == 1:
            return whole
        parts = {name: _sum_marks(each, most) for name, each in groups.items()}
        categories = {
            name: {"score": each.value, "low": each.low, "high": each.high}
            for name, each in parts.items()
        }
        return replace(whole, details={"categories": categories})

    return score


def score_choices(answers: Answers) -> Score | None:
    """Ranks the choices by their losses: right where the least is the right one's."""
    return _rank(answers, lambda record: record.choices)


def score_split_choices(answers: Answers) -> Score | None:
    """Ranks what the published script makes of the choices, which it splits at `_`."""
    return _rank(answers, lambda record: record.split_choices)


def _rank(answers: Answers, to_texts: Callable[[Record], Sequence[str]]) -> Score | None:
    """Ranks texts by their losses; None where one has none."""
    chosen = []
    for record, given in answers:
        losses = [(given.losses or {}).get(text) for text in to_texts(record)]
        known = [each for each in losses if each is not None]
        if len(known) < len(losses):
            return None
        chosen.append(known.index(min(known)))
    pairs = zip(answers, chosen, strict=True)
    score = _sum_marks([float(choice == record.right_choice) for (record, _), choice in pairs])
    return replace(score, details={"chosen": chosen})


def score_auroc(answers: Answers) -> Score | None:
    """Computes the area under the curve of p(yes) / (p(yes) + p(no)) at the first token.

    It is the share of pairs, one hateful and one not, that are in the right order; a tie counts
    half. The interval is Hanley's and McNeil's.

    Source: Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve" (1982).
    """
    by_label: dict[str, list[float]] = {"yes": [], "no": []}
    probabilities = []
    for record, given in answers:
        losses = given.losses or {}
        if not {"yes", "no"} <= losses.keys():
            return None
        difference = min(700.0, losses["yes"] - losses["no"])  # beyond, the exponential overflows
        # Compared is the difference itself: close to 1, probabilities of float64 tie.
        by_label[record.references[0]].append(-difference)
        probabilities.append(1 / (1 + math.exp(difference)))
    hateful, others = by_label["yes"], by_label["no"]
    n_pairs = len(hateful) * len(others)
    if not n_pairs:
        return None
    n_halves = sum((one > other) + (one >= other) for one in hateful for other in others)
    area = n_halves / (2 * n_pairs)
    # The chances that two of one kind are both in order with one of the other.
    both_hateful, both_others = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (len(hateful) - 1) * (both_hateful - area**2)
    variance += (len(others) - 1) * (both_others - area**2)
    spread = Z * math.sqrt(max(0.0, variance) / n_pairs)
    low, high = max(0.0, area - spread), min(1.0, area + spread)
    value = 100 * n_halves / (2 * n_pairs)
    return Score(value, 100 * low, 100 * high, details={"p_yes": probabilities})


def yes_or_no(read: Callable[[str], str], *, by_group: bool, counts_labels: bool = False) -> Rule:
    """Makes a rule for POPE: F1 of yes, and what comes with it.

    Args:
        read: reads yes, no or something else from a clean text.
        by_group: whether each category is scored, and the mean of them is the score; else all
            questions together.
        counts_labels: as lmms-eval, whose share of yes is the labels', and which misses only
            where the answer is no.
    """

    def score(answers: Answers) -> Score | None:
        groups: dict[str, list[tuple[str, str]]] = {}
        predicted = []
        for record, given in answers:
            if given.text is None:
                return None
            predicted.append(read(texts.clean(given.text)))
            for group in record.group.split(","):
                pair = (record.references[0], predicted[-1])
                groups.setdefault(group, []).append(pair)
        parts = {name: _compare_yes_no(pairs, counts_labels) for name, pairs in groups.items()}
        pooled = _compare_yes_no(
            [pair for pairs in groups.values() for pair in pairs], counts_labels
        )
        means = {
            key: math.fsum(each[key] for each in parts.values()) / len(parts) for key in pooled
        }
        figures = means if by_group else pooled
        n = sum(map(len, groups.values()))
        accuracy = make_share(pooled["accuracy"] / 100, n)
        limits = {"accuracy_low": 100 * accuracy.low, "accuracy_high": 100 * accuracy.high}
        details = {**figures, **limits, "categories": parts, "predicted": predicted}
        return Score(figures["f1"], details=details)

    return score


def _compare_yes_no(pairs: Sequence[tuple[str, str]], counts_labels: bool) -> dict[str, float]:
    """Computes accuracy, precision, recall, F1 and share of yes, in per cent.

    Args:
        pairs: label and what was read, at least one.
        counts_labels: as in `yes_or_no`.
    """
    n = len(pairs)
    true_yes = pairs.count(("yes", "yes"))
    said_yes = sum(said == "yes" for _, said in pairs)
    is_yes = sum(label == "yes" for label, _ in pairs)
    to_find = true_yes + pairs.count(("yes", "no")) if counts_labels else is_yes
    both = said_yes + to_find
    return {
        "accuracy": 100 * sum(label == said for label, said in pairs) / n,
        "precision": 100 * true_yes / said_yes if said_yes else 0.0,
        "recall": 100 * true_yes / to_find if to_find else 0.0,
        "f1": 200 * true_yes / both if both else 0.0,
        "yes_ratio": 100 * (is_yes if counts_labels else said_yes) / n,
    }


def score_mme(answers: Answers) -> Score | None:
    """Adds up MME's categories: share of questions, and of pictures with both right, 0 to 200."""
    marks: list[float] = []
    pictures: dict[str, dict[str, list[float]]] = {}  # by category and picture
    for record, given in answers:
        if given.text is None:
            return None
        marks.append(float(texts.read_mme(texts.clean(given.text)) == record.references[0]))
        category = record.group.partition("/")[0]
        pictures.setdefault(category, {}).setdefault(record.group, []).append(marks[-1])
    categories = {}
    for name, pairs in pictures.items():
        both = [all(each) for each in pairs.values()]
        single = [mark for each in pairs.values() for mark in each]
        accuracy, plus = 100 * sum(single) / len(single), 100 * sum(both) / len(both)
        figures = {"accuracy": accuracy, "accuracy_plus": plus, "score": accuracy + plus}
        categories[name] = figures
    sums = {
        kind: math.fsum(categories[name]["score"] for name in names if name in categories)
        for kind, names in MME_CATEGORIES.items()
        if not categories.keys().isdisjoint(names)
    }
    both = [all(each) for pairs in pictures.values() for each in pairs.values()]
    total = {
        "accuracy": 100 * sum(marks) / len(marks),
        "accuracy_plus": 100 * sum(both) / len(both),
    }
    value = math.fsum(each["score"] for each in categories.values())
    details = {**total, **sums, "categories": categories}
    return Score(value, per_record=tuple(marks), details=details)


_REFCOCO: dict[str, Rule] = {
    PAPER: mark_each(texts.mark_refcoco_as_paper),
    "official": mark_each(texts.mark_refcoco),
    "at-least-half": mark_each(texts.mark_refcoco_at_half),
}

RULES: dict[str, dict[str, Rule]] = {
    "gqa": {
        PAPER: mark_each(texts.mark_gqa_as_paper),
        "official": mark_each(texts.mark_same),
        "lmms-eval": mark_each(texts.mark_same_but_punctuation),
        "vlmevalkit": mark_each(texts.mark_same_but_case),
    },
    "vsr": {
        PAPER: mark_each(texts.mark_vsr_as_paper),
        "paper-yes-no": mark_each(texts.mark_vsr_with_yes_no, most=2),
        "official": mark_each(texts.mark_vsr),
    },
    "iconqa": {PAPER: score_split_choices, "official": score_choices},
    "vizwiz": {
        PAPER: mark_each(texts.mark_vizwiz_as_paper),
        "official": mark_each(texts.mark_vizwiz),
    },
    "hateful-memes": {
        PAPER: mark_each(texts.mark_memes_as_paper),
        "official": mark_each(texts.mark_first_word),
        "official-auroc": score_auroc,
    },
    "okvqa": {
        PAPER: mark_each(texts.mark_okvqa),
        "official": mark_each(texts.mark_okvqa),
        "lmms-eval": mark_each(texts.mark_okvqa_as_lmms_eval),
    },
    "refcoco": _REFCOCO,
    "refcoco+": _REFCOCO,
    "refcocog": _REFCOCO,
    "pope": {
        "official": yes_or_no(texts.read_pope, by_group=True),
        "lmms-eval": yes_or_no(texts.read_bare_word, by_group=False, counts_labels=True),
        "vlmevalkit": yes_or_no(texts.read_one_of_both, by_group=False),
    },
    "mme": {"official": score_mme},
}


def score_all(name: str, answers: Answers) -> dict[str, Score | None]:
    """Scores answers to a benchmark by each of its rules, at least one answer."""
    return {rule: score(answers) for rule, score in RULES[name].items()}


def score_nothing(name: str, records: Sequence[Record]) -> dict[str, Score | None]:
    """Scores what needs no model: an empty answer to each record, and losses that are all alike.

    Of choices that are alike none is the least; then it is what choosing by chance comes to.
    """
    if any(record.choices for record in records):
        ways = {PAPER: [r.split_choices for r in records], "official": [r.choices for r in records]}
        chances = {rule: [1 / len(each) for each in found] for rule, found in ways.items()}
        return {rule: _sum_marks(each) for rule, each in chances.items()}
    empty = Given("", {"yes": 0.0, "no": 0.0})
    return score_all(name, [(record, empty) for record in records])
