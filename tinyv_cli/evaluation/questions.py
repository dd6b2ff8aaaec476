"""A file of questions, a JSON object a line, becomes checked questions; opens no picture."""

import codecs
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyv_cli.addresses import is_address, is_malformed
from tinyv_cli.disk.paths import is_file
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.typed_json import read_object, to_dataclass
from tinyv_cli.errors import InputError, describe_os_error
from tinyv_cli.evaluation.scoring import TASKS, check_reference
from tinyv_cli.pictures.names import find_meant, has_picture_suffix
from tinyv_cli.prompts.prompt import check_question

FORM = '{"picture": "cat.png", "task": "what", "question": "[vqa] what is this?", "answer": "cat"}'


@dataclass(frozen=True)
class QuestionLine:
    """One line as it is written."""

    picture: str
    task: str
    question: str
    answer: str


@dataclass(frozen=True)
class Question:
    """One question that an answer is known to.

    Attributes:
        index: its place among the file's questions, from 0.
        place: file and line, for messages.
        picture: the file it is about.
        task: one of `scoring.TASKS`.
        text: as it is asked, task tag included.
        reference: the right answer.
    """

    index: int
    place: str
    picture: Path
    task: str
    text: str
    reference: str


def read_questions(content: bytes, path: Path) -> list[Question]:
    """Reads what stands in a file of questions; blank lines are passed over.

    Args:
        content: of the file.
        path: where it lies; pictures are relative to its folder.

    Raises:
        InputError: there is no question, or a line is no JSON object, lacks a key, has an unknown
            task, a blank question or an answer that its task cannot be scored by.
    """
    questions: list[Question] = []
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines()
    for n_line, line in enumerate(lines, 1):
        if line.strip():
            place = f"line {n_line} of {path}"
            questions.append(_read_line(line, len(questions), place, path.parent))
    if not questions:
        raise InputError(f"{path} holds no question", f"write one a line: `{FORM}`")
    return questions


def read_question_file(path: Path) -> bytes:
    """Reads the bytes of a file of questions.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        hint = f"write a question a line into it: `{FORM}`"
        meant = find_meant(path)
        if meant and not has_picture_suffix(meant):
            hint = f"did you mean {shlex.quote(meant)}?"
        raise InputError(f"there is no file {path}", hint) from error
    except OSError as error:
        hint = f"name a file that holds a question a line: `{FORM}`"
        raise InputError(f"{path} cannot be read: {describe_os_error(error)}", hint) from error


def check_pictures(questions: Sequence[Question]) -> None:
    """Checks that every question's picture is there.

    Raises:
        InputError: one is missing.
    """
    known: set[Path] = set()
    for question in questions:
        if question.picture not in known and not is_file(question.picture):
            raise InputError(
                f"there is no picture {question.picture}, which {question.place} asks about",
                "pictures lie where the file of questions says, relative to its own folder",
            )
        known.add(question.picture)


def _read_line(line: bytes, index: int, place: str, folder: Path) -> Question:
    """Checks one line."""
    try:
        fields = to_dataclass(QuestionLine, read_object(line))
        if is_address(fields.picture) or is_malformed(fields.picture):
            raise ValueError("its picture is a URL, and only files are read")
        if fields.task not in TASKS:
            raise ValueError(f"there is no task '{fields.task}', there are {', '.join(TASKS)}")
        check_question(fields.question)
        fields.answer.encode()
        check_reference(fields.task, fields.answer)
    except InputError as error:
        raise InputError(f"{place} cannot be asked: {error.problem}", error.hint) from error
    except (ValueError, RecursionError) as error:
        reason, cause = str(error), error.__cause__
        if isinstance(cause, json.JSONDecodeError):  # its line number would be read as the file's
            reason = f"it is not JSON ({cause.msg} at character {cause.colno})"
        raise InputError(
            f"{place} is no question with an answer: {reason}",
            f"write one such object a line: `{FORM}`",
        ) from error
    picture = folder / fields.picture
    return Question(index, place, picture, fields.task, fields.question, fields.answer)
