"""Ends a `python -m weights.…` command as `tinyv` ends: an error is two lines and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

from tinyv_cli.console import Console
from tinyv_cli.errors import TinyvError


@contextmanager
def open_console() -> Iterator[Console]:
    """Opens a console for one command.

    Raises:
        SystemExit: the block raised a `TinyvError`, which was written to stderr.
    """
    console = Console()
    try:
        yield console
    except TinyvError as error:
        console.write_error(error)
        raise SystemExit(int(error.exit_code)) from error
