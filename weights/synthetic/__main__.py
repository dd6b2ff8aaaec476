"""`python -m weights.synthetic DIR --size tiny` writes sources of random numbers."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tinyv_cli.spec import make_full_spec, make_tiny_spec
from weights.reading.sources import STAGES
from weights.synthetic.module_command import open_console
from weights.synthetic.plans import SyntheticOptions
from weights.synthetic.sources import CHOICES, write_sources


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes what the command line asks for, and prints the folder.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: the command line is wrong, or the folder cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m weights.synthetic", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder without sources")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--stage", type=int, choices=STAGES, default=STAGES[-1])
    for field in fields(SyntheticOptions):
        flag = f"--{field.name.replace('_', '-')}"
        if field.type is bool:
            parser.add_argument(flag, action="store_true")
        else:
            kind = int if field.type is int else str
            choices = CHOICES.get(field.name)
            parser.add_argument(flag, type=kind, choices=choices, default=field.default)
    parsed = parser.parse_args(arguments)
    chosen = {field.name: getattr(parsed, field.name) for field in fields(SyntheticOptions)}
    with open_console() as console:
        spec = (make_full_spec if parsed.size == "full" else make_tiny_spec)(parsed.stage)
        write_sources(parsed.folder, spec, SyntheticOptions(**chosen))
        console.write_line(str(parsed.folder))


if __name__ == "__main__":
    main()
