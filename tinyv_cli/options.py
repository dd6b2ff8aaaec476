"""What can be typed after each verb, as frozen dataclasses; knows no verb's work, only its words.

An option is declared once, as an annotated type with its flags, its variable (`--max-tokens` is
also `TINYV_MAX_TOKENS`; a flag wins) and its help; a dataclass lists those of one verb.
"""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tinyv_cli.errors import UsageError

T = TypeVar("T")


def takes(arguments: Callable[..., T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Makes a verb that takes one dataclass into a function with an argument a field, for typer."""

    def declare(verb: Callable[[T], None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**values: object) -> None:
            verb(arguments(**values))

        signature = inspect.signature(arguments)
        hints = {name: each.annotation for name, each in signature.parameters.items()}
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {**hints, "return": None}
        return command

    return declare


def _option(
    *flags: str,
    help: str,
    metavar: str | None = None,
    reads: Callable[[str], float] | None = None,
) -> object:
    """An option with the variable that its long flag gives a name to."""
    return typer.Option(
        *flags,
        help=help,
        metavar=metavar,
        parser=reads,
        envvar=_to_variable(flags[-1]),
        show_envvar=False,
    )


def _to_variable(flag: str) -> str:
    """`--max-tokens` → `TINYV_MAX_TOKENS`."""
    return "TINYV_" + flag.removeprefix("--").replace("-", "_").upper()


def _whole(flag: str, at_least: int) -> Callable[[str], int]:
    """Reads a whole number for a flag."""

    def read_whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = at_least - 1
        if number < at_least:
            raise _make_value_error(flag, text, f"a whole number, {at_least} or more")
        return number

    return read_whole


def _real(flag: str, low: float, high: float = math.inf) -> Callable[[str], float]:
    """Reads a finite number from low to high, both included, for a flag."""

    def read_real(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and low <= number <= high):
            span = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
            raise _make_value_error(flag, text, f"a number, {span}")
        return number

    return read_real


def _bytes(flag: str) -> Callable[[str], int]:
    """Reads bytes for a flag: a number with B, KB, MB, GB or binary kin, as 6GB or 900MiB."""

    def read_bytes(text: str) -> int:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
        if found is None or not float(found[1]):
            raise _make_value_error(flag, text, "a size, such as 6GB or 900MiB")
        exponent = " kmgt".index(found[2] or " ")
        return int(float(found[1]) * (1024 if found[3] else 1000) ** exponent)

    return read_bytes


def _make_value_error(flag: str, text: str, expected: str) -> UsageError:
    """A value that an option cannot have."""
    return UsageError(
        f"'{text}' is no value for {flag}",
        f"give {flag} (or the variable {_to_variable(flag)}) {expected}",
    )


Picture = Annotated[str, typer.Argument(metavar="PICTURE", help="A picture; - reads it from stdin")]
Question = Annotated[str, typer.Argument(metavar="PROMPT", help="The question; - is stdin")]
Model = Annotated[
    str | None, _option("-m", "--model", metavar="NAME|DIR", help="Variant; else the newest one")
]
TemplateName = Annotated[
    str | None, _option("--template", metavar="NAME", help="Prompt template; else the variant's")
]
MaxTokens = Annotated[
    int,
    _option(
        "-n", "--max-tokens", metavar="N", help="Longest answer", reads=_whole("--max-tokens", 1)
    ),
]
Temperature = Annotated[
    float, _option("--temp", metavar="X", help="0 takes the best token", reads=_real("--temp", 0))
]
TopP = Annotated[
    float,
    _option("--top-p", metavar="P", help="Keep this probability", reads=_real("--top-p", 0, 1)),
]
TopK = Annotated[
    int,
    _option("--top-k", metavar="N", help="Keep N tokens, 0 all", reads=_whole("--top-k", 0)),
]
MinP = Annotated[
    float,
    _option(
        "--min-p", metavar="P", help="Drop below P times the best", reads=_real("--min-p", 0, 1)
    ),
]
RepeatPenalty = Annotated[
    float,
    _option(
        "--repeat-penalty",
        metavar="X",
        help="Above 1: repeats less",
        reads=_real("--repeat-penalty", 0),
    ),
]
Seed = Annotated[
    int | None,
    _option("--seed", metavar="N", help="Makes sampling repeatable", reads=_whole("--seed", 0)),
]
Device = Annotated[str, _option("--device", metavar="auto|cpu", help="Where to compute")]
Threads = Annotated[
    int | None,
    _option(
        "-t",
        "--threads",
        metavar="N",
        help="Else the physical cores",
        reads=_whole("--threads", 1),
    ),
]
CtxSize = Annotated[
    int | None,
    _option(
        "-c",
        "--ctx-size",
        metavar="N",
        help="Tokens of prompt and answer; else what the model knows",
        reads=_whole("--ctx-size", 1),
    ),
]
Json = Annotated[bool, _option("--json", help="One JSON document on stdout")]
MemoryBudget = Annotated[
    int | None,
    _option(
        "--memory-budget",
        metavar="SIZE",
        help="Memory to do with, as 6GB; else what is free",
        reads=_bytes("--memory-budget"),
    ),
]
NoCache = Annotated[bool, _option("--no-cache", help="Encode the picture anew, keep nothing")]
ShowPrompt = Annotated[bool, _option("--show-prompt", help="The exact prompt on stderr")]
Stats = Annotated[bool, _option("--stats", help="Times and counts on stderr")]
Sources = Annotated[
    Path | None,
    _option("--sources", metavar="DIR", help="Folder with the files below; else see the end"),
]
Bits = Annotated[
    int,
    _option("--bits", metavar="4|8|32", help="Bits of a weight", reads=_whole("--bits", 1)),
]
Output = Annotated[
    str | None,
    _option("-o", "--output", metavar="NAME|DIR", help="The variant; else stage{N}-{bits}bit"),
]
Stage = Annotated[
    int | None,
    _option(
        "--stage", metavar="N", help="Training stage; else the highest", reads=_whole("--stage", 1)
    ),
]
Force = Annotated[bool, _option("--force", help="Replace a variant that is there")]
DryRun = Annotated[bool, _option("--dry-run", help="Show what would be made, make nothing")]
MaxError = Annotated[
    float | None,
    _option(
        "--max-error",
        metavar="X",
        help="Refuse a variant whose logits diverge by more nats",
        reads=_real("--max-error", 0),
    ),
]
QuestionFile = Annotated[
    Path, typer.Argument(metavar="QUESTIONS", help="A file of questions with their answers")
]
Against = Annotated[
    str | None, _option("--against", metavar="NAME|DIR", help="Compare with this variant")
]
Limit = Annotated[
    int | None,
    _option("--limit", metavar="N", help="The first N questions", reads=_whole("--limit", 1)),
]
Fresh = Annotated[bool, _option("--fresh", help="Ask again, as after a change of pictures")]
Quiet = Annotated[bool, _option("-q", "--quiet", help="Only errors on stderr")]
Repeats = Annotated[
    int | None,
    _option(
        "--repeats",
        metavar="N",
        help="Measure each so often; else 3 times, long steps less",
        reads=_whole("--repeats", 1),
    ),
]
EarlierRun = Annotated[
    Path | None, _option("--against", metavar="FILE", help="Compare with this earlier document")
]
Chart = Annotated[
    Path | None, _option("--chart", metavar="FILE.png", help="Draw the rates, by length and depth")
]


@dataclass(frozen=True)
class AskArguments:
    """What can be typed after `tinyv ask`."""

    picture: Picture
    prompt: Question
    model: Model = None
    template: TemplateName = None
    max_tokens: MaxTokens = 256
    temp: Temperature = 0.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    repeat_penalty: RepeatPenalty = 1.0
    seed: Seed = None
    device: Device = "auto"
    threads: Threads = None
    ctx_size: CtxSize = None
    memory_budget: MemoryBudget = None
    no_cache: NoCache = False
    json: Json = False
    show_prompt: ShowPrompt = False
    stats: Stats = False


@dataclass(frozen=True)
class QuantizeArguments:
    """What can be typed after `tinyv quantize`."""

    sources: Sources = None
    bits: Bits = 4
    output: Output = None
    stage: Stage = None
    force: Force = False
    dry_run: DryRun = False
    max_error: MaxError = None
    threads: Threads = None
    quiet: Quiet = False


@dataclass(frozen=True)
class EvalArguments:
    """What can be typed after `tinyv eval`."""

    questions: QuestionFile
    model: Model = None
    against: Against = None
    template: TemplateName = None
    max_tokens: MaxTokens = 256
    limit: Limit = None
    fresh: Fresh = False
    device: Device = "auto"
    threads: Threads = None
    ctx_size: CtxSize = None
    json: Json = False
    quiet: Quiet = False


@dataclass(frozen=True)
class BenchArguments:
    """What can be typed after `tinyv bench`."""

    model: Model = None
    repeats: Repeats = None
    against: EarlierRun = None
    chart: Chart = None
    device: Device = "auto"
    threads: Threads = None
    ctx_size: CtxSize = None
    json: Json = False
    quiet: Quiet = False


@dataclass(frozen=True)
class ListArguments:
    """What can be typed after `tinyv list`."""

    json: Json = False
