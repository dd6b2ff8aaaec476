"""Words of a command line become rows: files, stored objects, or rows of tables; opens no picture.

Of parquet with pictures in it only the names are read here; their bytes are read where they are
answered.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from tinyv_cli.addresses import is_address, to_lasting_name, to_shown
from tinyv_cli.batch.cluster.storage import Place, is_remote, to_identity
from tinyv_cli.batch.finding import find_pictures
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.errors import InputError, TinyvError, UsageError
from tinyv_cli.pictures.decoding.formats import list_suffixes

TABLES = (".parquet", ".jsonl", ".ndjson")

_CONTENTS = ("bytes", "image", "content", "jpg", "png")
_WORDS = ("path", "url", "file_name", "image", "file")
_NAMES = ("path", "id", "url", "file_name", "key", "__key__")


@dataclass(frozen=True)
class RowGroup:
    """Pictures within a part of a parquet file.

    Attributes:
        file: the address.
        index: of the row group.
        column: of the bytes, with dots where it is inside another.
        names: of its rows.
    """

    file: str
    index: int
    column: str
    names: tuple[str, ...]

    def read(self, wanted: frozenset[str], n_rows: int) -> Iterator[pa.Table]:
        """Reads the pictures that are wanted, some at a time, into columns `path` and `bytes`."""
        place = Place(self.file)
        with place.reached(), place.files.open_input_file(place.path) as file:
            begin = 0
            table = parquet.ParquetFile(file)
            for batch in table.iter_batches(n_rows, row_groups=[self.index], columns=[self.column]):
                names = self.names[begin : begin + batch.num_rows]
                begin += batch.num_rows
                values = _reach(pa.Table.from_batches([batch]), self.column)
                rows = [index for index, name in enumerate(names) if name in wanted]
                if rows:
                    yield pa.table(
                        {
                            "path": [names[index] for index in rows],
                            "bytes": values.take(rows).cast(pa.binary()),
                        }
                    )


@dataclass(frozen=True)
class Source:
    """The pictures of a batch, in their order.

    Attributes:
        words: that open pictures, by the names of their lines.
        groups: of parquet files whose rows hold pictures.
        are_files: whether all names are paths, so that two ways to write one are the same.
    """

    words: Mapping[str, str]
    groups: Sequence[RowGroup] = field(default=())
    are_files: bool = False

    @property
    def names(self) -> list[str]:
        """The names of all lines."""
        return [*self.words, *(name for group in self.groups for name in group.names)]


@dataclass(frozen=True)
class Columns:
    """Columns of tables, where they are named.

    Attributes:
        picture: with bytes, paths or URLs.
        name: that tells rows apart.
    """

    picture: str | None = None
    name: str | None = None


def find_rows(
    words: Sequence[str],
    read_stdin: Callable[[], bytes],
    columns: Columns,
    *,
    recurses: bool,
) -> Source:
    """Lists what words name: pictures as `tinyv batch` finds them, stores, rows of tables.

    Args:
        words: paths, patterns, `-`, URLs of stores and of pictures, tables (`TABLES`).
        read_stdin: returns the content of stdin.
        columns: of the tables.
        recurses: whether sub-folders are looked through.

    Raises:
        InputError: a word names nothing, cannot be read, or a table lacks its columns.
        UsageError: two rows have one name.
    """
    found: dict[str, str] = {}
    groups: list[RowGroup] = []
    local: list[str] = []
    has_names = False
    for word in words:
        is_stored = is_remote(word)
        if word.partition("?")[0].lower().rstrip("/").endswith(TABLES):
            has_names = True
            groups += _read_tables(word, columns, found, recurses=recurses)
        elif is_stored:
            has_names = True
            files = Place(word).list_files(recurses=recurses)
            pictures = files
            if files != [word]:  # what is named itself is taken, whatever it is called
                suffixes = list_suffixes()
                pictures = [
                    each for each in files if Path(to_identity(each)).suffix.lower() in suffixes
                ]
            if not pictures:
                way_out = "name another place" if recurses else "`-r` looks below it too"
                raise InputError(f"there is no picture in {to_shown(word)}", way_out)
            for each in pictures:
                _add(found, to_identity(each), each)
        elif word.startswith(("http://", "https://")):
            has_names = True
            _add(found, to_lasting_name(word), word)
        else:
            local.append(word)
    if local:
        for path, word in find_pictures(local, read_stdin, recurses=recurses).items():
            _add(found, str(path), word)
    source = Source(found, tuple(groups), are_files=not has_names)
    twice = next((name for name, n in Counter(source.names).items() if n > 1), None)
    if twice is not None:
        raise _make_double_error(twice)
    return source


def _read_tables(
    word: str, columns: Columns, found: dict[str, str], *, recurses: bool
) -> list[RowGroup]:
    """Reads the tables that a word names: one, those in a folder called so, or of a pattern."""
    groups: list[RowGroup] = []
    files = Place(word).list_files(recurses=recurses)
    endings = [(each, each.partition("?")[0].lower()) for each in files]
    tables = [(each, ending) for each, ending in endings if ending.endswith(TABLES)]
    if not tables:
        raise InputError(f"there is no table {to_shown(word)}", "check its name")
    for file, ending in tables:
        if ending.endswith(".parquet"):
            groups += _read_parquet(file, columns, found)
        else:
            _read_json_lines(file, columns, found)
    return groups


def _add(found: dict[str, str], name: str, word: str) -> None:
    """Adds a picture; the same one again changes nothing.

    Raises:
        UsageError: another is called so.
    """
    if found.setdefault(name, word) != word:
        raise _make_double_error(name)


def _make_double_error(name: str) -> UsageError:
    return UsageError(
        f"two rows are called {name}",
        "name a column that tells them apart: `--id COLUMN`",
    )


def _read_parquet(file: str, columns: Columns, found: dict[str, str]) -> list[RowGroup]:
    """Reads the names of a file's rows; those whose pictures lie elsewhere are added to `found`."""
    place = Place(file)
    try:
        with place.files.open_input_file(place.path) as opened:
            table = parquet.ParquetFile(opened)
            types = _flatten(table.schema_arrow)
            picture, is_content = _choose_picture(file, columns, types)
            name = _choose_name(file, columns, picture, types)
            wanted = [name] if is_content else [name, picture]
            groups = []
            for index in range(table.num_row_groups):
                rows = table.read_row_group(index, columns=wanted)
                names = [str(each) for each in _reach(rows, name).to_pylist()]
                if is_content:
                    groups.append(RowGroup(file, index, picture, tuple(names)))
                else:
                    for each, word in zip(names, _reach(rows, picture).to_pylist(), strict=True):
                        _add(found, each, _join(file, str(word)))
            return groups
    except TinyvError:
        raise
    except Exception as error:  # a store's library has kinds of its own
        raise InputError(
            f"{to_shown(file)} cannot be read: {str(error)[:200].partition(chr(10))[0]}",
            "check that it is parquet, and that it may be read",
        ) from error


