"""Sizes of labels and the frames they belong to become positions for them; draws nothing."""

from collections.abc import Sequence

import numpy as np

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; the last two lie behind it
Size = tuple[int, int]  # width, height

_STEPS_A_LABEL = 2  # of the search over the whole picture, in each direction


def place_labels(
    sizes: Sequence[Size | None], frames: Sequence[Rectangle], picture: Size
) -> list[Rectangle | None]:
    """Finds a position inside the picture for each label.

    In this order: above its frame, below, inside, beside; then the nearest free one anywhere.
    Labels do not cover each other or a frame smaller than a label unless there is no such position;
    then the one at the frame that covers least is taken.

    Args:
        sizes: of the labels in pixels, none larger than the picture; None for no label.
        frames: of the boxes, inside the picture.
        picture: its width and height in pixels.

    Returns:
        A rectangle of each label's size, None where there is none to place.
    """
    smallest = min((size[0] * size[1] for size in sizes if size is not None), default=0)
    taken = [each for each in frames if (each[2] - each[0]) * (each[3] - each[1]) <= smallest]
    positions: list[Rectangle | None] = []
    for size, frame in zip(sizes, frames, strict=True):
        position = None if size is None else _find_position(size, frame, picture, taken)
        positions.append(position)
        if position is not None:
            taken.append(position)
    return positions


def touches(one: Rectangle, other: Rectangle) -> bool:
    """Returns whether two rectangles overlap or share an edge."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def measure_cover(positions: np.ndarray, taken: Sequence[Rectangle]) -> np.ndarray:
    """Adds up the pixels that positions (P, 4) have in common with each taken one: (P,)."""
    others = np.array(taken, int).reshape(-1, 4)
    low = np.maximum(positions[:, None, :2], others[:, :2])  # (P, T, 2)
    high = np.minimum(positions[:, None, 2:], others[:, 2:])
    shared: np.ndarray = np.maximum(high - low, 0).prod(-1).sum(-1)
    return shared


def _find_position(
    size: Size, frame: Rectangle, picture: Size, taken: Sequence[Rectangle]
) -> Rectangle:
    """Returns the first position that covers nothing, else the one at the frame covering least."""
    (width, height), (left, top, right, bottom) = size, frame
    columns = (left, right - width)
    corners = [
        *((x, top - height) for x in columns),
        *((x, bottom) for x in columns),
        *((x, top) for x in columns),
        *((x, bottom - height) for x in columns),
        *((right, y) for y in (top, bottom - height)),
        *((left - width, y) for y in (top, bottom - height)),
        (left, top),
    ]
    near: list[Rectangle] = []
    for i, (x, y) in enumerate(corners):
        x1, y1 = min(max(0, x), picture[0] - width), min(max(0, y), picture[1] - height)
        inside = (x1, y1, x1 + width, y1 + height)
        # A shift to the side keeps a label at its frame; one up or down would hide the frame. The
        # frame's own corner comes last and is taken however far it moves.
        if (y1 == y and touches(inside, frame)) or i == len(corners) - 1:
            near.append(inside)
    cover = measure_cover(np.array(near), taken)
    if cover.min() > 0:
        lefts, tops = np.meshgrid(
            np.arange(0, picture[0] - width + 1, max(1, width // _STEPS_A_LABEL)),
            np.arange(0, picture[1] - height + 1, max(1, height // _STEPS_A_LABEL)),
        )
        far = np.stack([lefts, tops, lefts + width, tops + height], -1).reshape(-1, 4)  # (P, 4)
        far = far[measure_cover(far, taken) == 0]
        if len(far):
            x1, y1, x2, y2 = (far - np.array(frame)).T
            left, top = far[((x1 + x2) ** 2 + (y1 + y2) ** 2).argmin(), :2].tolist()
            return left, top, left + width, top + height
    return near[int(cover.argmin())]
