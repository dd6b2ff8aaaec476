"""The arguments and flags of `tinyv batch`."""

from dataclasses import dataclass
from typing import Annotated

import typer

from tinyv_cli.options.declare import ASK, OUTPUT, option
from tinyv_cli.options.shared import DEFAULT_PARALLEL, AnswerArguments, Parallel, Quiet

Pictures = Annotated[
    list[str],
    typer.Argument(
        metavar="PATHS...",
        help="Pictures, folders, patterns; - reads a list, a path a line",
        rich_help_panel=ASK,
    ),
]

BatchPrompt = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT",
        help="What is asked about each, as the last word; - is stdin",
        rich_help_panel=ASK,
    ),
]

LinesFile = Annotated[
    str,
    option(
        "-o",
        "--output",
        metavar="FILE.jsonl",
        help="A JSON line a picture; - is stdout",
        panel=OUTPUT,
    ),
]

Recursive = Annotated[bool, option("-r", "--recursive", help="Sub-folders too", panel=ASK)]

Sidecar = Annotated[
    bool,
    option("--sidecar", help="Also write each answer to a .txt beside its picture", panel=OUTPUT),
]

Retry = Annotated[
    bool, option("--retry", help="Ask again about pictures that failed", panel=OUTPUT)
]

FreshOutput = Annotated[
    bool,
    option("--fresh", help="Start again, replacing the output and .txt files", panel=OUTPUT),
]


@dataclass(frozen=True, kw_only=True)
class BatchArguments(AnswerArguments):
    """The words and flags of `tinyv batch`."""

    paths: Pictures
    prompt: BatchPrompt
    output: LinesFile
    recursive: Recursive = False
    sidecar: Sidecar = False
    fresh: FreshOutput = False
    retry: Retry = False
    parallel: Parallel = DEFAULT_PARALLEL
    quiet: Quiet = False
