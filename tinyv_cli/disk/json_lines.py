"""JSON objects become entries of a file, a line each, that are read again after a kill.

A killed run leaves whole lines and at most one broken one at the end, which the next line replaces.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.disk.whole_file import write_whole
from tinyv_cli.errors import describe_os_error

K = TypeVar("K")
V = TypeVar("V")


class JsonLines(Generic[K, V]):
    """Entries by key, in memory and in a file; a later one replaces an earlier one.

    Args:
        path: the file; it is made with its first entry.
        to_entry: makes key and value of a line's object; raises ValueError where it is no entry.

    Attributes:
        entries: of the whole lines.
        n_lines: as many of them were read.
        rest: the first line that is no entry and all that follow; the next `append` cuts them off.
    """

    def __init__(self, path: Path, to_entry: Callable[[dict[str, Any]], tuple[K, V]]) -> None:
        self.path = path
        self.entries: dict[K, V] = {}
        self.n_lines = 0
        self.rest = b""
        self._to_entry = to_entry
        self._n_sound_bytes = 0
        self._read()

    def append(self, line: dict[str, Any]) -> None:
        """Adds an entry; once this returns, killing the process does not lose it.

        Raises:
            OSError: it cannot be written, as when the disk is full; nothing of it is left then.
        """
        # No fsync: a kill loses nothing, and what a power cut may take is computed again.
        with self.path.open("ab", buffering=0) as file:
            if self.rest:
                file.truncate(self._n_sound_bytes)
                self.rest = b""
            start = file.seek(0, os.SEEK_END)
            try:
                left = memoryview(to_line(line))
                while left:  # a nearly full disk takes a part
                    left = left[file.write(left) or 0 :]
            except BaseException:
                with suppress(OSError):
                    file.truncate(start)
                raise
        key, value = self._to_entry(line)
        self.entries[key] = value

    def drop(self, is_dropped: Callable[[V], bool]) -> None:
        """Rewrites the file without some of its entries.

        Raises:
            OSError: it cannot be written; the file is as it was.
        """
        lines = self._read()
        kept = [line for line, value in lines if not is_dropped(value)]
        if len(kept) < len(lines):
            write_whole(self.path, b"".join(kept))
            self._read()

    def clear(self) -> None:
        """Removes the file and forgets every entry."""
        self.path.unlink(missing_ok=True)
        self._read()

    def _read(self) -> list[tuple[bytes, V]]:
        """Reads the entries anew; returns their lines with their values."""
        self.entries.clear()
        lines: list[tuple[bytes, V]] = []
        content = b""
        with suppress(FileNotFoundError):
            content = self.path.read_bytes()
        self._n_sound_bytes = 0
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                key, value = self._to_entry(read_object(line))
            except (ValueError, RecursionError):
                break
            self.entries[key] = value
            lines.append((line, value))
            self._n_sound_bytes += len(line)
        self.n_lines = len(lines)
        self.rest = content[self._n_sound_bytes :]
        return lines


def to_line(document: object) -> bytes:
    """Writes a document as one line of UTF-8; escapes what UTF-8 cannot hold (names of files)."""
    try:
        return (json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(document, allow_nan=False) + "\n").encode()


def explain_unwritable(path: Path) -> str | None:
    """Returns why a file cannot be appended to, None where it can; leaves no new file behind."""
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        return describe_os_error(error)
    return None
