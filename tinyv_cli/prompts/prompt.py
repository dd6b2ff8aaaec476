"""A question and the turns before it become the text pieces of a prompt; tokenizes nothing.

A picture stands between two pieces, never as a mark inside one, so nothing that a user types can
become a picture. The mark `<ImageHere>` only shows its position when a prompt is printed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tinyv_cli.errors import InputError

IMAGE_PLACEHOLDER = "<ImageHere>"


@dataclass(frozen=True)
class Template:
    """The fixed text of a dialogue.

    Attributes:
        name: of `--template` and of a variant's manifest.
        system: stands once, before everything else.
        before_question: opens every turn.
        after_question: stands between a question and its answer.
    """

    name: str
    system: str
    before_question: str
    after_question: str


# Source: the published code's conversation, evaluation and training prompts. `train-inst` was
# trained on single turns; its further turns follow the same rule as the others'.
TEMPLATES = {
    template.name: template
    for template in (
        Template(
            "human-system",
            "Give the following image: <Img>ImageContent</Img>. "
            "You will be able to see the image once I provide it to you. "
            "Please answer my questions.",
            "###Human: ",
            "###Assistant: ",
        ),
        Template("human", "", "###Human: ", "###Assistant: "),
        Template("inst", "", "<s>[INST] ", " [/INST]"),
        Template("train-inst", "", "<|endoftext|>[INST] ", "  [/INST]"),
    )
}


def default_template(stage: int) -> str:
    """Returns the name of the template that a stage's published demo uses."""
    return "inst" if stage == 4 else "human-system"


@dataclass(frozen=True)
class Turn:
    """One question and the answer it was given."""

    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """The texts of a prompt.

    Attributes:
        pieces: a picture stands between two neighbours; one piece means no picture.
    """

    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole prompt for people to read, with `<ImageHere>` for each picture."""
        return IMAGE_PLACEHOLDER.join(self.pieces)


def make_prompt(
    template: Template, turns: Sequence[Turn], question: str, n_images: int = 1
) -> Prompt:
    """Lays out a dialogue up to where its next answer begins.

    Args:
        template: the fixed text around questions and answers.
        turns: earlier questions and answers, oldest first; pictures belong to the first question.
        question: used exactly as given.
        n_images: pictures shown; with 0 the marks around a picture are left out too.

    Raises:
        InputError: the question is blank or not text.
    """
    check_question(question)
    said = [f"{turn.question}{template.after_question}{turn.answer}" for turn in turns]
    dialogue = template.before_question.join([*said, question + template.after_question])
    opening = template.system + template.before_question
    if n_images == 0:
        return Prompt((opening + dialogue,))
    between = ("</Img> <Img>",) * (n_images - 1)
    return Prompt((opening + "<Img>", *between, "</Img> " + dialogue))


def check_question(question: str) -> None:
    """Checks that a question asks something and can be encoded.

    Raises:
        InputError: it is blank, or holds bytes of a terminal or file that were not UTF-8.
    """
    if not question.strip():
        raise InputError(
            "the question is blank", 'ask something: `tinyv ask PICTURE "what is it?"`'
        )
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the question is not UTF-8 text: {question[error.start]!a} at character {error.start}",
            "convert it: `iconv -t UTF-8 question.txt | tinyv ask PICTURE -`",
        ) from error
