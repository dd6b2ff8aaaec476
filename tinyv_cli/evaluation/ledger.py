"""What was found out, a JSON object a line, is kept as it comes and read again; knows no model.

A killed run leaves whole lines and at most one broken one at the end, which is dropped.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tinyv_cli.disk.json_lines import JsonLines, explain_unwritable
from tinyv_cli.disk.places import home_dir
from tinyv_cli.disk.typed_json import read_object, to_dataclass
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


E = TypeVar("E", Answered, Compared)


class Ledger(Generic[E]):
    """Entries by question, in memory and in a file; a later one replaces an earlier one.

    Args:
        path: the file; it is made with its first entry.
        kind: the class of its entries.
        n_questions: indices are below it.
    """

    def __init__(self, path: Path, kind: type[E], n_questions: int) -> None:
        self.path = path
        self.entries: dict[int, E] = {}
        self._kind: type[E] = kind
        self._n_questions = n_questions
        self._lines = JsonLines(path)
        self._lines.read(self._take)

    def add(self, entry: E) -> None:
        """Keeps an entry; once this returns, killing the process does not lose it.

        Raises:
            OSError: the disk is full.
        """
        self._lines.append(asdict(entry))
        self.entries[entry.index] = entry

    def clear(self) -> None:
        """Forgets every entry."""
        self._lines.clear()
        self.entries.clear()

    def _take(self, line: bytes) -> bool:
        """Keeps the entry of a line; tells whether it was one."""
        try:
            entry = to_dataclass(self._kind, read_object(line))
        except (ValueError, RecursionError):
            return False
        if not 0 <= entry.index < self._n_questions:
            return False
        self.entries[entry.index] = entry
        return True


def make_key(*facts: str) -> str:
    """A short name for what decides over a ledger's content: other facts, another name."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:_KEY_DIGITS]


def resolve_ledger(questions: Path, key: str) -> Path:
    """Where a ledger lies: beside the questions, or under `TINYV_HOME` if that cannot be written.

    Raises:
        DeviceError: neither can be written.
    """
    name = f"{questions.stem}.eval-{key}.jsonl"
    beside, at_home = questions.parent / name, home_dir() / "evaluations" / name
    if explain_unwritable(beside) is None:
        return beside
    obstacle = explain_unwritable(at_home)
    if obstacle is None:
        return at_home
    raise DeviceError(
        f"answers cannot be kept, neither {beside} nor {at_home} can be written: {obstacle}",
        "name a folder that can be written: `export TINYV_HOME=DIR`",
    )
