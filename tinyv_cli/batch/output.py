"""Lines about pictures go to a file that a killed run leaves fit to go on with; asks nothing.

The file holds a line a picture and nothing else, so that `jq` and `wc -l` mean what they say. The
settings it was begun with lie beside it.
"""

import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tinyv_cli.batch.finding import identify
from tinyv_cli.batch.settings import (
    Settings,
    format_differences,
    read_settings,
    write_settings,
)
from tinyv_cli.disk.json_lines import JsonLines, explain_unwritable
from tinyv_cli.disk.lock import hold
from tinyv_cli.disk.paths import exists, is_file
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.errors import DeviceError, UsageError, describe_os_error

ToKey = Callable[[str], Path]

_ANOTHER = "name another file: `-o FILE.jsonl`"
_START_AGAIN = "start again: `--fresh`"
_LONGEST_LINE = 1 << 20  # bytes


def to_file(name: str) -> Path:
    """Returns one name for a file, given that of its line."""
    return identify(Path(name))


class Output:
    """The lines of a batch, on disk.

    Args:
        path: the file.
        to_key: returns one name for a picture, given its line's.

    Attributes:
        answers: by the key of each picture that has its line; None where it failed.
    """

    def __init__(self, path: Path, to_key: ToKey) -> None:
        """Reads the lines there are; a broken last one is dropped.

        Raises:
            UsageError: another one is broken, which no kill explains.
        """
        self._lines = JsonLines(path, partial(to_entry, to_key=to_key))
        self.answers = self._lines.entries
        # `eval` drops what follows, since its file is its own; these lines are the user's.
        if len(self._lines.rest.splitlines()) > 1:
            number = self._lines.n_lines + 1
            raise UsageError(
                f"line {number} of {path} was not written by tinyv batch",
                f"remove it: `sed -i {number}d {shlex.quote(str(path))}`, or {_START_AGAIN}",
            )

    def write(self, line: dict[str, Any]) -> None:
        """Adds a picture's line; once this returns, killing the process does not lose it.

        Raises:
            DeviceError: it cannot be written; the lines before it are whole.
        """
        self._lines.append(line)

    def sync(self) -> None:
        """Makes every line survive a power cut.

        Raises:
            DeviceError: the disk refuses.
        """
        self._lines.sync()

    def drop_failures(self) -> None:
        """Forgets the pictures that failed.

        Raises:
            DeviceError: it cannot be written; the file is as it was.
        """
        self._lines.drop(lambda answer: answer is None)


def describe_done(n_pictures: int, n_pending: int, name: str) -> str:
    """Returns the note about pictures that have their line already; empty where none has."""
    if n_pending == n_pictures:
        return ""
    done = f"{n_pictures - n_pending} of {n_pictures} pictures have their line in {name}"
    return f"{done}; `--fresh` starts again"


def hold_output(path: Path) -> AbstractContextManager[None]:
    """Holds an output for this process.

    Raises:
        UsageError: another process is writing it.
    """

    def refuse() -> None:
        raise UsageError(
            f"another tinyv is writing {path}", "wait for it, or name another file: `-o FILE`"
        )

    return hold(path, refuse)


def check_settings(name: str, before: Settings | None, settings: Settings) -> None:
    """Checks that an output goes on as it was begun.

    Args:
        name: of the output.
        before: that it was begun with; None where it does not say.
        settings: that answers are made with now.

    Raises:
        UsageError: it does not.
    """
    if before is None:
        raise UsageError(
            f"{name} is there already, without settings that say how it was made",
            f"{_ANOTHER}, or {_START_AGAIN}",
        )
    if differences := format_differences(before, settings):
        # The default variant may be another now, since one was made or removed.
        is_other = before.model != settings.model
        same = f"`-m {shlex.quote(before.model)}`" if is_other else "the same"
        raise UsageError(
            f"{name} was begun with other settings: {differences}",
            f"give {same}, {_ANOTHER}, or {_START_AGAIN}",
        )


@contextmanager
def open_output(
    path: Path, settings: Settings, to_key: ToKey = to_file, *, fresh: bool, retries: bool
) -> Iterator[Output]:
    """Opens a file of lines to begin it, or to go on with it; for one process at a time.

    Args:
        path: the file; it and its folder are made where there are none.
        settings: that answers are made with.
        to_key: as in `Output`.
        fresh: begins anew whatever the file holds, if a batch has written it.
        retries: forgets pictures that failed.

    Raises:
        UsageError: the file is none of a batch or was begun with other settings, or another
            process is writing it.
        DeviceError: it cannot be written.
    """
    if exists(path) and not is_file(path):
        raise UsageError(f"{path} is not a regular file", f"{_ANOTHER}, or `-o -` for stdout")
    with ExitStack() as held:
        try:
            held.enter_context(hold_output(path))
            problem = explain_unwritable(path)
            if problem is not None:
                raise DeviceError(f"{path} cannot be written: {problem}", _ANOTHER)
            before = read_settings(path)
            if fresh:
                if before is None and path.exists():
                    _check_is_ours(path)
                path.unlink(missing_ok=True)
            if not path.exists() or path.stat().st_size == 0:
                write_settings(path, settings)
            else:
                check_settings(str(path), before, settings)
            output = Output(path, to_key)
            if retries:
                output.drop_failures()
        except OSError as error:
            problem = describe_os_error(error)
            raise DeviceError(f"{path} cannot be written: {problem}", _ANOTHER) from error
        try:
            yield output
        finally:
            output.sync()


def _check_is_ours(path: Path) -> None:
    """Checks that a file, if it holds anything, begins with a picture's line.

    Raises:
        UsageError: it holds something else, which `--fresh` does not replace.
    """
    with path.open("rb") as file:
        first = file.readline(_LONGEST_LINE)
    try:
        if first:
            to_entry(read_object(first), Path)
    except (ValueError, RecursionError) as error:
        problem = f"{path} was not written by tinyv batch"
        raise UsageError(problem, f"remove it, or {_ANOTHER}") from error


def to_entry(line: dict[str, Any], to_key: ToKey) -> tuple[Path, str | None]:
    """Reads which picture a line is about, and its answer, None where there is none.

    Raises:
        ValueError: it is no line of a batch.
    """
    path, answer = line.get("path"), line.get("answer")
    has_failed = isinstance(line.get("error"), dict)
    if not isinstance(path, str) or not (isinstance(answer, str) or has_failed):
        raise ValueError("it is no picture's line")
    return to_key(path), answer if isinstance(answer, str) else None
