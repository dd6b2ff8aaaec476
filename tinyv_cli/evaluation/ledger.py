"""Answers and comparisons of variants are kept in a file as they come, and read again."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from tinyv_cli.disk.json_lines import JsonLines, explain_unwritable
from tinyv_cli.disk.places import home_dir
from tinyv_cli.disk.typed_json import to_dataclass
from tinyv_cli.errors import DeviceError

_KEY_DIGITS = 16


@dataclass(frozen=True)
class Answered:
    """One question's answer; all but `index` and `answer` are there for people to read."""

    index: int
    answer: str
    question: str
    reference: str
    right: bool


@dataclass(frozen=True)
class Compared:
    """How far two variants are apart along one question's reference answer.

    Attributes:
        index: which question.
        n_positions: tokens of the reference, and its end.
        kl_sum_nats: divergences of the next token's distribution, summed over positions.
        n_same: positions where the best token is the same.
    """

    index: int
    n_positions: int
    kl_sum_nats: float
    n_same: int


@dataclass(frozen=True)
class Uncut:
    """What was said to one record of a benchmark, as far as any rule may look.

    Attributes:
        index: which record.
        question: of the record, there for people to read.
        answer: the text, not ended at `###`; None where texts were ranked.
        losses: of texts, in nats a token, by text; None where none were ranked.
    """

    index: int
    question: str
    answer: str | None = None
    losses: dict[str, float] | None = None


E = TypeVar("E", bound=Answered | Compared | Uncut)


class Ledger(JsonLines[int, E]):
    """Entries by question; lines behind one that makes no sense are dropped.

    Args:
        path: the file; it is made with its first entry.
        kind: the class of its entries.
        n_questions: indices are below it.
    """

    def __init__(self, path: Path, kind: type[E], n_questions: int) -> None:
        def to_entry(line: dict[str, Any]) -> tuple[int, E]:
            entry = to_dataclass(kind, line)
            if not 0 <= entry.index < n_questions:
                raise ValueError("it is of no question here")
            return entry.index, entry

        super().__init__(path, to_entry)

    def add(self, entry: E) -> None:
        """Keeps an entry; once this returns, killing the process does not lose it.

        Raises:
            DeviceError: it cannot be written, as when the disk is full.
        """
        self.append(asdict(entry))


def make_key(*facts: str) -> str:
    """Makes a short name of what decides over a ledger's content: other facts, another name."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:_KEY_DIGITS]


def resolve_ledger(questions: Path, key: str) -> Path:
    """Returns a ledger's place: beside the questions, or at home if that cannot be written.

    Raises:
        DeviceError: neither can be written.
    """
    name = f"{questions.stem}.eval-{key}.jsonl"
    beside, at_home = questions.parent / name, home_dir() / "evaluations" / name
    if explain_unwritable(beside) is None:
        return beside
    problem = explain_unwritable(at_home)
    if problem is None:
        return at_home
    raise DeviceError(
        f"answers cannot be kept, neither {beside} nor {at_home} can be written: {problem}",
        "name a folder that can be written: `export TINYV_HOME=DIR`",
    )
