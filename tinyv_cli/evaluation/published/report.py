"""Scores become one document and tables for people; computes none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyv_cli.console import to_table
from tinyv_cli.evaluation.published.benchmarks import Benchmark
from tinyv_cli.evaluation.published.records import Record
from tinyv_cli.evaluation.published.rules.scores import PAPER, Score

# What a category's table shows, by the names of its figures.
_COLUMNS = {
    "f1": "F1",
    "accuracy": "right",
    "accuracy_plus": "both right",
    "precision": "precision",
    "recall": "recall",
    "yes_ratio": "says yes",
    "score": "score",
}
_NOT_GIVEN = "what this rule looks at was not given for each record"


@dataclass(frozen=True)
class Scored:
    """A benchmark with its scores.

    Attributes:
        benchmark: which one.
        records: that count.
        scores: by rule; None where what the rule needs was not given.
        empty: what an empty answer comes to, likewise.
    """

    benchmark: Benchmark
    records: Sequence[Record]
    scores: Mapping[str, Score | None]
    empty: Mapping[str, Score | None]

    def find_published(self, rule: str) -> float | None:
        """Returns the paper's figure, where it is of this rule."""
        return self.benchmark.published if rule == PAPER else None


def describe_scores(scored: Scored) -> dict[str, Any]:
    """Describes the scores by rule for `--json`; what is not known is null."""
    document: dict[str, Any] = {}
    for rule, score in scored.scores.items():
        empty = scored.empty[rule]
        document[rule] = {
            "score": score.value if score else None,
            "low": score.low if score else None,
            "high": score.high if score else None,
            "published": scored.find_published(rule),
            "says_nothing": empty.value if empty else None,
            **({"per_record": list(score.per_record)} if score and score.per_record else {}),
            **(score.details if score else {"why_null": _NOT_GIVEN}),
        }
    return document


def to_score_tables(scored: Scored) -> str:
    """Formats scores for people: a line a rule, then the categories of rules that have them."""
    rows = []
    for rule, score in scored.scores.items():
        interval = "-"
        if score and score.low is not None and score.high is not None:
            interval = f"{score.low:.1f}-{score.high:.1f}"
        empty = scored.empty[rule]
        values = (score and score.value, scored.find_published(rule), empty and empty.value)
        own, published, nothing = (
            "-" if not isinstance(each, float) else f"{each:.1f}" for each in values
        )
        rows.append([rule, str(len(scored.records)), own, interval, published, nothing])
    header = ["rule", "questions", "score", "95 %", "the paper", "by saying nothing"]
    tables = [to_table(header, rows)]
    for rule, score in scored.scores.items():
        categories = score.details.get("categories") if score else None
        if categories:
            first = next(iter(categories.values()))
            names = [name for name in _COLUMNS if name in first]
            lines = [
                [category, *(f"{figures[name]:.1f}" for name in names)]
                for category, figures in categories.items()
            ]
            tables.append(to_table([rule, *(_COLUMNS[name] for name in names)], lines))
    return "\n\n".join(tables)
