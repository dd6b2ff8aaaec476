"""The arguments and flags of the verbs that report: `eval`, `bench`, `list`, `show`, `doctor`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tinyv_cli.options.declare import ASK, MACHINE, OUTPUT, option, whole
from tinyv_cli.options.guidance.completion import list_models
from tinyv_cli.options.shared import (
    DEFAULT_PARALLEL,
    Device,
    EngineArguments,
    Json,
    MaxTokens,
    Parallel,
    Quiet,
    Seed,
    TemplateName,
)

DEFAULT_MAX_TOKENS = 256

QuestionFile = Annotated[
    Path,
    typer.Argument(
        metavar="QUESTIONS",
        help="A file of questions with their answers; a folder or file of --benchmark",
        rich_help_panel=ASK,
    ),
]

BenchmarkName = Annotated[
    str | None,
    option(
        "--benchmark",
        metavar="NAME",
        help="gqa, vsr, iconqa, vizwiz, hateful-memes, okvqa, refcoco, refcoco+, refcocog, pope or "
        "mme, as it was published",
        panel=ASK,
    ),
]

AnswerFile = Annotated[
    Path | None,
    option(
        "--answers", metavar="FILE", help="Score these, and ask no model (--benchmark)", panel=ASK
    ),
]

Sample = Annotated[
    int | None,
    option(
        "--sample",
        metavar="NUMBER",
        help="So many questions drawn by chance, with --seed",
        panel=ASK,
        reads=whole("--sample", 1),
    ),
]

Against = Annotated[
    str | None,
    option(
        "--against",
        metavar="NAME",
        help="Compare with this variant, by name or folder",
        panel=ASK,
        completes=list_models,
    ),
]

Limit = Annotated[
    int | None,
    option(
        "--limit",
        metavar="COUNT",
        help="Only so many questions, from the first",
        panel=ASK,
        reads=whole("--limit", 1),
    ),
]

Fresh = Annotated[
    bool, option("--fresh", help="Ask again, as after a change of pictures", panel=ASK)
]

Repeats = Annotated[
    int | None,
    option(
        "--repeats",
        metavar="COUNT",
        help="Measure each so often; else 3 times, long steps less",
        panel=MACHINE,
        reads=whole("--repeats", 1),
    ),
]

ParallelNumbers = Annotated[
    str,
    option(
        "--parallel",
        metavar="COUNTS",
        help="Also measure so many answers at once, as 1,4,8",
        panel=MACHINE,
    ),
]

EarlierRun = Annotated[
    Path | None,
    option("--against", metavar="FILE", help="Compare with this earlier document", panel=OUTPUT),
]

Chart = Annotated[
    Path | None,
    option("--chart", metavar="FILE.png", help="Draw the rates, by length and depth", panel=OUTPUT),
]

VariantName = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="A variant or its folder; else the one that answers",
        autocompletion=list_models,
    ),
]

NamesKinds = Annotated[
    bool,
    option("-v", "--verbose", help="Also name the kinds that the miniature knows", panel=OUTPUT),
]

ScoreChart = Annotated[
    Path | None,
    option("--chart", metavar="FILE.png", help="Draw the scores (--benchmark)", panel=OUTPUT),
]

ReplaceChart = Annotated[
    bool, option("--force", help="Let --chart replace a file that is there", panel=OUTPUT)
]


@dataclass(frozen=True, kw_only=True)
class EvalArguments(EngineArguments):
    """The words and flags of `tinyv eval`."""

    questions: QuestionFile
    against: Against = None
    template: TemplateName = None
    max_tokens: MaxTokens = DEFAULT_MAX_TOKENS
    limit: Limit = None
    sample: Sample = None
    seed: Seed = None
    benchmark: BenchmarkName = None
    answers: AnswerFile = None
    chart: ScoreChart = None
    force: ReplaceChart = False
    fresh: Fresh = False
    parallel: Parallel = DEFAULT_PARALLEL
    json: Json = False
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class BenchArguments(EngineArguments):
    """The words and flags of `tinyv bench`."""

    repeats: Repeats = None
    parallel: ParallelNumbers = ""
    against: EarlierRun = None
    chart: Chart = None
    force: ReplaceChart = False
    json: Json = False
    quiet: Quiet = False


@dataclass(frozen=True)
class ListArguments:
    """The words and flags of `tinyv list`."""

    json: Json = False
    verbose: NamesKinds = False


@dataclass(frozen=True)
class ShowArguments:
    """The words and flags of `tinyv show`."""

    name: VariantName = None
    json: Json = False


@dataclass(frozen=True)
class DoctorArguments:
    """The words and flags of `tinyv doctor`."""

    device: Device = "auto"
    json: Json = False
