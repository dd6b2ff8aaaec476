"""An option that is declared once becomes typer's, with flags, variable and help.

A flag's variable is called after it: `--max-tokens` is also `TINYV_MAX_TOKENS`; a flag wins.
"""

import inspect
import math
import os
import re
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import typer

from tinyv_cli.addresses import is_data_url
from tinyv_cli.disk import paths
from tinyv_cli.errors import UsageError

_TOO_MANY_BYTES = 2**63  # no memory has
_LEAST_BARE_BYTES = 1_000_000  # of a size without a unit: below, the unit was forgotten

# The groups that a verb's help shows its options in, in this order.
ASK, TASK, ANSWERS, OUTPUT, MACHINE, OTHER = PANELS = (
    "What to ask",
    "What to do",
    "Answers",
    "Output",
    "Machine",
    "Options",
)

T = TypeVar("T")
N = TypeVar("N", int, float)


def takes(arguments: Callable[..., T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Makes a verb that takes one dataclass into a function with an argument a field, for typer."""

    def declare(verb: Callable[[T], None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**values: object) -> None:
            verb(arguments(**values))

        signature = inspect.signature(arguments)
        hints = {name: each.annotation for name, each in signature.parameters.items()}
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {**hints, "return": None}
        return command

    return declare


def option(
    *flags: str,
    help: str,
    panel: str = TASK,
    metavar: str | None = None,
    reads: Callable[[str], object] | None = None,
    splits: Callable[[str], list[str]] | None = None,
    completes: Callable[[str], list[str]] | None = None,
) -> object:
    """Declares an option, with a variable that is called after its last flag, the long one.

    Args:
        flags: as they are typed.
        help: of one line.
        panel: the group of `PANELS` that the help shows it in; an empty one hides it.
        metavar: what stands for its value in the help.
        reads: makes the value of a text, and raises where it is none.
        splits: makes the values of an option that may stand again of its variable; typer would
            split that at each blank.
        completes: lists the values that a shell may offer for what was begun.
    """

    def split_variable(
        context: typer.Context, parameter: typer.CallbackParam, value: list[str] | None
    ) -> list[str] | None:
        source = context.get_parameter_source(parameter.name or "")
        if splits is None or source is None or source.name != "ENVIRONMENT":
            return value
        return splits(os.environ[to_variable(flags[-1])])

    return typer.Option(
        *flags,
        help=help,
        metavar=metavar,
        rich_help_panel=panel,
        autocompletion=completes,
        hidden=not panel,
        parser=reads,
        callback=None if splits is None else split_variable,
        envvar=to_variable(flags[-1]),
        show_envvar=False,
    )


def to_variable(flag: str) -> str:
    """Returns the variable of a flag: `--max-tokens` → `TINYV_MAX_TOKENS`."""
    return "TINYV_" + flag.removeprefix("--").replace("-", "_").upper()


def split_lines(text: str) -> list[str]:
    """Splits a variable's value into its lines; empty ones are passed over."""
    return [line for line in text.replace("\r\n", "\n").split("\n") if line]


def split_paths(text: str) -> list[str]:
    """Splits a variable's value as `PATH` is split; with a URL or a line's end in it, into lines.

    The colon that separates paths also stands in every URL, and may stand in a file's name.
    """
    if paths.exists(text):
        return [text]
    is_path_list = "\n" not in text and "://" not in text and not is_data_url(text)
    return [each for each in text.split(os.pathsep) if each] if is_path_list else split_lines(text)


def whole(flag: str, at_least: float = -math.inf) -> Callable[[str], int]:
    """Makes a reader of whole numbers for a flag."""
    return _reader(int, flag, "a whole number", at_least)


def real(flag: str, at_least: float = -math.inf) -> Callable[[str], float]:
    """Makes a reader of numbers for a flag; without a bound also of NaN and infinity."""
    return _reader(float, flag, "a number", at_least)


def _reader(
    kind: Callable[[str], N], flag: str, expected: str, at_least: float
) -> Callable[[str], N]:
    """Makes a function that reads a number, and raises a `UsageError` where a text is none."""
    if at_least > -math.inf:
        expected += f", {at_least:g} or more"

    def read(text: str) -> N:
        try:
            number = kind(text)
        except ValueError as error:
            raise _make_value_error(flag, text, expected) from error
        if at_least > -math.inf and not at_least <= number < math.inf:
            raise _make_value_error(flag, text, expected)
        return number

    return read


def size(flag: str) -> Callable[[str], int]:
    """Reads bytes for a flag: a number with B, KB, MB, GB or binary kin, as 6GB or 900MiB."""

    def read_bytes(text: str) -> int:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
        if found is None or not float(found[1]):
            raise _make_value_error(flag, text, "a size, such as 6GB or 900MiB")
        number, has_unit = float(found[1]), text.strip()[-1].isalpha()
        if number < _LEAST_BARE_BYTES and not has_unit:
            unit = f"a unit, such as {found[1]}GB or {found[1]}MB; without one it is bytes"
            raise _make_value_error(flag, text, unit)
        exponent = " kmgt".index(found[2] or " ")
        size_bytes = number * (1024 if found[3] else 1000) ** exponent
        if size_bytes >= _TOO_MANY_BYTES:
            raise _make_value_error(flag, text, "a size, such as 6GB or 900MiB")
        return int(size_bytes)

    return read_bytes


def _make_value_error(flag: str, text: str, expected: str) -> UsageError:
    """Makes the error of a value that an option cannot have."""
    return UsageError(
        f"'{text}' is no value for {flag}",
        f"give {flag} (or the variable {to_variable(flag)}) {expected}",
    )
