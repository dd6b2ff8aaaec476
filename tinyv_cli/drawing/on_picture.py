"""A picture and boxes become a picture with labelled boxes, and a file; finds no boxes itself.

Frames are bright with a black rim on both sides, so that one of the two stands out against any
picture; labels are black on a plate of the frame's colour. Colours differ from box to box, so that
a label that had to move away is still recognised.
"""

import math
import os
import shlex
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from tinyv_cli.disk.paths import is_file, is_folder
from tinyv_cli.disk.whole_file import open_whole
from tinyv_cli.disk.writing import check_place
from tinyv_cli.drawing.label_positions import Rectangle, place_labels, touches
from tinyv_cli.drawing.lettering import Font, resolve_lettering
from tinyv_cli.errors import DeviceError, UsageError, describe_os_error
from tinyv_cli.prompts.boxes import Box

# Yellow, sky, coral, lime, orange, violet, cyan, pink: black on each has a contrast above 7 to 1.
COLOURS = (
    "#F0E442",
    "#56B4E9",
    "#FF7B7B",
    "#7CFC00",
    "#FFA63D",
    "#C39BFF",
    "#00E5FF",
    "#FF9AD9",
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

_LEAST_SIDE_PX = 320  # below, the picture is enlarged: 15-pixel letters are not read on 32 pixels
_MOST_SIDE_PX = 8192  # and not beyond
_LEAST_LETTERS_PX = 15
_LETTERS_SHARE = 1 / 36  # of the root of the picture's area
_LONGEST_LABEL = 20  # in heights of its letters, some 40 letters
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class _Measures:
    """Lengths in pixels of the drawing, all derived from the height of its letters."""

    letters: int

    @property
    def padding(self) -> int:
        return max(3, self.letters // 4)

    @property
    def rim(self) -> int:
        return max(1, self.letters // 14)

    @property
    def line(self) -> int:
        return max(3, self.letters // 6)

    @property
    def stroke(self) -> int:
        """Width of a line with its rims."""
        return self.line + 2 * self.rim


@dataclass(frozen=True)
class _Label:
    """A line of text, its font, and the size in pixels of the plate that it stands on."""

    text: str
    font: Font
    width: int
    height: int


def draw_boxes(picture: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Draws boxes with their labels on a copy of a picture, a colour for each box.

    A picture whose shorter side is below 320 pixels is enlarged by a whole factor first, so that
    there is room for letters. Where several boxes are drawn, one without a label gets its number in
    the sequence, from 1. Labels lie inside the picture and apart from one another while there is
    room; one that finds none at its box is joined to it by a line. Too long ones end in `…`.

    Args:
        picture: any mode, upright, as `image.read_picture` returns it.
        boxes: in the order in which they were found, which gives the colours.

    Returns:
        A picture of mode RGB, as large as the given one or a whole multiple.

    Raises:
        DeviceError: Pillow has no fonts.
    """
    canvas = picture.convert("RGB")  # a copy where it is RGB already
    shorter, longer = sorted(canvas.size)
    factor = min(math.ceil(_LEAST_SIDE_PX / shorter), _MOST_SIDE_PX // longer)
    if factor > 1:
        size = (canvas.width * factor, canvas.height * factor)
        canvas = canvas.resize(size, Image.Resampling.NEAREST)
    area = canvas.width * canvas.height
    measures = _Measures(max(_LEAST_LETTERS_PX, round(math.sqrt(area) * _LETTERS_SHARE)))
    draw = ImageDraw.Draw(canvas)
    frames: list[Rectangle] = []
    for i, box in enumerate(boxes):
        left, right = _spread(box.x1 * canvas.width, box.x2 * canvas.width, canvas.width, measures)
        top, bottom = _spread(
            box.y1 * canvas.height, box.y2 * canvas.height, canvas.height, measures
        )
        frames.append((left, top, right, bottom))
        draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=measures.stroke)
        left, top = left + measures.rim, top + measures.rim
        right, bottom = right - 1 - measures.rim, bottom - 1 - measures.rim
        if left <= right and top <= bottom:
            draw.rectangle((left, top, right, bottom), outline=_colour(i), width=measures.line)
    _draw_labels(draw, canvas.size, boxes, frames, measures)
    return canvas


def find_unwritable(boxes: Sequence[Box]) -> list[str]:
    """Lists the labels drawn with `?`, since no font of this system has all their characters.

    Raises:
        DeviceError: Pillow has no fonts.
    """
    labels = dict.fromkeys(box.label for box in boxes)
    return [each for each in labels if not resolve_lettering(each, _LEAST_LETTERS_PX).is_whole]


def check_drawing_path(
    path: Path, source: Path | int | None = None, *, replaces: bool = False
) -> None:
    """Checks, before the model is asked, that a drawing can and may be written to a file.

    Args:
        path: where the drawing goes.
        source: the picture's own file, by its name or as it is open, if it came from one; it is
            never replaced.
        replaces: whether any other file that is there may be.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`, the folder is missing or the path is one, or
            the path is the picture itself, also by another name, or another file that is there.
        DeviceError: the folder may not be written to.
    """
    if path.suffix.lower() not in SUFFIXES:
        better = shlex.quote(str(path.with_suffix(".png") if path.name else path / "drawn.png"))
        raise UsageError(
            f"{path} has no suffix of a picture that can be written", f"use `--draw {better}`"
        )
    if is_folder(path):
        inside = shlex.quote(str(path / "drawn.png"))
        raise UsageError(f"{path} is a folder", f"name a file in it: `--draw {inside}`")
    if not is_folder(path.parent):
        raise UsageError(
            f"there is no folder {path.parent}",
            f"make it: `mkdir -p {shlex.quote(str(path.parent))}`",
        )
    is_source = False
    with suppress(OSError, ValueError):  # one of the two is not there
        is_source = source is not None and os.path.samestat(path.stat(), os.stat(source))  # noqa: PTH116
    if is_source:
        other = path.with_name(f"{path.stem}-drawn{path.suffix}")
        raise UsageError(
            f"{path} is the picture itself and would be lost",
            f"name another file: `--draw {shlex.quote(str(other))}`",
        )
    if not replaces and is_file(path):  # a pipe or device holds nothing that could be lost
        other = path.with_name(f"{path.stem}-drawn{path.suffix}")
        raise UsageError(
            f"{path} is there already",
            f"name another file: `--draw {shlex.quote(str(other))}`, or replace it: `--force`",
        )
    if not os.access(path.parent, os.W_OK):
        raise _make_write_error(path, "the folder may not be written to")
    check_place(path, "write it elsewhere: `--draw ~/drawn.png`")


def write_drawing(
    path: Path,
    drawing: Image.Image,
    source: Path | int | None = None,
    *,
    replaces: bool = False,
) -> None:
    """Writes a drawing in the format its suffix names, as a whole or not at all.

    Args:
        path: with one of `SUFFIXES`.
        drawing: mode RGB.
        source: see `check_drawing_path`.
        replaces: likewise.

    Raises:
        UsageError: see `check_drawing_path`.
        DeviceError: it cannot be written, or the format cannot hold so many pixels.
    """
    check_drawing_path(path, source, replaces=replaces)
    kind = Image.registered_extensions()[path.suffix.lower()]
    try:
        with open_whole(path) as file:
            drawing.save(file, kind, quality=_JPEG_QUALITY)
    except OSError as error:
        raise _make_write_error(path, describe_os_error(error)) from error
    except ValueError as error:
        raise _make_write_error(path, str(error)) from error


def _make_write_error(path: Path, reason: str) -> DeviceError:
    """Makes the error for a file that cannot be written."""
    return DeviceError(
        f"{path} cannot be written: {reason}", "write it elsewhere: `--draw ~/drawn.png`"
    )


def _colour(number: int) -> str:
    """Returns the colour of a box by its position in the sequence."""
    return COLOURS[number % len(COLOURS)]


def _spread(low: float, high: float, end: int, measures: _Measures) -> tuple[int, int]:
    """Returns the outer edges of a stroke that runs along two edges, between 0 and `end`.

    Edges of little or no distance are moved apart, around their middle, until the stroke has room.
    """
    if high - low >= 3 * measures.stroke:  # a large box is cut at the picture's edge, not moved
        half = measures.stroke / 2
        return max(0, round(low - half)), min(end, round(high + half))
    room = max(0.0, 3 * measures.stroke - (high - low + measures.stroke)) / 2
    first = round(low - measures.stroke / 2 - room)
    last = round(high + measures.stroke / 2 + room)
    length = min(last - first, end)
    first = min(max(0, first), end - length)
    return first, first + length


def _draw_labels(
    draw: ImageDraw.ImageDraw,
    picture: tuple[int, int],
    boxes: Sequence[Box],
    frames: Sequence[Rectangle],
    measures: _Measures,
) -> None:
    """Draws black letters on bright plates, and lines from those that lie away from their frames.

    Args:
        draw: draws on the picture.
        picture: its width and height in pixels.
        boxes: whose labels are drawn; one without gets its number where there are others.
        frames: of the boxes, as drawn.
        measures: lengths of the drawing.
    """
    are_numbered = len(boxes) > 1
    labels = [
        _make_label(box.label or (str(i + 1) if are_numbered else ""), picture, measures)
        for i, box in enumerate(boxes)
    ]
    sizes = [(label.width, label.height) if label else None for label in labels]
    positions = place_labels(sizes, frames, picture)
    for i, (position, frame) in enumerate(zip(positions, frames, strict=True)):
        if position is not None and not touches(position, frame):
            left, top, right, bottom = frame
            middle = ((position[0] + position[2]) // 2, (position[1] + position[3]) // 2)
            nearest = (
                min(max(middle[0], left), right - 1),
                min(max(middle[1], top), bottom - 1),
            )
            draw.line((middle, nearest), fill="black", width=measures.stroke)
            draw.line((middle, nearest), fill=_colour(i), width=measures.line)
    for i, (position, label) in enumerate(zip(positions, labels, strict=True)):
        if position is not None and label is not None:
            left, top, right, bottom = position
            corners = (left, top, right - 1, bottom - 1)
            draw.rectangle(corners, fill=_colour(i), outline="black", width=measures.rim)
            text_at = (left + measures.padding, top + measures.padding)
            draw.text(text_at, label.text, fill="black", font=label.font)


def _make_label(text: str, picture: tuple[int, int], measures: _Measures) -> _Label | None:
    """Sets a label in letters, cut with `…` to the picture's size; None for nothing to write."""
    text, font, _ = resolve_lettering(text, measures.letters)
    ascent, descent = font.getmetrics()
    height = ascent + descent + 2 * measures.padding
    most = min(picture[0], _LONGEST_LABEL * measures.letters) - 2 * measures.padding
    if font.getlength(text) > most:
        # Bisection: letter by letter a label of 5,000 took 33 s.
        starts = range(1, len(text))
        n_kept = bisect_right(starts, most, key=lambda n: math.ceil(font.getlength(f"{text[:n]}…")))
        text = f"{text[:n_kept].rstrip()}…" if n_kept else ""
    if not text or height > picture[1]:
        return None
    return _Label(text, font, math.ceil(font.getlength(text)) + 2 * measures.padding, height)
