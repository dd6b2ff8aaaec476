"""A `python -m weights.…` command ends as `tinyv` does: a line on stdout, or two for a failure."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from tinyv_cli.console import Console
from tinyv_cli.errors import TinyvError


def run_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace, Console], Path],
    arguments: Sequence[str] | None,
) -> None:
    """Parses, works, and prints the path of what was made.

    Args:
        parser: of the command.
        work: does what was asked for.
        arguments: instead of the process's own.

    Raises:
        SystemExit: the command line is wrong, or a `TinyvError` was told on stderr.
    """
    parsed = parser.parse_args(arguments)
    console = Console()
    try:
        console.write_line(str(work(parsed, console)))
    except TinyvError as error:
        console.write_error(error)
        raise SystemExit(int(error.exit_code)) from error
