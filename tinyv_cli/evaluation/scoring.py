"""An answer and its reference become right or wrong, task by task.

Most tasks compare texts, captions the things they count, and tasks about places their boxes.
"""

import re
from collections import Counter

from tinyv_cli.prompts.boxes import Box, compute_iou, is_one_to_one, read_boxes

TASKS = (
    *("what", "colour", "count", "exists", "relation"),
    *("caption", "refer", "identify", "detection", "grounding"),
)
_BOX_TASKS = frozenset({"refer", "detection", "grounding"})

MIN_IOU = 0.5  # a box is right above it, not at it

_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"a": 1, "an": 1} | {word: i for i, word in enumerate(_NUMBER_WORDS, 1)}
_COLOURS = (
    *("red", "green", "blue", "yellow", "orange", "purple", "violet", "pink", "brown", "black"),
    *("white", "grey", "gray", "cyan", "magenta", "turquoise", "light", "dark"),
)
_SINGULARS = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "snowmen": "snowman",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "buses": "bus",
    "cactuses": "cactus",
    "octopuses": "octopus",
    "knives": "knife",
    "leaves": "leaf",
    "wolves": "wolf",
    "potatoes": "potato",
    "tomatoes": "tomato",
}
_TAKES_ES = ("sses", "xes", "zes", "ches", "shes")
_BETWEEN_THINGS = re.compile(r",(?:\s+and\b)?|\band\b")
_BACKGROUND = re.compile(r"\bon\b.*", re.DOTALL)


def normalise(text: str) -> str:
    """Drops of a text what is not compared: case, white space around it, one final full stop."""
    return text.casefold().strip().removesuffix(".").rstrip()


def count_things(caption: str) -> Counter[str] | None:
    """Counts the kinds of things that a caption names.

    The form is "two cats, a red car and a dog on a green background": phrases of a number (`a`,
    `an`, `one` to `ten`) and a noun, between them `,`, `and` or both; what follows the word `on` is
    passed over, and so are colours before the noun. Things named in two phrases are added up.

    Returns:
        How many there are of each kind, in the singular; None where a phrase is not of this form.
    """
    things: Counter[str] = Counter()
    for phrase in _BETWEEN_THINGS.split(_BACKGROUND.sub("", normalise(caption))):
        number, *words = phrase.split() or [""]
        if not words or number not in _NUMBERS:
            return None
        *before, noun = words
        kind = [*(word for word in before if word not in _COLOURS), to_singular(noun)]
        things[" ".join(kind)] += _NUMBERS[number]
    return things


def to_singular(noun: str) -> str:
    """Takes a plural's ending off; what stands in the singular stays.

    A list of irregular ones first; then -ies becomes -y (not in words of four letters, as `ties`),
    -es goes after a doubled s, x, z, ch and sh, and -s goes but from -ss, -us and -is.
    """
    if noun in _SINGULARS:
        return _SINGULARS[noun]
    if noun.endswith("ies") and len(noun) > 4:
        return noun.removesuffix("ies") + "y"
    if noun.endswith(_TAKES_ES):
        return noun.removesuffix("es")
    is_plural = noun.endswith("s") and not noun.endswith(("ss", "us", "is"))
    return noun.removesuffix("s") if is_plural else noun


def is_right(task: str, answer: str, reference: str) -> bool:
    """Compares an answer with a reference as the task is measured.

    A caption is right that names the same things as often. A text about places is right whose boxes
    can be paired with the reference's, none left over, each pair with an IoU above `MIN_IOU` and,
    in grounding, with the same phrase. Every other task wants the same text.

    Args:
        task: one of `TASKS`.
        answer: what the model said.
        reference: what `check_reference` lets pass.
    """
    if task == "caption":
        return count_things(answer) == count_things(reference)
    if task not in _BOX_TASKS:
        return normalise(answer) == normalise(reference)

    def fits(found: Box, wanted: Box) -> bool:
        has_name = task != "grounding" or normalise(found.label) == normalise(wanted.label)
        return has_name and compute_iou(found, wanted) > MIN_IOU

    boxes, wanted = read_boxes(answer), read_boxes(reference)
    if len(boxes) != len(wanted):
        return False
    return is_one_to_one([[fits(box, other) for other in wanted] for box in boxes])


def agree(task: str, one: str, other: str) -> bool:
    """Compares two answers: they agree with the same text, or where each is right by the other.

    A hundredth at the edge of a box is no difference. Answers that name nothing (a caption without
    a thing, a place without a box) agree only to the letter, so that two kinds of nonsense do not.

    Args:
        task: one of `TASKS`; decides what of an answer counts.
        one: what a model said.
        other: what another said; either may be anything.
    """
    if normalise(one) == normalise(other):
        return True
    try:
        check_reference(task, one)
        check_reference(task, other)
    except ValueError:
        return False
    return is_right(task, one, other)


def check_reference(task: str, reference: str) -> None:
    """Refuses a reference that no answer could be right by.

    Raises:
        ValueError: it is blank, a caption that counts nothing, or has no box, a box without area,
            a box without a phrase (grounding) or several boxes (refer).
    """
    if not normalise(reference):
        raise ValueError("its answer is blank")
    if task == "caption" and not count_things(reference):
        raise ValueError("its answer does not name things with their number")
    if task in _BOX_TASKS:
        boxes = read_boxes(reference)
        if not boxes:
            raise ValueError("its answer holds no box {<x1><y1><x2><y2>}")
        if not all(box.area for box in boxes):
            raise ValueError("its answer holds a box without area")
        if task == "grounding" and not all(box.label for box in boxes):
            raise ValueError("its answer holds a box without a phrase <p>…</p>")
        if task == "refer" and len(boxes) > 1:
            raise ValueError("its answer holds several boxes, this task asks for one")
