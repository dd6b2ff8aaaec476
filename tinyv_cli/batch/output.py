"""Lines about pictures go to a file that a killed run leaves fit to go on with; asks nothing.

The file holds a line a picture and nothing else. The settings it was begun with lie beside it.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyv_cli.batch.finding import identify
from tinyv_cli.batch.settings import (
    Settings,
    SettingsFile,
    open_settings,
    resolve_settings,
    tell_differences,
)
from tinyv_cli.disk.json_lines import JsonLines, explain_unwritable, to_line
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.errors import DeviceError, UsageError

_ANOTHER = "name another file: `-o FILE.jsonl`"
_START_AGAIN = "start again: `--fresh`"
_LONGEST_LINE = 1 << 20


class Output:
    """The lines of a batch, on disk.

    Attributes:
        answers: by `finding.identify` of each picture that has its line; None where it failed.
    """

    def __init__(self, path: Path) -> None:
        self.answers: dict[Path, str | None] = {}
        self._lines = JsonLines(path)
        self._whole: list[dict[str, Any]] = []
        self._read()

    def write(self, line: dict[str, Any]) -> None:
        """Adds a picture's line; once this returns, killing the process does not lose it.

        Raises:
            DeviceError: it cannot be written; the lines before it are whole.
        """
        try:
            self._lines.append(line)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DeviceError(
                f"{self._lines.path} cannot be written: {reason}",
                "make room; the same command then goes on from there",
            ) from error
        self.answers[identify(Path(line["path"]))] = line.get("answer")

    def drop_failures(self) -> None:
        """Forgets the pictures that failed.

        Raises:
            OSError: the disk is full; the file is as it was.
        """
        good = [line for line in self._whole if "answer" in line]
        if len(good) < len(self._whole):
            path = self._lines.path
            fresh = path.with_name(f"{path.name}.tmp")
            try:
                fresh.write_bytes(b"".join(to_line(line) for line in good))
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
            self._read()

    def _read(self) -> None:
        """Reads all lines; a broken last one is dropped.

        Raises:
            UsageError: another one is broken, which no kill explains.
        """
        self.answers.clear()
        self._whole.clear()
        rest = self._lines.read(self._take)
        if len(rest.splitlines()) > 1:
            number, path = len(self._whole) + 1, self._lines.path
            raise UsageError(
                f"line {number} of {path} is none of tinyv batch",
                f"remove it: `sed -i {number}d {shlex.quote(str(path))}`, or {_START_AGAIN}",
            )

    def _take(self, text: bytes) -> bool:
        """Keeps a line; tells whether it was one."""
        line = _read_line(text)
        if line is not None:
            self._whole.append(line)
            self.answers[identify(Path(line["path"]))] = line.get("answer")
        return line is not None


@contextmanager
def open_output(path: Path, settings: Settings, *, fresh: bool, retries: bool) -> Iterator[Output]:
    """Opens a file of lines to begin it, or to go on with it.

    Args:
        path: the file; it and its folder are made where there are none.
        settings: that answers are made with.
        fresh: begins anew whatever the file holds.
        retries: forgets pictures that failed.

    Raises:
        UsageError: the file is none of a batch or was begun with other settings, or another
            process is writing it.
        DeviceError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file to keep lines in", f"{_ANOTHER}, or `-o -` for stdout")
    obstacle = explain_unwritable(path) or explain_unwritable(resolve_settings(path))
    if obstacle:
        raise DeviceError(f"{path} cannot be written: {obstacle}", _ANOTHER)
    with open_settings(path) as kept:
        if fresh:
            _check_is_ours(path, kept)
            JsonLines(path).clear()
        if not path.exists() or path.stat().st_size == 0:
            kept.write(settings)
        else:
            _check_goes_on(path, kept.read(), settings)
        output = Output(path)
        if retries:
            output.drop_failures()
        yield output


def _check_goes_on(path: Path, before: Settings | None, settings: Settings) -> None:
    """Refuses to mix answers.

    Raises:
        UsageError: the lines were made with other settings, or nobody knows with which.
    """
    if before is None:
        raise UsageError(
            f"{path} is there already, and no settings beside it tell how it was made",
            f"{_ANOTHER}, or {_START_AGAIN}",
        )
    if differences := tell_differences(before, settings):
        raise UsageError(
            f"{path} was begun with other settings: {differences}",
            f"give the same, {_ANOTHER}, or {_START_AGAIN}",
        )


def _check_is_ours(path: Path, kept: SettingsFile) -> None:
    """Keeps `--fresh` from replacing what no batch has written.

    Raises:
        UsageError: the file holds something else.
    """
    if kept.read() is None and path.exists():
        with path.open("rb") as file:
            first = file.readline(_LONGEST_LINE)
        if first and _read_line(first) is None:
            raise UsageError(f"{path} is none of tinyv batch", f"remove it, or {_ANOTHER}")


def _read_line(text: bytes) -> dict[str, Any] | None:
    """A picture's line; None where it is none."""
    try:
        line = read_object(text)
    except (ValueError, RecursionError):
        return None
    is_line = isinstance(line.get("answer"), str) or isinstance(line.get("error"), dict)
    return line if is_line and isinstance(line.get("path"), str) else None
