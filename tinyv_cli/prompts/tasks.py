"""A task's name, the user's words and a box become the question; opens no picture.

The network was trained on six tasks, each with a tag that stands first in the question. Without
`--task` and `--at` a question is passed on exactly as typed.
"""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.prompts.boxes import Box, read_boxes, write_box

TASKS = ("vqa", "caption", "refer", "identify", "grounding", "detection")

# Words for a task that the user gives none for. Source: the published evaluation (caption) and
# demo (the others); the remaining tasks ask nothing without words.
DEFAULT_WORDS = {
    "caption": "please describe this image",
    "grounding": "describe this image in detail",
    "identify": "what is this",
}

_EXAMPLES = {
    "vqa": "what colour is the car?",
    "refer": "the red car",
    "detection": "cars",
}
_TAG = re.compile(rf"\s*\[({'|'.join(TASKS)})\]", re.IGNORECASE)

Corners = tuple[float, float, float, float]

_LONGEST_BOX = Box("", 0.98, 0.98, 1.0, 1.0)  # takes the most tokens to write


@dataclass(frozen=True)
class Question:
    """What is asked about pictures of any size.

    Attributes:
        words: as typed; None for nothing.
        task: one of `TASKS`, or None.
        corners: of the box asked about, as `read_corners` returns them, or None.
    """

    words: str | None
    task: str | None = None
    corners: Corners | None = None

    def about(self, width: int, height: int) -> str:
        """Returns what is asked about a picture of this size, in pixels.

        Raises:
            UsageError: as `make_question` and `to_box` do.
            InputError: as `make_question` does.
        """
        box = None if self.corners is None else to_box(self.corners, width, height)
        return make_question(self.words, self.task, box)

    def at_longest(self) -> str:
        """Returns what takes as many tokens as anything that is asked; it raises as `about`."""
        return make_question(self.words, self.task, None if self.corners is None else _LONGEST_BOX)


def make_question(words: str | None, task: str | None = None, at: Box | None = None) -> str:
    """Puts a task's tag before the words, and a box behind them.

    Args:
        words: what the user typed; None for nothing.
        task: one of `TASKS`; None leaves the words as they are.
        at: the box asked about; makes the task `identify` where none is named.

    Returns:
        The words as typed where there is neither task nor box. Else `[task] words`, with one space
        between, also where the words begin with that tag already; with a box
        `[identify] words {<x1><y1><x2><y2>}`.

    Raises:
        UsageError: there is no such task, the words begin with another task's tag, the task asks
            nothing without words or a box, or a box and the task do not go together.
        InputError: the words are missing or blank.
    """
    if task is None and at is None:
        return _check_words(words)
    tag = _TAG.match(words or "")
    written = tag[1].lower() if tag else None
    named = _resolve_task(task, written, at)
    own_words = words[tag.end() :].strip() or None if words and tag else words
    if own_words is None and named not in DEFAULT_WORDS:
        example = shlex.join(["tinyv", "ask", "--task", named])
        raise UsageError(
            f"the task {named} needs words",
            f'say them: `{example} PICTURE "{_EXAMPLES[named]}"`',
        )
    asked = DEFAULT_WORDS[named] if own_words is None else _check_words(own_words).lstrip()
    question = f"[{named}] {asked}"
    has_box = bool(read_boxes(question))
    if at is not None:
        if has_box:
            raise UsageError(
                "the question holds a box, and --at gives another", "leave one of the two out"
            )
        return f"{question.rstrip()} {write_box(at)}"
    if named == "identify" and not has_box:
        raise UsageError(
            "the task identify asks what is in a box, and there is no box",
            "give one: `--at 0.1,0.2,0.5,0.9`",
        )
    return question


