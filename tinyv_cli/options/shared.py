"""Options of several verbs, and the groups of them that all verbs which answer have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tinyv_cli.devices.names import read_device
from tinyv_cli.errors import UsageError
from tinyv_cli.options.declare import (
    ANSWERS,
    MACHINE,
    OUTPUT,
    option,
    real,
    size,
    split_lines,
    to_variable,
    whole,
)
from tinyv_cli.options.guidance.completion import list_devices, list_models, list_templates

if TYPE_CHECKING:
    from tinyv_cli.backends.backend import BackendOptions
    from tinyv_cli.session import AnswerOptions

Model = Annotated[
    str | None,
    option(
        "-m",
        "--model",
        metavar="NAME",
        help="The variant that answers, or its folder; else the newest",
        panel=ANSWERS,
        completes=list_models,
    ),
]

TemplateName = Annotated[
    str | None,
    option(
        "--template",
        metavar="NAME",
        help="How the prompt is laid out; else as the variant says",
        panel=ANSWERS,
        completes=list_templates,
    ),
]

MaxTokens = Annotated[
    int,
    option(
        "-n",
        "--max-tokens",
        metavar="COUNT",
        help="Longest answer, in tokens",
        panel=ANSWERS,
        reads=whole("--max-tokens", 1),
    ),
]

Temperature = Annotated[
    float,
    option(
        "--temp",
        metavar="NUMBER",
        help="Above 0: vary; 0 always takes the best token",
        panel=ANSWERS,
        reads=real("--temp"),
    ),
]

TopP = Annotated[
    float,
    option(
        "--top-p",
        metavar="SHARE",
        help="Keep the best tokens up to this probability",
        panel=ANSWERS,
        reads=real("--top-p"),
    ),
]

TopK = Annotated[
    int,
    option(
        "--top-k",
        metavar="COUNT",
        help="Keep so many of the best tokens; 0 all",
        panel=ANSWERS,
        reads=whole("--top-k"),
    ),
]

MinP = Annotated[
    float,
    option(
        "--min-p",
        metavar="SHARE",
        help="Drop tokens less likely than this share of the best",
        panel=ANSWERS,
        reads=real("--min-p"),
    ),
]

RepeatPenalty = Annotated[
    float,
    option(
        "--repeat-penalty",
        metavar="NUMBER",
        help="Above 1: repeat less",
        panel=ANSWERS,
        reads=real("--repeat-penalty"),
    ),
]

Seed = Annotated[
    int | None,
    option(
        "--seed",
        metavar="NUMBER",
        help="Vary in the same way each time",
        panel=ANSWERS,
        reads=whole("--seed"),
    ),
]

Device = Annotated[
    str,
    option(
        "--device",
        metavar="NAME",
        help="Where to compute: auto, cpu, cuda, or cuda:1 for the second GPU",
        panel=MACHINE,
        reads=read_device,
        completes=list_devices,
    ),
]

Threads = Annotated[
    int | None,
    option(
        "-t",
        "--threads",
        metavar="COUNT",
        help="Threads on the CPU; else one a physical core",
        panel=MACHINE,
        reads=whole("--threads", 1),
    ),
]

CtxSize = Annotated[
    int | None,
    option(
        "-c",
        "--ctx-size",
        metavar="COUNT",
        help="Tokens of prompt and answer; else as many as the model knows",
        panel=MACHINE,
        reads=whole("--ctx-size", 1),
    ),
]

MemoryBudget = Annotated[
    int | None,
    option(
        "--memory-budget",
        metavar="SIZE",
        help="Memory to do with, such as 6GB; else what is free",
        panel=MACHINE,
        reads=size("--memory-budget"),
    ),
]

NoCache = Annotated[
    bool, option("--no-cache", help="Encode the picture anew, keep nothing", panel=MACHINE)
]

Parallel = Annotated[
    int,
    option(
        "--parallel",
        metavar="COUNT",
        help="Answers at once; fewer where memory is short",
        panel=MACHINE,
        reads=whole("--parallel", 1),
    ),
]

# At full size on two cores a step of 8 answers takes 2.5 times as long as one of a single answer;
# of 16, 4.5 times: more at once gains little, and keys and values take memory.
DEFAULT_PARALLEL = 8

Stop = Annotated[
    list[str] | None,
    option(
        "--stop",
        metavar="TEXT",
        help="End the answer before this text; may stand again",
        panel=ANSWERS,
        splits=split_lines,
    ),
]

AllowPrivate = Annotated[
    bool,
    option("--allow-private", help="Take URLs of this computer and its network too", panel=MACHINE),
]

Offline = Annotated[bool, option("--offline", help="Fetch nothing", panel=MACHINE)]

Force = Annotated[bool, option("--force", help="Replace a variant that is there", panel=OUTPUT)]

DryRun = Annotated[
    bool, option("--dry-run", help="Show what would be made, make nothing", panel=OUTPUT)
]

Json = Annotated[bool, option("--json", help="One JSON document on stdout", panel=OUTPUT)]

Quiet = Annotated[
    bool,
    option(
        "-q",
        "--quiet",
        help="No notes: only warnings, errors and what is asked for on stderr",
        panel=OUTPUT,
    ),
]


@dataclass(frozen=True, kw_only=True)
class EngineArguments:
    """The variant that runs, and the share of this computer that it gets."""

    model: Model = None
    device: Device = "auto"
    threads: Threads = None
    context_length: CtxSize = None
    memory_budget_bytes: MemoryBudget = None

    def __post_init__(self) -> None:
        """Checks, before numpy is imported and ends the process, that a limit leaves it room."""
        from tinyv_cli.machine.memory import ANSWERING_BYTES, check_address_space

        check_address_space("answering", ANSWERING_BYTES)


@dataclass(frozen=True, kw_only=True)
class AnswerArguments(EngineArguments):
    """The options that `ask`, `chat` and `batch` share."""

    max_tokens: MaxTokens = 256
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    repeat_penalty: RepeatPenalty = 1.0
    seed: Seed = None
    template: TemplateName = None
    no_cache: NoCache = False


def to_answer_options(
    arguments: AnswerArguments, stop: "Sequence[str] | None" = None
) -> "AnswerOptions":
    """Collects sampling, length and the texts that end an answer.

    Raises:
        UsageError: a value is out of its range, or a text that ends the answer is empty.
    """
    from tinyv_cli.answers.sampling import SamplingOptions
    from tinyv_cli.session import AnswerOptions

    try:  # ranges are checked there, where the chat's `/set` and programs come by too
        sampling = SamplingOptions(
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            top_k=arguments.top_k,
            min_p=arguments.min_p,
            repetition_penalty=arguments.repeat_penalty,
            seed=arguments.seed,
        )
    except UsageError as error:
        variable = to_variable(error.problem.split()[0])
        hint = f"{error.hint} (or the variable {variable})"
        raise UsageError(error.problem, hint) from error
    return AnswerOptions(arguments.max_tokens, sampling, tuple(stop or ()))


def to_backend_options(arguments: EngineArguments) -> "BackendOptions":
    """Collects device, threads, context and memory."""
    from tinyv_cli.backends.backend import BackendOptions

    return BackendOptions(
        arguments.device,
        arguments.threads,
        arguments.context_length,
        arguments.memory_budget_bytes,
    )
