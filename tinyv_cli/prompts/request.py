"""The words typed after `tinyv ask` become pictures and one question; opens no picture."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyv_cli.addresses import to_shown
from tinyv_cli.disk import paths
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.errors import InputError, UsageError, describe_os_error
from tinyv_cli.pictures.names import drop_page, has_picture_suffix, names_picture
from tinyv_cli.pictures.opening import STDIN, is_piped, read_stdin


@dataclass(frozen=True)
class Words:
    """The words of a command line, not interpreted yet.

    Attributes:
        loose: words without a flag: pictures, and the question last.
        images: of `--image`.
        prompt: of `--prompt`.
        prompt_file: of `--prompt-file`.
        asks_by_itself: whether `--task` or `--at` was given, which need no question.
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
    """Pictures and the question about them.

    Attributes:
        pictures: words for `pictures.opening.open_picture`, at least one.
        question: exactly as typed; None where the task asks by itself.
    """

    pictures: tuple[str, ...]
    question: str | None


def read_request(words: Words, read: Callable[[], bytes] = read_stdin) -> AskRequest:
    """Separates pictures and question, and reads the question from its file or stdin.

    Where one of the two is missing and something is piped, that is taken for it.

    Args:
        words: as typed.
        read: returns the content of stdin.

    Raises:
        UsageError: a picture or the question is missing, the question is given twice or is the
            name of a picture, or several things are to come from stdin.
        InputError: the question's file cannot be read, or is not text.
    """
    loose, question = list(words.loose), words.prompt
    if words.prompt is not None and words.prompt_file is not None:
        raise UsageError("--prompt and --prompt-file both give the question", "leave one out")
    if words.prompt_file is not None:
        name = f"the question in {words.prompt_file}"
        try:
            content = read_bytes(words.prompt_file)
        except OSError as error:
            raise InputError(
                f"{name} cannot be read: {describe_os_error(error)}",
                "check the name of `--prompt-file`",
            ) from error
        question = to_text(content, name)
    elif (
        question is None
        and loose
        and len(words.images) + len(loose) > 1
        # With `--task` or `--at` the last word may be one more picture.
        and not (words.asks_by_itself and names_picture(loose[-1]))
    ):
        question = loose.pop()
        # Where the only other word is no picture, the two were exchanged, which is told later.
        if names_picture(question) and (words.images or loose[1:] or names_picture(loose[0])):
            raise _make_picture_error([*words.images, *loose], question)
    pictures = (*words.images, *loose)
    given = question
    if question is None or not pictures:
        pictures, question = _fill_in(pictures, question, words)
    if not pictures:
        missing = "picture is" if question or words.asks_by_itself else "picture and question are"
        raise UsageError(f"the {missing} missing", 'name them: `tinyv ask PICTURE "what is it?"`')
    n_from_stdin = [*pictures, question].count(STDIN) + words.takes_stdin
    if n_from_stdin > 1:
        raise UsageError(
            "picture and question cannot both come from stdin",
            "name the picture's file: `tinyv ask PICTURE -`",
        )
    if question == STDIN:
        question = to_text(read(), "the question on stdin")
        if given is None and not question.strip():  # an empty pipe stands for no word
            raise _make_half_error(pictures)
    elif words.takes_stdin:
        text = to_text(read(), "the text on stdin")
        question = text if question is None else f"{text}\n{question}"
    return AskRequest(pictures, question)


def describe_picture(word: str) -> str:
    """Names a picture that stands where a question belongs: `the picture b.jpg`."""
    file = drop_page(word)
    is_other = paths.exists(file) and not has_picture_suffix(file)
    return f"the {'file' if is_other else 'picture'} {to_shown(word)}"


def _fill_in(
    pictures: tuple[str, ...], question: str | None, words: Words
) -> tuple[tuple[str, ...], str | None]:
    """Lets what is piped stand for the word that is missing: the picture, or the question.

    Raises:
        UsageError: nothing is piped in place of one word.
    """
    pipes = is_piped() and not words.takes_stdin and question != STDIN
    if not pictures:
        can_ask = question is not None or words.asks_by_itself
        return ((STDIN,) if pipes and can_ask else ()), question
    if pipes and not words.images and _may_be_question(pictures):
        return (STDIN,), pictures[0]
    if words.asks_by_itself:
        return pictures, question
    if pipes and STDIN not in pictures:
        return pictures, STDIN
    raise _make_half_error(pictures)


def _may_be_question(words: Sequence[str]) -> bool:
    """Checks for a single word that names no picture."""
    [first, *others] = words
    return not (others or first == STDIN or paths.exists(first) or names_picture(first))


def _make_half_error(pictures: Sequence[str]) -> UsageError:
    """Makes the error of a question without a picture, or of pictures without a question.

    Args:
        pictures: what was given; where it is one word, it may be the question.
    """
    shown = " ".join(shlex.quote(to_shown(each)) for each in pictures[:3])
    if _may_be_question(pictures):
        return UsageError(
            f"the picture is missing: {shown} is no file",
            f"name it before the question: `tinyv ask PICTURE {shown}`",
        )
    hint = f'ask something: `tinyv ask {shown} "what is it?"`'
    return UsageError("the question is missing, which comes last", hint)


def _make_picture_error(pictures: Sequence[str], question: str) -> UsageError:
    """Makes the error of a question that is the name of a picture, or of another file."""
    named = describe_picture(question)
    quoted = shlex.quote(to_shown(question))
    if named.startswith("the file"):
        hint = f"if the question is in that file: `--prompt-file {quoted}`"
    else:
        shown = [shlex.quote(to_shown(each)) for each in [*pictures, question]]
        all_ = " ".join(shown if len(shown) < 5 else [*shown[:2], "…", quoted])
        hint = f'ask something behind it: `tinyv ask {all_} "what is it?"`'
    return UsageError(
        f"the question, which comes last, is {named}",
        f"{hint}; if it is meant as the question: `-p {quoted}`",
    )


def to_text(content: bytes, name: str) -> str:
    """Decodes UTF-8 text, without a byte order mark and the newline that ends its last line.

    Args:
        content: as it was read.
        name: of the text in an error: `the question on stdin`.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text: {error.reason} at byte {error.start}",
            "convert it: `iconv -t UTF-8 question.txt`",
        ) from error
    return text.removesuffix("\n").removesuffix("\r")
