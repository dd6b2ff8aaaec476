"""A picture and boxes become a picture with labelled boxes, and a file; finds no boxes itself.

Frames are bright with a black rim on both sides, so that one of the two stands out against any
picture; labels are black on a plate of the frame's colour.
"""

import math
import os
import shlex
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from tinyv_cli.drawing.label_places import Rectangle, place_labels, touches
from tinyv_cli.drawing.lettering import Font, resolve_lettering
from tinyv_cli.errors import DeviceError, UsageError
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

_LEAST_SIDE_PX = 320  # below, the picture is enlarged, or labels would hide it
_MOST_SIDE_PX = 8192  # and not beyond
_LEAST_LETTERS_PX = 15
_LETTERS_SHARE = 1 / 36  # of the root of the picture's area
_LONGEST_LABEL = 20  # in heights of its letters, some 40 letters
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class _Measures:
    """Lengths in pixels of the drawing."""

    width: int
    height: int
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
        """A line with its rims."""
        return self.line + 2 * self.rim


@dataclass(frozen=True)
class _Label:
    """A line of text with the font and the size of the plate that it stands on."""

    text: str
    font: Font
    width: int
    height: int


def draw_boxes(picture: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Draws boxes with their labels on a copy of a picture.

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
    canvas = _enlarge(picture.convert("RGB") if picture.mode != "RGB" else picture.copy())
    area = canvas.width * canvas.height
    letters = max(_LEAST_LETTERS_PX, round(math.sqrt(area) * _LETTERS_SHARE))
    measures = _Measures(canvas.width, canvas.height, letters)
    draw = ImageDraw.Draw(canvas)
    frames = [_make_frame(box, measures) for box in boxes]
    for i, frame in enumerate(frames):
        _draw_frame(draw, frame, _colour(i), measures)
    labels = [_make_label(_name(boxes, i), measures) for i in range(len(boxes))]
    sizes = [(label.width, label.height) if label else None for label in labels]
    places = place_labels(sizes, frames, canvas.size)
    for i, place in enumerate(places):
        if place is not None and not touches(place, frames[i]):
            _draw_leader(draw, place, frames[i], _colour(i), measures)
    for i, (label, place) in enumerate(zip(labels, places, strict=True)):
        if label is not None and place is not None:
            _draw_plate(draw, label, place, _colour(i), measures)
    return canvas


def find_unwritable(boxes: Sequence[Box]) -> list[str]:
    """Lists the labels that are drawn with `?`, since no font of this system has all their signs.

    Raises:
        DeviceError: Pillow has no fonts.
    """
    labels = dict.fromkeys(box.label for box in boxes)
    return [each for each in labels if not resolve_lettering(each, _LEAST_LETTERS_PX).is_whole]


def check_drawing_path(path: Path, source: Path | None = None) -> None:
    """Refuses a file that a drawing cannot or must not be written to; before the picture is asked.

    Args:
        path: where the drawing goes.
        source: the picture's own file, if it came from one.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`, the folder is missing or the path is one, or
            the path is the picture itself, also by another name.
        DeviceError: the folder may not be written to.
    """
    if path.suffix.lower() not in SUFFIXES:
        better = shlex.quote(str(path.with_suffix(".png") if path.name else path / "drawn.png"))
        raise UsageError(
            f"{path} has no suffix of a picture that can be written", f"use `--draw {better}`"
        )
    if path.is_dir():
        inside = shlex.quote(str(path / "drawn.png"))
        raise UsageError(f"{path} is a folder", f"name a file in it: `--draw {inside}`")
    if not path.parent.is_dir():
        raise UsageError(
            f"there is no folder {path.parent}",
            f"make it: `mkdir -p {shlex.quote(str(path.parent))}`",
        )
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        other = path.with_name(f"{path.stem}-drawn{path.suffix}")
        raise UsageError(
            f"{path} is the picture itself and would be lost",
            f"name another file: `--draw {shlex.quote(str(other))}`",
        )
    if not os.access(path.parent, os.W_OK):
        raise _make_write_error(path, "the folder may not be written to")


def write_drawing(path: Path, drawing: Image.Image, source: Path | None = None) -> None:
    """Writes a drawing in the format its suffix names; a file that is there is replaced as a whole.

    Args:
        path: with one of `SUFFIXES`.
        drawing: mode RGB.
        source: the picture's own file, which is never replaced.

    Raises:
        UsageError: see `check_drawing_path`.
        DeviceError: it cannot be written, or the format cannot hold so many pixels.
    """
    check_drawing_path(path, source)
    target = path.resolve()  # a link stays one
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    kind = Image.registered_extensions()[path.suffix.lower()]
    try:
        with fresh.open("xb") as file:
            drawing.save(file, kind, quality=_JPEG_QUALITY)
        fresh.replace(target)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _make_write_error(path, reason) from error
    finally:
        fresh.unlink(missing_ok=True)


def _make_write_error(path: Path, reason: str) -> DeviceError:
    """The error for a file that cannot be written."""
    return DeviceError(
        f"{path} cannot be written: {reason}", "write it elsewhere: `--draw ~/drawn.png`"
    )


def _enlarge(picture: Image.Image) -> Image.Image:
    """Repeats the pixels of a small picture a whole number of times."""
    shorter, longer = sorted(picture.size)
    factor = min(math.ceil(_LEAST_SIDE_PX / shorter), _MOST_SIDE_PX // longer)
    if factor < 2:
        return picture
    return picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )


def _colour(number: int) -> str:
    """The colour of a box by its place in the sequence."""
    return COLOURS[number % len(COLOURS)]


def _name(boxes: Sequence[Box], number: int) -> str:
    """What stands at a box: its label, or its number where there are others."""
    return boxes[number].label or (str(number + 1) if len(boxes) > 1 else "")


def _make_frame(box: Box, measures: _Measures) -> Rectangle:
    """The outer edges of a box's stroke, which runs along its edges, inside the picture.

    A box of little or no area is widened around its middle until the stroke has room.
    """
    left, right = _spread(
        box.x1 * measures.width, box.x2 * measures.width, measures.width, measures
    )
    top, bottom = _spread(
        box.y1 * measures.height, box.y2 * measures.height, measures.height, measures
    )
    return left, top, right, bottom


def _spread(low: float, high: float, end: int, measures: _Measures) -> tuple[int, int]:
    """Two edges with half a stroke around them, at least three strokes apart, within 0 to end."""
    room = max(0.0, 3 * measures.stroke - (high - low + measures.stroke)) / 2
    first = round(low - measures.stroke / 2 - room)
    last = round(high + measures.stroke / 2 + room)
    length = min(last - first, end)
    if high - low >= 3 * measures.stroke:  # a large box is cut at the picture's edge, not moved
        return max(0, first), min(end, last)
    first = min(max(0, first), end - length)
    return first, first + length


def _draw_frame(
    draw: ImageDraw.ImageDraw, frame: Rectangle, colour: str, measures: _Measures
) -> None:
    """A black stroke with a bright line in its middle."""
    left, top, right, bottom = frame
    draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=measures.stroke)
    inner = (
        left + measures.rim,
        top + measures.rim,
        right - 1 - measures.rim,
        bottom - 1 - measures.rim,
    )
    if inner[0] <= inner[2] and inner[1] <= inner[3]:
        draw.rectangle(inner, outline=colour, width=measures.line)


