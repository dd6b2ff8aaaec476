"""Parquet files of the model hub become rows; pictures stay in the file until they are needed.

A picture costs the reading of its row group, of which the last one is kept: rows in their order
read each group once. pyarrow is imported when there is such a file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.evaluation.published.loaders.rows import Row
from tinyv_cli.evaluation.published.records import Picture

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_HINT = "fetch it again, and compare its size with the publisher's: `ls -l FILE`"


def read_parquet_rows(paths: Sequence[Path], picture: str = "image") -> Iterator[Row]:
    """Yields the rows of the parts of one split.

    Args:
        paths: of the parts, in order.
        picture: the column with the picture, if there is one.

    Raises:
        InputError: a part cannot be read.
        UsageError: pyarrow is not installed.
    """
    for path in paths:
        file = _open(path)
        names = [each.name for each in file.schema_arrow if not _is_picture(each.type)]
        n_row = 0
        for group in range(file.num_row_groups):
            for n_in_group, values in enumerate(_read_group(path, group, tuple(names))):
                row = Row(path, f"row {n_row}", values)
                if picture in file.schema_arrow.names:
                    read = partial(_read_picture, path, group, n_in_group, picture, row.place)
                    row = replace(row, picture=Picture(row.place, read))
                yield row
                n_row += 1


def _open(path: Path) -> "ParquetFile":
    """Opens a part."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{path} needs pyarrow, which is not installed",
            "install it: `pip install 'tinyv[parquet]'`",
        ) from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"{path} is no parquet file: {reason}", _HINT) from error


def _is_picture(kind: Any) -> bool:  # noqa: ANN401 - a type of pyarrow's
    """Returns whether a column is a struct of a picture's bytes and path."""
    return str(kind).startswith("struct<bytes: binary")


def _read_group(path: Path, group: int, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Reads some columns of a row group."""
    from pyarrow import ArrowException

    try:
        rows: list[dict[str, Any]] = (
            _open(path).read_row_group(group, columns=list(columns)).to_pylist()
        )
    except (ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"{path} is damaged: {reason}", _HINT) from error
    return rows


@lru_cache(maxsize=1)
def _read_pictures(path: Path, group: int, column: str) -> list[dict[str, Any]]:
    """Reads the pictures of a row group; the last ones are kept."""
    return _read_group(path, group, (column,))


def _read_picture(path: Path, group: int, n_in_group: int, column: str, place: str) -> bytes:
    """Reads the picture of one row."""
    held = _read_pictures(path, group, column)[n_in_group][column]
    content = held.get("bytes") if isinstance(held, dict) else None
    if not content:
        raise InputError(f"{place} holds no picture", _HINT)
    return bytes(content)
