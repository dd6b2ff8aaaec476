"""Lines about pictures go to a file that a killed run leaves fit to go on with; asks nothing.

The file holds a line a picture and nothing else, so that `jq` and `wc -l` mean what they say. The
settings it was begun with lie beside it.
"""

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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

_ANOTHER = "name another file: `-o FILE.jsonl`"
_START_AGAIN = "start again: `--fresh`"
_LONGEST_LINE = 1 << 20  # bytes


class Output:
    """The lines of a batch, on disk.

    Attributes:
        answers: by `finding.identify` of each picture that has its line; None where it failed.
    """

    def __init__(self, path: Path) -> None:
        """Reads the lines there are; a broken last one is dropped.

        Raises:
            UsageError: another one is broken, which no kill explains.
        """
        self._lines = JsonLines(path, _to_entry)
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


@contextmanager
def open_output(path: Path, settings: Settings, *, fresh: bool, retries: bool) -> Iterator[Output]:
    """Opens a file of lines to begin it, or to go on with it; for one process at a time.

    Args:
        path: the file; it and its folder are made where there are none.
        settings: that answers are made with.
        fresh: begins anew whatever the file holds, if a batch has written it.
        retries: forgets pictures that failed.

    Raises:
        UsageError: the file is none of a batch or was begun with other settings, or another
            process is writing it.
        DeviceError: it cannot be written.
    """

    def refuse() -> None:
        raise UsageError(
            f"another tinyv is writing {path}", "wait for it, or name another file: `-o FILE`"
        )

    if exists(path) and not is_file(path):
        raise UsageError(f"{path} is not a regular file", f"{_ANOTHER}, or `-o -` for stdout")
    with ExitStack() as held:
        try:
            held.enter_context(hold(path, refuse))
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
            elif before is None:
                raise UsageError(
                    f"{path} is there already, without settings that say how it was made",
                    f"{_ANOTHER}, or {_START_AGAIN}",
                )
            elif differences := format_differences(before, settings):
                # The default variant may be another now, since one was made or removed.
                is_other = before.model != settings.model
                same = f"`-m {shlex.quote(before.model)}`" if is_other else "the same"
                raise UsageError(
                    f"{path} was begun with other settings: {differences}",
                    f"give {same}, {_ANOTHER}, or {_START_AGAIN}",
                )
            output = Output(path)
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
            _to_entry(read_object(first))
    except (ValueError, RecursionError) as error:
        problem = f"{path} was not written by tinyv batch"
        raise UsageError(problem, f"remove it, or {_ANOTHER}") from error


def _to_entry(line: dict[str, Any]) -> tuple[Path, str | None]:
    """Reads which picture a line is about, and its answer, None where there is none.

    Raises:
        ValueError: it is no line of a batch.
    """
    path, answer = line.get("path"), line.get("answer")
    has_failed = isinstance(line.get("error"), dict)
    if not isinstance(path, str) or not (isinstance(answer, str) or has_failed):
        raise ValueError("it is no picture's line")
    return identify(Path(path)), answer if isinstance(answer, str) else None
