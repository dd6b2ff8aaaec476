"""Boxes in an answer become words for a person who reads it, also while it is being written.

`<p>a cat</p> {<5><52><40><90>}` becomes `a cat (lower left: 5-40 % across, 52-90 % down)`.
"""

import re
from collections.abc import Iterable, Iterator

from tinyv_cli.prompts.boxes import FULL_SCALE, JOINT, Box, split_boxes

# What may still become a mark when more is written: a phrase, a joint, a run of numbers, of which
# four are a box.
_BEGUN = re.compile(
    r"(?:<p>[^<{]*(?:</?p?)?|</?p?|<d[elim]*|(?:\{\s*|(?=<))(?:<\s*-?\d{0,9}\s*(?:>\s*)?)*)$"
)
_NEARLY_ALL = 0.8  # of width and of height, from where on a box is nowhere in particular
_COLUMNS, _ROWS = ("left", "", "right"), ("upper", "", "lower")
_ALONE = {("upper", ""): "top", ("", ""): "middle", ("lower", ""): "bottom"}


class BoxTeller:
    """Tells the boxes of one answer in words, as its pieces come.

    What may be the beginning of a box is held back until that is known; all else goes on at once.
    """

    def __init__(self) -> None:
        self._held = ""
        self._has_words = False
        self._ends_in_space = True

    def tell(self, piece: str, *, is_last: bool = False) -> str:
        """Returns what can be shown of an answer, given its next piece.

        Args:
            piece: of the answer as the model writes it.
            is_last: whether nothing follows, so that nothing is held back.
        """
        text = self._held + piece
        begun = None if is_last else _BEGUN.search(text)
        self._held = text[begun.start() :] if begun else ""
        told = ""
        for part in split_boxes(text.removesuffix(self._held), is_all=is_last):
            if isinstance(part, Box):
                place = describe_place(part)
                if self._has_words:
                    place = f"({place})" if self._ends_in_space else f" ({place})"
                told += place
                self._ends_in_space = False
            else:
                told += part
                self._has_words = self._has_words or bool(part.strip().strip(JOINT))
                self._ends_in_space = part[-1:].isspace()
        return told


def tell_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """Yields an answer's pieces with its boxes in words; one that is cut off inside is left out."""
    teller = BoxTeller()
    for piece in pieces:
        yield teller.tell(piece)
    yield teller.tell("", is_last=True)


def tell_boxes(answer: str) -> str:
    """Returns a whole answer with its boxes in words."""
    return BoxTeller().tell(answer, is_last=True)


def describe_place(box: Box) -> str:
    """Says where in the picture a box lies: `lower left: 5-40 % across, 52-90 % down`."""
    x1, y1, x2, y2 = (round(FULL_SCALE * each) for each in (box.x1, box.y1, box.x2, box.y2))
    if min(box.x2 - box.x1, box.y2 - box.y1) >= _NEARLY_ALL:
        name = "nearly everywhere"
    else:
        column = _COLUMNS[min(int(3 * (box.x1 + box.x2) / 2), 2)]
        row = _ROWS[min(int(3 * (box.y1 + box.y2) / 2), 2)]
        name = _ALONE.get((row, column)) or f"{row} {column}".strip()
    return f"{name}: {x1}-{x2} % across, {y1}-{y2} % down"
