"""Ends a `python -m weights.…` command as `tinyv` ends: an error is two lines and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

from tinyv_cli.console import Console
from tinyv_cli.disk.writing import to_planned


@contextmanager
def open_console() -> Iterator[Console]:
    """Opens a console for one command.

    Raises:
        SystemExit: the block failed as planned, which was written to stderr.
    """
    console = Console()
    try:
        yield console
    except Exception as error:
        failure = to_planned(error)
        if failure is None:
            raise
        console.write_error(failure)
        raise SystemExit(int(failure.exit_code)) from error
