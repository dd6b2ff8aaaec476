"""The words typed after `tinyv ask` become pictures and one question; opens no picture."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.pictures.opening import STDIN, read_stdin

_HELP = "`tinyv ask --help` shows what can be typed"


@dataclass(frozen=True)
class Words:
    """What was typed, before it is known what it means.

    Attributes:
        loose: words without a flag: pictures, and the question last.
        images: of `--image`.
        prompt: of `--prompt`.
        prompt_file: of `--prompt-file`.
        asks_by_itself: whether a task or a place was given, which do without a question.
        takes_stdin: whether the text on stdin goes before the question.
    """

    loose: Sequence[str]
    images: Sequence[str] = ()
    prompt: str | None = None
    prompt_file: Path | None = None
    asks_by_itself: bool = False
    takes_stdin: bool = False


@dataclass(frozen=True)
class AskRequest:
    """What is asked about which pictures.

    Attributes:
        pictures: as `pictures.open_picture` takes them, at least one.
        question: exactly as typed; None where the task asks by itself.
    """

    pictures: tuple[str, ...]
    question: str | None


def read_request(words: Words, read: Callable[[], bytes] = read_stdin) -> AskRequest:
    """Tells pictures and question apart, and reads the question where it lies elsewhere.

    Args:
        words: as typed.
        read: gives what is on stdin.

    Raises:
        UsageError: a picture or the question is missing, the question is given twice, or several
            things are to come from stdin.
        InputError: the question's file cannot be read, or is not text.
    """
    loose, question = list(words.loose), words.prompt
    if words.prompt is not None and words.prompt_file is not None:
        raise UsageError("--prompt and --prompt-file both give the question", "leave one out")
    if words.prompt_file is not None:
        question = _read_file(words.prompt_file)
    elif question is None and _ends_in_question(words):
        question = loose.pop()
    pictures = (*words.images, *loose)
    if not pictures:
        raise UsageError("missing argument 'PICTURE'", _HELP)
    if question is None and not words.asks_by_itself:
        raise UsageError("missing argument 'PROMPT'", _HELP)
    n_from_stdin = [*pictures, question].count(STDIN) + words.takes_stdin
    if n_from_stdin > 1:
        raise UsageError(
            "picture and question cannot both come from stdin",
            "name the picture's file: `tinyv ask PICTURE -`",
        )
    if question == STDIN:
        question = to_text(read(), "the question on stdin")
    elif words.takes_stdin:
        text = to_text(read(), "the text on stdin")
        question = text if question is None else f"{text}\n{question}"
    return AskRequest(pictures, question)


def _ends_in_question(words: Words) -> bool:
    """Whether the last loose word is the question and no picture."""
    if not words.loose or len(words.images) + len(words.loose) == 1:
        return False
    return not (words.asks_by_itself and _is_file(words.loose[-1]))


def _is_file(word: str) -> bool:
    with suppress(OSError, ValueError):  # a question is often too long for a file's name
        return Path(word).is_file()
    return False


def _read_file(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"the question in {path} cannot be read: {reason}", "check the name of `--prompt-file`"
        ) from error
    return to_text(content, f"the question in {path}")


def to_text(content: bytes, name: str) -> str:
    """UTF-8 text without the newline that ends its last line.

    Args:
        content: as it was read.
        name: what it is, for an error: `the question on stdin`.

    Raises:
        InputError: it is no UTF-8.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text: {error.reason} at byte {error.start}",
            "convert it: `iconv -t UTF-8 question.txt`",
        ) from error
    return text.removesuffix("\n").removesuffix("\r")
