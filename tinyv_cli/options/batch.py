"""The arguments and flags of `tinyv batch`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyv_cli.options.ask import QuestionArguments
from tinyv_cli.options.declare import ASK, MACHINE, OUTPUT, option, whole
from tinyv_cli.options.shared import DEFAULT_PARALLEL, Parallel, Quiet

if TYPE_CHECKING:
    from tinyv_cli.batch.settings import Settings
    from tinyv_cli.engine import Engine
    from tinyv_cli.prompts.tasks import Question

BatchWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATHS... PROMPT",
        help="Pictures, folders, patterns, or - for a list of paths; last what each is asked",
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

Sheet = Annotated[
    Path | None,
    option(
        "--sheet",
        metavar="FILE.html",
        help="At the end, a page of all pictures with their answers; replaces an earlier one",
        panel=OUTPUT,
    ),
]

ClusterAddress = Annotated[
    str | None,
    option(
        "--cluster",
        metavar="local|ADDRESS",
        help="By Ray's workers, started here or at HOST:PORT; also s3://, parquet, .jsonl",
        panel=MACHINE,
    ),
]

Workers = Annotated[
    int | None,
    option(
        "--workers",
        metavar="N",
        help="With --cluster: processes with the model, -t threads each (else 1)",
        panel=MACHINE,
        reads=whole("--workers", 1),
    ),
]

VariantFrom = Annotated[
    str | None,
    option(
        "--variant-from",
        metavar="URL|DIR",
        help="With --cluster: copy the variant from there, once a machine",
        panel=MACHINE,
    ),
]

PictureColumn = Annotated[
    str | None,
    option(
        "--column",
        metavar="NAME",
        help="With --cluster: bytes, paths or URLs of a table",
        panel=ASK,
    ),
]

IdColumn = Annotated[
    str | None,
    option("--id", metavar="NAME", help="With --cluster: tells a table's rows apart", panel=ASK),
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
    cluster: ClusterAddress = None
    workers: Workers = None
    variant_from: VariantFrom = None
    column: PictureColumn = None
    id: IdColumn = None
    quiet: Quiet = False


def to_settings(
    arguments: BatchArguments, question: "Question", engine: "Engine", folder: str
) -> "Settings":
    """Collects everything that decides what the answers are.

    Args:
        arguments: as typed.
        question: that is asked.
        engine: that answers.
        folder: that relative names start from; empty where there are none.

    Raises:
        InputError: the schema's file cannot be read.
    """
    from tinyv_cli.answers.constrained import read_schema
    from tinyv_cli.batch.settings import Settings, hash_variant
    from tinyv_cli.devices.names import to_kind

    return Settings(
        prompt=question.words or "",
        model=engine.variant.name,
        variant=hash_variant(engine.variant),
        template=engine.template.name,
        max_tokens=arguments.max_tokens,
        temp=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        min_p=arguments.min_p,
        repeat_penalty=arguments.repeat_penalty,
        seed=arguments.seed,
        ctx_size=arguments.context_length,
        device=to_kind(engine.options.device),
        folder=folder,
        task=question.task,
        at=arguments.at,
        choices=arguments.choices,
        schema=None if arguments.schema is None else read_schema(arguments.schema),
    )
