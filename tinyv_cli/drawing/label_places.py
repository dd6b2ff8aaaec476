"""Sizes of labels and the frames they belong to become places for them; draws nothing."""

from collections.abc import Iterator, Sequence

import numpy as np

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; the last two lie behind it
Size = tuple[int, int]  # width, height

_STEPS_A_LABEL = 2  # of the search over the whole picture, in each direction


def place_labels(
    sizes: Sequence[Size | None], frames: Sequence[Rectangle], picture: Size
) -> list[Rectangle | None]:
    """Finds a place inside the picture for each label.

    In this order: above its frame, below, inside, beside; then the nearest free place anywhere.
    Labels do not cover each other or a frame smaller than a label unless there is no such place;
    then the one at the frame that covers least is taken.

    Args:
        sizes: of the labels in pixels, none larger than the picture; None for no label.
        frames: of the boxes, inside the picture.
        picture: its width and height in pixels.

    Returns:
        A rectangle of each label's size, None where there is none to place.
    """
    shown = [size for size in sizes if size is not None]
    smallest = min((width * height for width, height in shown), default=0)
    taken = [frame for frame in frames if _area(frame) <= smallest]
    places: list[Rectangle | None] = []
    for size, frame in zip(sizes, frames, strict=True):
        place = None if size is None else _find_place(size, frame, picture, taken)
        places.append(place)
        if place is not None:
            taken.append(place)
    return places


def touches(one: Rectangle, other: Rectangle) -> bool:
    """Tells whether two rectangles overlap or share an edge."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _find_place(
    size: Size, frame: Rectangle, picture: Size, taken: Sequence[Rectangle]
) -> Rectangle:
    """The first place that covers nothing, else the one at the frame that covers least."""
    near = np.array(list(_walk_near(size, frame, picture)))
    cover = measure_cover(near, taken)
    if cover.min() > 0:
        far = _list_far(size, frame, picture)
        free = far[measure_cover(far, taken) == 0]
        if len(free):
            return _to_rectangle(free[0])
    return _to_rectangle(near[cover.argmin()])


def measure_cover(places: np.ndarray, taken: Sequence[Rectangle]) -> np.ndarray:
    """Pixels that places (P, 4) have in common with each of the taken ones, added up: (P,)."""
    others = np.array(taken, int).reshape(-1, 4)
    low = np.maximum(places[:, None, :2], others[:, :2])  # (P, T, 2)
    high = np.minimum(places[:, None, 2:], others[:, 2:])
    shared: np.ndarray = np.maximum(high - low, 0).prod(-1).sum(-1)
    return shared


def _walk_near(size: Size, frame: Rectangle, picture: Size) -> Iterator[Rectangle]:
    """Places at a frame, best first, then the frame's corner moved into the picture."""
    (width, height), (left, top, right, bottom) = size, frame
    columns = (left, right - width)
    corners = [
        *((x, top - height) for x in columns),
        *((x, bottom) for x in columns),
        *((x, top) for x in columns),
        *((x, bottom - height) for x in columns),
        *((right, y) for y in (top, bottom - height)),
        *((left - width, y) for y in (top, bottom - height)),
    ]
    for x, y in corners:
        inside = _move_inside(x, y, size, picture)
        # A shift to the side keeps a label at its frame; one up or down would hide the frame.
        if inside[1] == y and touches(inside, frame):
            yield inside
    yield _move_inside(left, top, size, picture)


def _list_far(size: Size, frame: Rectangle, picture: Size) -> np.ndarray:
    """Places (P, 4) all over the picture, those near the frame first."""
    width, height = size
    left, top = np.meshgrid(
        np.arange(0, picture[0] - width + 1, max(1, width // _STEPS_A_LABEL)),
        np.arange(0, picture[1] - height + 1, max(1, height // _STEPS_A_LABEL)),
    )
    places = np.stack([left, top, left + width, top + height], -1).reshape(-1, 4)
    x1, y1, x2, y2 = (places - np.array(frame)).T
    nearest_first = np.argsort((x1 + x2) ** 2 + (y1 + y2) ** 2, kind="stable")
    ordered: np.ndarray = places[nearest_first]
    return ordered


def _move_inside(x: int, y: int, size: Size, picture: Size) -> Rectangle:
    """A place of this size, moved into the picture."""
    x = min(max(0, x), picture[0] - size[0])
    y = min(max(0, y), picture[1] - size[1])
    return x, y, x + size[0], y + size[1]


def _to_rectangle(place: np.ndarray) -> Rectangle:
    """A row of places as plain numbers."""
    left, top, right, bottom = place.tolist()
    return left, top, right, bottom


def _area(rectangle: Rectangle) -> int:
    """Pixels of a rectangle."""
    return (rectangle[2] - rectangle[0]) * (rectangle[3] - rectangle[1])
