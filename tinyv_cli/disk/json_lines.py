"""JSON objects become entries of a file, a line each, that are read again after a kill.

A killed run leaves whole lines and at most one broken one at the end, which the next line replaces.
A power cut can take the lines of the last second too.
"""

import json
import math
import os
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from tinyv_cli.disk.paths import exists
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.disk.whole_file import sync_folder, write_whole
from tinyv_cli.disk.writing import writing
from tinyv_cli.errors import DeviceError, describe_os_error

K = TypeVar("K")
V = TypeVar("V")

_SYNC_EVERY_S = 1.0
_WAY_OUT = "make room or allow it; the same command then goes on from there"


class JsonLines(Generic[K, V]):
    """Entries by key, in memory and in a file; a later one replaces an earlier one.

    Args:
        path: the file; it is made with its first entry.
        to_entry: makes key and value of a line's object; raises ValueError where it is no entry.

    Raises:
        DeviceError: the file is there and cannot be read.

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
        self._synced_s = -math.inf
        self._is_synced = True
        self._read()

    def append(self, line: dict[str, Any]) -> None:
        """Adds an entry; once this returns, killing the process does not lose it.

        Raises:
            DeviceError: it cannot be written, as when the disk is full; nothing of it is left then.
        """
        with writing(self.path, _WAY_OUT), self.path.open("ab", buffering=0) as file:
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
            self._is_synced = False
            if time.monotonic() - self._synced_s >= _SYNC_EVERY_S:  # a sync takes milliseconds
                self._sync(file.fileno())
        key, value = self._to_entry(line)
        self.entries[key] = value

    def sync(self) -> None:
        """Makes every entry survive a power cut.

        Raises:
            DeviceError: the disk refuses.
        """
        if not self._is_synced:
            with writing(self.path, _WAY_OUT), self.path.open("ab") as file:
                self._sync(file.fileno())

    def drop(self, is_dropped: Callable[[V], bool]) -> None:
        """Rewrites the file without some of its entries.

        Raises:
            DeviceError: it cannot be written; the file is as it was.
        """
        lines = self._read()
        kept = [line for line, value in lines if not is_dropped(value)]
        if len(kept) < len(lines):
            with writing(self.path, _WAY_OUT):
                write_whole(self.path, b"".join(kept))
            self._read()

    def clear(self) -> None:
        """Removes the file and forgets every entry.

        Raises:
            DeviceError: it cannot be removed.
        """
        with writing(self.path, _WAY_OUT):
            self.path.unlink(missing_ok=True)
        self._read()

    def _sync(self, opened: int) -> None:
        """Waits until the open file is on the disk, the first time its name as well."""
        os.fsync(opened)
        if self._synced_s == -math.inf:
            sync_folder(self.path.parent)
        self._synced_s, self._is_synced = time.monotonic(), True

    def _read(self) -> list[tuple[bytes, V]]:
        """Reads the entries anew; returns their lines with their values.

        Raises:
            DeviceError: the file is there and cannot be read.
        """
        self.entries.clear()
        lines: list[tuple[bytes, V]] = []
        content = b""
        try:
            content = read_bytes(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DeviceError(
                f"{self.path} cannot be read: {describe_os_error(error)}",
                f"allow it: `chmod u+rw {shlex.quote(str(self.path))}`",
            ) from error
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
    is_new = not exists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        return describe_os_error(error)
    return None
