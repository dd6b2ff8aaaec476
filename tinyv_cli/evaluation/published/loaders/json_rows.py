"""Files of JSON become rows: a list, an object by id, or an object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.errors import InputError, describe_os_error
from tinyv_cli.evaluation.published.loaders.rows import Row

_HINT = "fetch it again, and compare its size with the publisher's: `ls -l FILE`"


def read_text(path: Path) -> str:
    """Reads a file of UTF-8; a byte order mark is dropped.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {describe_os_error(error)}", _HINT) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", _HINT) from error


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Reads a file that is one JSON document.

    Raises:
        InputError: it cannot be read, or is none.
    """
    return _parse(read_text(path), str(path))


def read_json_rows(path: Path, inside: str | None = None) -> Iterator[Row]:
    """Yields the rows of a list or of an object by id.

    Args:
        path: of the file.
        inside: the key that the list stands under, where it is not the whole document.

    Raises:
        InputError: the file is none of this.
    """
    document = read_json(path)
    if inside is not None and isinstance(document, dict):
        document = document.get(inside)
    if isinstance(document, dict):
        places = [(f"'{key}'", each) for key, each in document.items()]
    elif isinstance(document, list):
        places = [(f"record {i}", each) for i, each in enumerate(document)]
    else:
        raise InputError(f"{path} holds no list of records", _HINT)
    for where, each in places:
        yield _to_row(path, where, each)


def read_json_line_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a file with an object a line; blank lines are passed over.

    Raises:
        InputError: a line is none.
    """
    for n_line, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            where = f"line {n_line}"
            yield _to_row(path, where, _parse(line, f"{where} of {path}"))


def _parse(text: str, place: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, character {error.colno}"
        raise InputError(f"{place} is not JSON: {error.msg.lower()} ({where})", _HINT) from error
    except RecursionError as error:
        raise InputError(f"{place} is nested too deep", _HINT) from error


def _to_row(path: Path, where: str, value: object) -> Row:
    if not isinstance(value, dict):
        raise InputError(f"{where} of {path} is not an object", _HINT)
    return Row(path, where, value)