def _make_label(text: str, measures: _Measures) -> _Label | None:
    """Sets a label in letters, cut to what the picture can hold; None for nothing to write."""
    lettering = resolve_lettering(text, measures.letters)
    ascent, descent = lettering.font.getmetrics()
    height = ascent + descent + 2 * measures.padding
    most = min(measures.width, _LONGEST_LABEL * measures.letters) - 2 * measures.padding
    shown = _shorten(lettering.text, lettering.font, most)
    if not shown or height > measures.height:
        return None
    width = math.ceil(lettering.font.getlength(shown)) + 2 * measures.padding
    return _Label(shown, lettering.font, width, height)


def _shorten(text: str, font: Font, most: int) -> str:
    """The text where it is no wider than so many pixels, else its beginning and `…`."""
    if font.getlength(text) <= most:
        return text
    starts = range(1, len(text))
    n_kept = bisect_right(starts, most, key=lambda n: math.ceil(font.getlength(f"{text[:n]}…")))
    return f"{text[:n_kept].rstrip()}…" if n_kept else ""


def _draw_plate(
    draw: ImageDraw.ImageDraw, label: _Label, place: Rectangle, colour: str, measures: _Measures
) -> None:
    """Black letters on a bright plate with a black rim."""
    left, top, right, bottom = place
    corners = (left, top, right - 1, bottom - 1)
    draw.rectangle(corners, fill=colour, outline="black", width=measures.rim)
    text_at = (left + measures.padding, top + measures.padding)
    draw.text(text_at, label.text, fill="black", font=label.font)


def _draw_leader(
    draw: ImageDraw.ImageDraw,
    place: Rectangle,
    frame: Rectangle,
    colour: str,
    measures: _Measures,
) -> None:
    """A line from a label to the nearest point of its frame."""
    middle = ((place[0] + place[2]) // 2, (place[1] + place[3]) // 2)
    nearest = (
        min(max(middle[0], frame[0]), frame[2] - 1),
        min(max(middle[1], frame[1]), frame[3] - 1),
    )
    draw.line((middle, nearest), fill="black", width=measures.stroke)
    draw.line((middle, nearest), fill=colour, width=measures.line)
