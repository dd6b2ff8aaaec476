"""One record as a file holds it: its fields, each checked when it is taken."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never, TypeVar

from tinyv_cli.errors import InputError
from tinyv_cli.evaluation.published.records import Picture

T = TypeVar("T")

_SHOWN_LETTERS = 40
_KINDS: dict[type, str] = {str: "a text", int: "a whole number"}


@dataclass(frozen=True)
class Row:
    """One record of a file.

    Attributes:
        path: of the file.
        where: line, row or key in it.
        values: by name.
        picture: that the file holds itself; None where it lies in a folder.
    """

    path: Path
    where: str
    values: dict[str, Any]
    picture: Picture | None = None

    @property
    def place(self) -> str:
        """Names it in messages."""
        return f"{self.where} of {self.path}"

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str) -> str:
        """Takes a text.

        Raises:
            InputError: there is none of this name.
        """
        return self._take(name, str)

    def whole(self, name: str) -> int:
        """Takes a whole number.

        Raises:
            InputError: there is none of this name.
        """
        return self._take(name, int)

    def texts(self, name: str) -> tuple[str, ...]:
        """Takes a list of texts, or of objects with an `answer`; also one written as Python.

        Raises:
            InputError: there is none of this name, or it is empty.
        """
        value = self.values.get(name)
        if isinstance(value, str):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                self.refuse(f"its '{name}' is no list: {value[:_SHOWN_LETTERS]}")
        if not isinstance(value, list | tuple) or not value:
            self._refuse_absent(name, "a list of texts")
        said = [each.get("answer") if isinstance(each, dict) else each for each in value]
        texts = tuple(each for each in said if isinstance(each, str))
        if len(texts) < len(said):
            self.refuse(f"its '{name}' is no list of texts")
        return texts

    def numbers(self, name: str, n: int) -> Sequence[float]:
        """Takes a list of so many numbers.

        Raises:
            InputError: there is none of this name.
        """
        value = self.values.get(name)
        is_numbers = isinstance(value, list) and len(value) == n
        if not is_numbers or not all(type(each) in (int, float) for each in value or ()):
            self._refuse_absent(name, f"a list of {n} numbers")
        return [float(each) for each in value or ()]

    def one_of(self, name: str, meanings: dict[str, str]) -> str:
        """Takes a field that has one of some values, whatever its case and type.

        Args:
            name: of the field.
            meanings: by value in lower case, what it stands for.

        Raises:
            InputError: there is none of this name, or it has another value.
        """
        if name not in self:
            self._refuse_absent(name, " or ".join(meanings))
        value = str(self.values[name]).strip().lower()
        if value not in meanings:
            self.refuse(f"its '{name}' is {value[:_SHOWN_LETTERS]!r}, not {' or '.join(meanings)}")
        return meanings[value]

    def refuse(self, reason: str) -> Never:
        """Refuses the record.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.place} cannot be used: {reason}",
            "fetch the file again, or name the right split: `tinyv eval PATH --benchmark NAME`",
        )

    def _take(self, name: str, kind: type[T]) -> T:
        value = self.values.get(name)
        if type(value) is not kind:  # isinstance would take True for a number
            self._refuse_absent(name, _KINDS[kind])
        return value

    def _refuse_absent(self, name: str, kind: str) -> Never:
        """Refuses the record for what it has under a name, or has not."""
        if name in self:
            self.refuse(f"its '{name}' is not {kind}")
        present = [str(each)[:_SHOWN_LETTERS] for each in self.values]
        self.refuse(f"it has no '{name}', only {', '.join(present) or 'nothing'}")
