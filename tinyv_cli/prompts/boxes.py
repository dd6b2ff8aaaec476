"""Boxes written in an answer become rectangles in 0-1 coordinates, and these text or JSON again.

The notation is `{<x1><y1><x2><y2>}`, whole numbers 0-100 of the picture's width and height; several
boxes are joined by `<delim>`, a phrase goes before those that belong to it: `<p>a cat</p> {<…>}`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FULL_SCALE = 100  # the number that stands for the whole width or height
JOINT = ", "  # what `<delim>` between two boxes means

_NUMBER = r"<\s*(-?\d{1,9})\s*"
_MARKS, _MARKS_BEFORE_MORE = (
    re.compile(
        rf"""
          <p>\s*(?P<phrase>[^<{{]*)(?:</p>)?                  # up to a box where </p> is missing
        | (?:\{{\s*)?{_NUMBER}>\s*{_NUMBER}>\s*{_NUMBER}>\s*{_NUMBER}(?:>\s*\}}?|\}}{end})
        | (?P<joint><delim>)
        """,
        re.VERBOSE,
    )
    for end in ("|$", "")  # the last bracket may be missing where nothing follows
)


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture.

    Attributes:
        label: the phrase it was given, empty for none.
        x1: left edge, 0 to 1 of the picture's width, at most `x2`.
        y1: upper edge, 0 to 1 of the picture's height, at most `y2`.
        x2: right edge.
        y2: lower edge.
    """

    label: str
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        """Share of the picture that the box covers, 0 to 1."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def to_pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Returns the edges (x1, y1, x2, y2) in whole pixels of a picture of this size."""
        return (
            round(self.x1 * width),
            round(self.y1 * height),
            round(self.x2 * width),
            round(self.y2 * height),
        )


def read_boxes(text: str) -> tuple[Box, ...]:
    """Finds every box in a text, in its order; the text around boxes is ignored.

    It is read tolerantly, since a model writes it: white space may stand between any two parts, the
    brackets at a box's end may be missing, corners may be swapped. A number below 0 or above 100 is
    clamped to that range. A box without four numbers is ignored.

    A phrase belongs to the box that follows it and to those joined on by `<delim>`.
    """
    return tuple(each for each in split_boxes(text) if isinstance(each, Box))


def split_boxes(text: str, *, is_all: bool = True) -> list[str | Box]:
    """Splits a text into words and boxes, in their order; a joint between boxes is `JOINT`.

    The marks around a phrase are dropped, its words stay. Boxes are those of `read_boxes`.

    Args:
        text: an answer, or its beginning.
        is_all: whether nothing follows on it.
    """
    parts: list[str | Box] = []
    label, end = "", 0
    for mark in (_MARKS if is_all else _MARKS_BEFORE_MORE).finditer(text):
        between = text[end : mark.start()]
        # Words between two boxes part the second from the phrase of the first.
        if between.strip():
            label = ""
        if between:
            parts.append(between)
        end = mark.end()
        if mark["phrase"] is not None:
            label = mark["phrase"].strip()
            parts.append(mark["phrase"])
        elif mark["joint"]:
            parts.append(JOINT)
        else:
            numbers = [min(max(int(mark[group]), 0), FULL_SCALE) for group in range(2, 6)]
            x1, y1, x2, y2 = (number / FULL_SCALE for number in numbers)
            parts.append(Box(label, min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    return [*parts, text[end:]] if text[end:] else parts


def write_box(box: Box) -> str:
    """Writes a box without its label in the notation that `read_boxes` reads: `{<12><5><60><88>}`.

    Edges are rounded to hundredths. Two that would meet are kept one apart, as far as the picture
    goes: a box of no area shows the model nothing.
    """
    x1, x2 = _round_apart(box.x1, box.x2)
    y1, y2 = _round_apart(box.y1, box.y2)
    return f"{{<{x1}><{y1}><{x2}><{y2}>}}"


def boxes_to_json(boxes: Sequence[Box], width: int, height: int) -> list[dict[str, Any]]:
    """Lists boxes in shares and in pixels of the picture that the user gave.

    The picture is squashed to a square for the model, so that shares are the same before and after;
    pixels are those of the picture as it is seen upright, after the turn that EXIF asks for.

    Args:
        boxes: in the answer's order, which is kept.
        width: of the upright picture, in pixels.
        height: likewise.

    Returns:
        For each box `label` (empty for none), `box` (x1, y1, x2, y2 in 0-1) and `pixels` (the same
        edges in whole pixels; the right and lower one lie behind the last pixel inside).
    """
    return [
        {
            "label": box.label,
            "box": [box.x1, box.y1, box.x2, box.y2],
            "pixels": list(box.to_pixels(width, height)),
        }
        for box in boxes
    ]


def compute_iou(one: Box, other: Box) -> float:
    """Computes the intersection over union of two boxes, 0 to 1; 0 where neither has an area.

    Source: Everingham et al., "The Pascal Visual Object Classes Challenge" (2010), section 4.2.
    """
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    shared = max(0.0, width) * max(0.0, height)
    union = one.area + other.area - shared
    return shared / union if union > 0 else 0.0


def is_one_to_one(fits: Sequence[Sequence[bool]]) -> bool:
    """Returns whether each row can be assigned a column of its own that fits, none left over.

    Args:
        fits: one row a box, one column a box of the other side.

    Source: Kuhn, "The Hungarian Method for the Assignment Problem" (1955): augmenting paths.
    """
    n_columns = len(fits[0]) if fits else 0
    owners: list[int | None] = [None] * n_columns

    def place(row: int, seen: set[int]) -> bool:
        for column in range(n_columns):
            if fits[row][column] and column not in seen:
                seen.add(column)
                owner = owners[column]
                if owner is None or place(owner, seen):
                    owners[column] = row
                    return True
        return False

    return len(fits) == n_columns and all(place(row, set()) for row in range(len(fits)))


def _round_apart(low: float, high: float) -> tuple[int, int]:
    """Rounds two edges to hundredths, the second above the first."""
    first = min(round(low * FULL_SCALE), FULL_SCALE - 1)
    return first, max(round(high * FULL_SCALE), first + 1)
