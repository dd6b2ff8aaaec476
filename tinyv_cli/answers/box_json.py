"""Boxes become the objects that JSON output lists; reads no answer and no picture."""

from collections.abc import Sequence
from typing import Any

from tinyv_cli.prompts.boxes import Box


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
