"""VLMEvalKit's tables become rows: tab-separated, pictures in base64 or by another row's index.

Such a file can have a gigabyte. It is read once from end to end, and of each row is kept where it
begins; a picture is read again from there when it is needed.
"""

import ast
import binascii
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from tinyv_cli.errors import InputError, describe_os_error
from tinyv_cli.evaluation.published.loaders.rows import Row
from tinyv_cli.evaluation.published.records import Picture

_LONGEST_INDEX = 64  # letters; what is longer is a picture itself
_HINT = "fetch it again, and compare its size with the publisher's: `ls -l FILE`"


def read_tsv_rows(path: Path) -> list[Row]:
    """Reads the rows of a table.

    Raises:
        InputError: it cannot be read, is not UTF-8, has no heading, or a row has other columns.
    """
    try:
        with _long_cells(), path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {describe_os_error(error)}", _HINT) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", _HINT) from error
    except csv.Error as error:
        raise InputError(f"{path} is no table: {error}", _HINT) from error


def _read(path: Path, file: IO[bytes]) -> list[Row]:
    """Reads the rows of an open table."""
    reader = csv.reader((line.decode("utf-8-sig") for line in file), delimiter="\t")
    heading = next(reader, [])
    rows: list[dict[str, str]] = []
    pictures: dict[str, Picture] = {}  # by the index of the row that holds it
    start = file.tell()
    for n_row, cells in enumerate(reader):
        place = f"row {n_row} of {path}"
        if len(cells) != len(heading):
            problem = f"{place} has {len(cells)} cells, the heading {len(heading)}"
            raise InputError(f"{problem}: it is cut off, or no table", _HINT)
        rows.append(dict(zip(heading, cells, strict=True)))
        cell = rows[-1].get("image", "")
        if len(cell) > _LONGEST_INDEX:
            problem = ""
            try:
                _decode(cell)
            except ValueError as error:
                problem = f"the picture of {place} is cut off or no base64: {str(error).lower()}"
            read = partial(_read_picture, path, start, heading, place)
            rows[-1]["image"] = rows[-1].get("index", str(n_row))
            pictures[rows[-1]["image"]] = Picture(place, read, problem)
        start = file.tell()
    return [
        Row(path, f"row {n_row}", values, _find(pictures, values.pop("image", ""), n_row, path))
        for n_row, values in enumerate(rows)
    ]


def _find(pictures: Mapping[str, Picture], index: str, n_row: int, path: Path) -> Picture:
    """Finds the picture that a row holds or points to."""
    if index in pictures:
        return pictures[index]
    place = f"row {n_row} of {path}"
    problem = f"the picture of {place} is that of index {index!r}, a row that holds none"

    def refuse() -> bytes:
        raise InputError(problem, _HINT)

    return Picture(place, refuse, problem)


def _read_picture(path: Path, start: int, heading: Sequence[str], place: str) -> bytes:
    """Reads the picture of the row that begins at a byte of a table."""
    try:
        with _long_cells(), path.open("rb") as file:
            file.seek(start)
            cells = next(csv.reader((line.decode() for line in file), delimiter="\t"))
        return _decode(cells[heading.index("image")])
    except (OSError, ValueError, StopIteration, IndexError, csv.Error) as error:
        problem = f"the picture of {place} cannot be read: {str(error).lower()}"
        raise InputError(problem, _HINT) from error


def _decode(cell: str) -> bytes:
    """Decodes a picture, or the first of a list that holds no other; raises ValueError."""
    if cell.startswith("["):
        try:
            cells = ast.literal_eval(cell)
        except (SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError("the list of pictures does not end") from error
        if len(cells) != 1:
            raise ValueError(f"it holds {len(cells)} pictures, not one")
        [cell] = cells
    return binascii.a2b_base64(cell, strict_mode=True)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Lifts Python's limit of 131,072 letters a cell, which belongs to the process."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