def _read_json_lines(file: str, columns: Columns, found: dict[str, str]) -> None:
    """Adds the pictures that the lines of a file name or hold."""
    for number, line in enumerate(Place(file).read().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = read_object(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"line {number} of {to_shown(file)} cannot be read: {error}",
                'a line is a JSON object: `{"path": "cat.png"}`',
            ) from error
        types = {key: pa.string() for key, value in row.items() if isinstance(value, str | int)}
        picture, _ = _choose_picture(file, columns, types)
        name = _choose_name(file, columns, picture, types)
        word = str(row[picture])
        is_base64 = picture == "bytes" and not is_address(word)
        _add(found, str(row[name]), f"data:;base64,{word}" if is_base64 else _join(file, word))


def _choose_picture(file: str, columns: Columns, types: Mapping[str, Any]) -> tuple[str, bool]:
    """Chooses the column of pictures; returns it and whether it holds their bytes."""
    if columns.picture is not None:
        for each in (columns.picture, f"{columns.picture}.bytes"):
            if each in types:
                return each, pa.types.is_binary(types[each]) or pa.types.is_large_binary(
                    types[each]
                )
    else:
        for each in (*_CONTENTS, *(f"{name}.bytes" for name in _CONTENTS)):
            if each in types and (
                pa.types.is_binary(types[each]) or pa.types.is_large_binary(types[each])
            ):
                return each, True
        for each in ("bytes", *_WORDS):
            if each in types and not pa.types.is_struct(types[each]):
                return each, False
    wanted = columns.picture or "bytes, image, path or url"
    raise InputError(
        f"{to_shown(file)} has no column {wanted}; it has {', '.join(types)}",
        "name the one with bytes, paths or URLs: `--column NAME`",
    )


def _choose_name(file: str, columns: Columns, picture: str, types: Mapping[str, Any]) -> str:
    """Chooses the column that tells rows apart."""
    inside = picture.removesuffix("bytes") + "path"
    wanted = [columns.name] if columns.name else [*_NAMES, inside]
    for each in wanted:
        if each in types and (each != picture or each in _WORDS):
            return each
    raise InputError(
        f"{to_shown(file)} has no column {columns.name or 'path or id'}, which tells rows apart; "
        f"it has {', '.join(types)}",
        "name one: `--id COLUMN`",
    )


def _flatten(schema: pa.Schema) -> dict[str, Any]:
    """Returns the types of columns, of those with parts also `column.part`."""
    types: dict[str, Any] = {}
    for each in schema:
        types[each.name] = each.type
        if pa.types.is_struct(each.type):
            types |= {f"{each.name}.{part.name}": part.type for part in each.type}
    return types


def _reach(table: pa.Table, column: str) -> pa.ChunkedArray:
    """Returns a column, or a part of one (`image.bytes`)."""
    if column in table.column_names:
        return table[column]
    whole, _, part = column.rpartition(".")
    return pa.chunked_array([chunk.field(part) for chunk in table[whole].chunks])


def _join(file: str, word: str) -> str:
    """Returns the address of a word of a table: a relative path starts from the table's folder."""
    if is_address(word) or Path(word).is_absolute():
        return word
    place = Place(file)
    return place.address_of(f"{place.path.rpartition('/')[0]}/{word}")
