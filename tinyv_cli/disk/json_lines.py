"""JSON documents are appended to a file, one a line, and read again after a kill.

A killed run leaves whole lines and at most one broken one at the end, which the next line replaces.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tinyv_cli.errors import describe_os_error


class JsonLines:
    """One file of JSON documents, which is made with the first of them.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._n_sound_bytes: int | None = None  # where a broken end is to be cut off

    def read(self, take: Callable[[bytes], bool]) -> bytes:
        """Hands over one whole line after the other, until there is none or one is refused.

        Args:
            take: is given a line with its newline; returns whether it can be used.

        Returns:
            The line that was refused and all that follows; the next `append` cuts it off.
        """
        self._n_sound_bytes = None
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        n_bytes = 0
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n") or not take(line):
                self._n_sound_bytes = n_bytes
                break
            n_bytes += len(line)
        return content[n_bytes:]

    def append(self, document: object) -> None:
        """Writes a line; once this returns, killing the process does not lose it.

        Raises:
            OSError: it cannot be written, as when the disk is full; nothing of it is left then.
        """
        with self.path.open("ab", buffering=0) as file:
            if self._n_sound_bytes is not None:
                file.truncate(self._n_sound_bytes)
                self._n_sound_bytes = None
            start = file.seek(0, os.SEEK_END)
            try:
                line = memoryview(to_line(document))
                while line:  # a nearly full disk takes a part
                    line = line[file.write(line) or 0 :]
            except BaseException:
                with suppress(OSError):
                    file.truncate(start)
                raise

    def clear(self) -> None:
        """Removes the file."""
        self.path.unlink(missing_ok=True)
        self._n_sound_bytes = None


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
