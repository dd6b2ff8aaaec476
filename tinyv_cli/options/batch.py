"""The arguments and flags of `tinyv batch`."""

from dataclasses import dataclass
from typing import Annotated

import typer

from tinyv_cli.options.declare import option
from tinyv_cli.options.shared import DEFAULT_PARALLEL, AnswerArguments, Parallel, Quiet

Pictures = Annotated[
    list[str],
    typer.Argument(
        metavar="PATHS", help="Pictures, folders, patterns; - reads a list, a path a line"
    ),
]

BatchPrompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="What each is asked; the last; - is stdin")
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
