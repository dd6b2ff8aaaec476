"""The arguments and flags of `tinyv batch`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tinyv_cli.options.ask import QuestionArguments
from tinyv_cli.options.declare import option
from tinyv_cli.options.shared import DEFAULT_PARALLEL, Parallel, Quiet

BatchWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATHS... PROMPT",
        help="Pictures, folders, patterns, or - for a list of paths; last what each is asked",
    ),
]

LinesFile = Annotated[
    str,
    option("-o", "--output", metavar="FILE.jsonl", help="A JSON line a picture; - is stdout"),
]

Recursive = Annotated[bool, option("-r", "--recursive", help="Sub-folders too")]

Sidecar = Annotated[
    bool, option("--sidecar", help="Also write each answer to a .txt beside its picture")
]

Retry = Annotated[bool, option("--retry", help="Ask again about pictures that failed")]

FreshOutput = Annotated[
    bool, option("--fresh", help="Start again, replacing the output and .txt files")
]

Sheet = Annotated[
    Path | None,
    option(
        "--sheet",
        metavar="FILE.html",
        help="At the end, a page of all pictures with their answers; replaces an earlier one",
    ),
]


@dataclass(frozen=True, kw_only=True)
class BatchArguments(QuestionArguments):
    """The words and flags of `tinyv batch`."""

    words: BatchWords = None
    output: LinesFile
    sheet: Sheet = None
    recursive: Recursive = False
    sidecar: Sidecar = False
    fresh: FreshOutput = False
    retry: Retry = False
    parallel: Parallel = DEFAULT_PARALLEL
    quiet: Quiet = False
