"""The arguments and flags of `tinyv ask`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyv_cli.errors import UsageError
from tinyv_cli.options.declare import ASK, OUTPUT, option, split_paths
from tinyv_cli.options.guidance.completion import list_tasks
from tinyv_cli.options.shared import (
    AllowPrivate,
    AnswerArguments,
    Json,
    Offline,
    Quiet,
    Stop,
)

if TYPE_CHECKING:
    from tinyv_cli.session import Grammar
    from tinyv_cli.variants.manifest import Variant

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PICTURE... PROMPT",
        help="Pictures, and last what is asked; - is stdin, read too where one is missing",
        rich_help_panel=ASK,
    ),
]

Images = Annotated[
    list[str] | None,
    option(
        "-i",
        "--image",
        metavar="PICTURE",
        help="A picture: file, URL, page.pdf#2, film.mp4@12.5; may stand again",
        panel=ASK,
        splits=split_paths,
    ),
]

Prompt = Annotated[
    str | None,
    option("-p", "--prompt", metavar="TEXT", help="What is asked, not as last word", panel=ASK),
]

PromptFile = Annotated[
    Path | None,
    option("--prompt-file", metavar="FILE", help="What is asked is in this file", panel=ASK),
]

Stdin = Annotated[
    bool, option("--stdin", help="Put the text on stdin before what is asked", panel=ASK)
]

Task = Annotated[
    str | None,
    option(
        "--task",
        metavar="NAME",
        help="caption, refer, grounding, detection, identify or vqa",
        panel=ASK,
        completes=list_tasks,
    ),
]

At = Annotated[
    str | None,
    option(
        "--at",
        metavar="BOX",
        help="What is in this box? LEFT,TOP,RIGHT,BOTTOM in shares of 0-1 or in pixels",
        panel=ASK,
    ),
]

Choices = Annotated[
    str | None,
    option("--choices", metavar="A,B,C", help="The answer is one of these", panel=ASK),
]

Schema = Annotated[
    str | None,
    option(
        "--schema",
        metavar="FILE",
        help="The answer is JSON as this schema allows; a file, or the JSON itself",
        panel=ASK,
    ),
]

System = Annotated[
    str | None, option("--system", metavar="TEXT", help="The model has no such prompt", panel="")
]

Together = Annotated[bool, option("--together", help="Ask once about all pictures", panel=ASK)]

Draw = Annotated[
    Path | None,
    option("--draw", metavar="FILE.png", help="Draw the answer's boxes", panel=OUTPUT),
]

Overwrite = Annotated[
    bool, option("--force", help="Let --draw replace a file that is there", panel=OUTPUT)
]

Show = Annotated[
    bool, option("--show", help="Show the boxes in the terminal, where it can", panel=OUTPUT)
]

ShowPrompt = Annotated[
    bool, option("--show-prompt", help="The exact prompt on stderr", panel=OUTPUT)
]

Stats = Annotated[bool, option("--stats", help="Times and counts on stderr", panel=OUTPUT)]

Verbose = Annotated[
    bool, option("-v", "--verbose", help="Prompt, times and counts on stderr", panel=OUTPUT)
]


@dataclass(frozen=True, kw_only=True)
class QuestionArguments(AnswerArguments):
    """What is put around a question, and what its answer may be; `batch` has them too."""

    task: Task = None
    choices: Choices = None
    schema: Schema = None
    at: At = None


@dataclass(frozen=True, kw_only=True)
class AskOutputArguments(QuestionArguments):
    """Where an answer goes, and what is told of it."""

    json: Json = False
    draw: Draw = None
    show: Show = False
    force: Overwrite = False
    stats: Stats = False
    show_prompt: ShowPrompt = False
    verbose: Verbose = False
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class AskArguments(AskOutputArguments):
    """The words and flags of `tinyv ask`."""

    words: Words = None
    images: Images = None
    together: Together = False
    prompt: Prompt = None
    prompt_file: PromptFile = None
    stdin: Stdin = False
    system: System = None
    stop: Stop = None
    offline: Offline = False
    allow_private: AllowPrivate = False


def check_asking(arguments: QuestionArguments) -> None:
    """Checks that there is such a task, and that an answer is bound by one thing alone.

    Raises:
        UsageError: it is not so.
    """
    from tinyv_cli.prompts.tasks import check_task

    if arguments.task is not None:
        check_task(arguments.task)
    if arguments.choices is not None and arguments.schema is not None:
        raise UsageError("--choices and --schema exclude each other", "leave one of the two out")


def to_grammar(arguments: QuestionArguments, variant: "Variant") -> "Grammar | None":
    """Makes the grammar of `--choices` or `--schema`; None where both are missing.

    Raises:
        UsageError: the choices make no sense.
        InputError: the schema cannot be used.
    """
    if arguments.choices is None and arguments.schema is None:
        return None
    from tinyv_cli.answers.constrained import make_grammar
    from tinyv_cli.answers.tokenizer import open_tokenizer

    return make_grammar(open_tokenizer(variant), arguments.choices, arguments.schema)
