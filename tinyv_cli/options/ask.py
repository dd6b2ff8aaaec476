"""The arguments and flags of `tinyv ask`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyv_cli.errors import UsageError
from tinyv_cli.options.declare import option, split_paths
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
    typer.Argument(metavar="PICTURE... PROMPT", help="Pictures, and the question last; - is stdin"),
]

Images = Annotated[
    list[str] | None,
    option(
        "-i",
        "--image",
        metavar="PICTURE",
        help="A picture; may stand again",
        splits=split_paths,
    ),
]

Prompt = Annotated[
    str | None, option("-p", "--prompt", metavar="TEXT", help="The question, not as last word")
]

PromptFile = Annotated[
    Path | None, option("--prompt-file", metavar="FILE", help="The question is in this file")
]

Stdin = Annotated[bool, option("--stdin", help="Put the text on stdin before the question")]

Task = Annotated[
    str | None,
    option(
        "--task",
        metavar="NAME",
        help="vqa, caption, refer, identify, grounding or detection",
    ),
]

At = Annotated[
    str | None,
    option("--at", metavar="X1,Y1,X2,Y2", help="What is in this box? Shares 0-1 or pixels"),
]

Choices = Annotated[
    str | None, option("--choices", metavar="A,B,C", help="The answer is one of these")
]

Schema = Annotated[
    str | None,
    option("--schema", metavar="FILE|JSON", help="The answer is JSON that this schema allows"),
]

System = Annotated[
    str | None, option("--system", metavar="TEXT", help="Refused: the model has no such prompt")
]

Together = Annotated[bool, option("--together", help="Ask once about all pictures")]

Draw = Annotated[Path | None, option("--draw", metavar="FILE.png", help="Draw the answer's boxes")]

Overwrite = Annotated[bool, option("--force", help="Let --draw replace a file that is there")]

Show = Annotated[bool, option("--show", help="Show them in the terminal, where it can")]

ShowPrompt = Annotated[bool, option("--show-prompt", help="The exact prompt on stderr")]

Stats = Annotated[bool, option("--stats", help="Times and counts on stderr")]

Verbose = Annotated[bool, option("-v", "--verbose", help="Prompt, times and counts on stderr")]


@dataclass(frozen=True, kw_only=True)
class QuestionArguments(AnswerArguments):
    """What is put around a question, and what its answer may be; `batch` has them too."""

    task: Task = None
    at: At = None
    choices: Choices = None
    schema: Schema = None


@dataclass(frozen=True, kw_only=True)
class DrawingArguments(QuestionArguments):
    """Where the boxes of an answer are drawn."""

    draw: Draw = None
    force: Overwrite = False
    show: Show = False


@dataclass(frozen=True, kw_only=True)
class AskArguments(DrawingArguments):
    """The words and flags of `tinyv ask`."""

    words: Words = None
    images: Images = None
    prompt: Prompt = None
    prompt_file: PromptFile = None
    stdin: Stdin = False
    stop: Stop = None
    system: System = None
    together: Together = False
    allow_private: AllowPrivate = False
    offline: Offline = False
    json: Json = False
    show_prompt: ShowPrompt = False
    stats: Stats = False
    quiet: Quiet = False
    verbose: Verbose = False


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