def check_task(name: str) -> None:
    """Checks that there is a task of this name; raises a `UsageError` if not."""
    if name in TASKS:
        return
    close = get_close_matches(name.lower().strip("[]"), TASKS, 1)
    raise UsageError(
        f"there is no task {name}",
        f"did you mean `--task {close[0]}`?" if close else f"choose one of {', '.join(TASKS)}",
    )


def read_corners(text: str) -> Corners:
    """Reads the four numbers of `--at`, before the size of the picture is known.

    Returns:
        x1, y1, x2, y2 as they were written: finite, none below zero, x1 < x2 and y1 < y2.

    Raises:
        UsageError: the text is not four such numbers.
    """
    parts = [part for part in re.split(r"[,\s]+", text.strip()) if part]
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        raise UsageError(
            f"--at is {text!r}, not four numbers",
            "give left, top, right and bottom: `--at 0.1,0.2,0.5,0.9`",
        )
    x1, y1, x2, y2 = numbers
    if min(numbers) < 0:
        raise UsageError(
            f"--at is {text!r}, and a position in the picture is not below 0",
            f"begin at the edge: `--at {_join([max(0.0, number) for number in numbers])}`",
        )
    if x1 == x2 or y1 == y2:
        raise UsageError(
            f"--at is {text!r}, a box of no {'width' if x1 == x2 else 'height'}",
            "give left, top, right and bottom: `--at 0.1,0.2,0.5,0.9`",
        )
    if x1 > x2 or y1 > y2:
        ordered = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
        raise UsageError(
            f"--at is {text!r}, and its corners are swapped",
            f"left and top come first: `--at {_join(ordered)}`",
        )
    return x1, y1, x2, y2


def to_box(corners: Corners, width: int, height: int) -> Box:
    """Makes the box that `--at` means in a picture.

    Numbers from 0 to 1 are shares of width and height. One number above 1 makes all four pixels of
    the upright picture. So `0,0,1,1` is the whole picture, not its first pixel.

    Args:
        corners: as `read_corners` returns them.
        width: pixels of the picture after the turn that EXIF asks for.
        height: likewise.

    Raises:
        UsageError: pixels lie outside the picture, or shares and pixels are mixed.
    """
    if max(corners) <= 1:
        return Box("", *corners)
    text = _join(corners)
    if any(0 < number < 1 for number in corners):
        raise UsageError(
            f"--at {text} mixes shares of the picture, 0 to 1, with pixels",
            f"write all four alike; the picture is {width}×{height} pixels: `--at 0.1,0.2,0.5,0.9`",
        )
    x1, y1, x2, y2 = corners
    if x2 > width or y2 > height:
        inside = [min(x1, width - 1), min(y1, height - 1), min(x2, width), min(y2, height)]
        raise UsageError(
            f"--at {text} lies outside the picture, which is {width}×{height} pixels upright",
            f"stay inside: `--at {_join(inside)}`",
        )
    return Box("", x1 / width, y1 / height, x2 / width, y2 / height)


def _resolve_task(task: str | None, written: str | None, at: Box | None) -> str:
    """Returns the task that option, tag and box agree on; raises a `UsageError` if they do not."""
    if task is not None:
        check_task(task)
    if task and written and task != written:
        raise UsageError(
            f"--task {task} is given, and the question begins with [{written}]",
            f"leave one out: `--task {written}`, or a question without its tag",
        )
    named = task or written or "identify"
    if at is not None and named != "identify":
        raise UsageError(
            f"--at puts a box into an [identify] question, this one is [{named}]",
            "leave `--at` out, or ask with `--task identify`",
        )
    return named


def _check_words(words: str | None) -> str:
    """Returns the words; raises an `InputError` where they are missing or blank."""
    if words is None or not words.strip():
        raise InputError(
            "the question is blank",
            'ask something: `tinyv ask PICTURE "what is it?"`, or `--task caption`',
        )
    return words


def _join(numbers: Sequence[float]) -> str:
    """Writes numbers as they are typed after `--at`."""
    return ",".join(f"{number:g}" for number in numbers)
