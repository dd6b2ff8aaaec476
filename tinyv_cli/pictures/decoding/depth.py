"""Values of more than 8 bits become 8 bits, black at 0 and white at 255.

The file says how wide its words are, seldom what is white: 12 bits of a camera come in words of 16.
Where nothing comes near the end of the words, white is the end of the bits that are there.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

_STRIP_PIXELS = 1 << 20

# What elevation models and rasters write where they know nothing.
_NO_DATA = (-9999.0, -32768.0, float(np.finfo(np.float32).min))


class Levels(NamedTuple):
    """A grey picture at 8 bits.

    Attributes:
        picture: of mode L.
        n_bits: of the words that held anything, where those are fewer than the words have; else 0.
    """

    picture: Image.Image
    n_bits: int


class Meaning(NamedTuple):
    """What is known of grey values of more than 8 bits.

    Attributes:
        is_unsigned: whether 32 bits hold no sign.
        is_inverted: whether 0 is white.
        no_data: the value that stands where nothing is known; None where none is named.
        n_bits: of which white is the greatest number; None where that is not stated.
    """

    is_unsigned: bool = False
    is_inverted: bool = False
    no_data: float | None = None
    n_bits: int | None = None


class _Scale(NamedTuple):
    black: float
    white: float
    n_bits: int


def is_deep(mode: str) -> bool:
    """Returns whether a mode of Pillow's holds grey of more than 8 bits."""
    return mode == "F" or mode.startswith("I")


def to_levels(picture: Image.Image, meaning: Meaning) -> Levels:
    """Converts grey values of more than 8 bits, strip by strip.

    Words of 16 bits have their greatest value as white; where all values are below half of it, the
    greatest number of the bits that are there. Words of 32 bits and floats have no stated white:
    the least usual one that covers the picture is taken (255, those of 9 to 16 bits, in the upper
    half of 32 bits the greatest; 1.0, 255.0), and a picture beyond them is stretched from its own
    least value to its greatest. What is no number, infinite or no data becomes black.

    Args:
        picture: of mode F or one that begins with I.
        meaning: of its values.
    """
    empty = _NO_DATA if meaning.no_data is None else (meaning.no_data,)
    low, high, is_widened = np.inf, -np.inf, True
    for _, values in _cut(picture, is_unsigned=meaning.is_unsigned):
        data = values[~_find_empty(values, empty)]
        if data.size:
            low, high = min(low, float(data.min())), max(high, float(data.max()))
            is_widened = is_widened and picture.mode != "F" and _is_widened(data)
    if low > high:
        low = high = 0.0
    transparent = picture.info.get("transparency")
    if meaning.n_bits:
        scale = _Scale(0.0, 2.0**meaning.n_bits - 1, 0)
    else:
        scale = _choose_scale(picture.mode, low, high, is_widened=is_widened)
    levels = np.empty((picture.height, picture.width), np.uint8)
    for top, values in _cut(picture, is_unsigned=meaning.is_unsigned):
        factor = 255 / ((scale.white - scale.black) or 1)
        if scale.white == 65535 and scale.black == 0 and values.dtype.kind in "iu":
            strip = (values >> 8).astype(np.uint8)  # as Pillow does with 16-bit colour
        else:
            with np.errstate(all="ignore"):
                strip = np.clip(np.rint((values - scale.black) * factor), 0, 255)
                strip = np.nan_to_num(strip).astype(np.uint8)
        if meaning.is_inverted:
            strip = 255 - strip
        strip[_find_empty(values, empty)] = 0
        if isinstance(transparent, int):  # PNG's transparent grey
            strip[values == transparent] = 255
        levels[top : top + len(strip)] = strip
    return Levels(Image.fromarray(levels), scale.n_bits)


def merge_bytes(high: Image.Image, low: Image.Image) -> Levels:
    """Scales colours of 16 bits of which fewer are used, from their high and their low bytes.

    Args:
        high: RGB or RGBA, the high bytes; changed in place.
        low: the same picture's low bytes.

    Returns:
        `high` at 8 bits, and the number of bits; unchanged where all bits are used.
    """
    highest, most_opaque, is_widened = 0, 0, True
    for _, values in _cut_pair(high, low):
        highest = max(highest, int(values[..., :3].max()))
        most_opaque = max(most_opaque, int(values[..., 3:].max(initial=0)))
        is_widened = is_widened and _is_widened(values[..., :3])
    scale = _choose_scale("I;16", 0.0, float(highest), is_widened=is_widened)
    if scale.n_bits:
        for top, values in _cut_pair(high, low):
            strip = np.rint(np.minimum(values * (255 / scale.white), 255)).astype(np.uint8)
            if most_opaque > scale.white:
                strip[..., 3:] = values[..., 3:] >> 8
            high.paste(Image.fromarray(strip, high.mode), (0, top))
    return Levels(high, scale.n_bits)


def find_transparent(
    high: Image.Image, low: Image.Image, colour: tuple[int, int, int]
) -> Image.Image:
    """Makes the alpha of 16-bit RGB in which one colour is transparent, mode L."""
    alpha = np.empty((high.height, high.width), np.uint8)
    for top, values in _cut_pair(high, low):
        alpha[top : top + len(values)] = np.where((values == colour).all(axis=2), 0, 255)
    return Image.fromarray(alpha)


def to_low_bytes(rawmode: str) -> str | None:
    """Returns the rawmode that reads the low bytes where this one reads the high ones."""
    if rawmode == "LA;16B":  # there is none: of the four bytes of a pixel two are taken
        return None
    swapped = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    head, mark, tail = rawmode.rpartition(";16")
    return f"{head};16{swapped[tail]}" if mark and tail in swapped else None


def _choose_scale(mode: str, low: float, high: float, *, is_widened: bool) -> _Scale:
    """Chooses what is black and what is white; see `to_levels`."""
    if mode == "F":
        white = next((white for white in (1.0, 255.0) if low >= 0 and high <= white), None)
        return _Scale(low, high, 0) if white is None else _Scale(0.0, white, 0)
    n_bits = int(high).bit_length()
    is_16 = mode.startswith("I;16")
    if low < 0 or n_bits == 32:
        return _Scale(low, high, 0) if low < 0 else _Scale(0.0, 2.0**32 - 1, 0)
    if n_bits > 16:
        return _Scale(low, high, 0)
    if n_bits == 16 or (is_16 and (is_widened or low == high)):
        return _Scale(0.0, 65535.0, 0)
    if n_bits <= 8:
        return _Scale(0.0, 255.0, 8 if is_16 else 0)
    return _Scale(0.0, 2.0**n_bits - 1, n_bits)


def _is_widened(values: np.ndarray) -> bool:
    """Returns whether 16-bit values can be 8-bit ones made wider: by a factor of 257, or of 256."""
    low = values & 0xFF
    return not low.any() or np.array_equal(low, values >> 8)


def _find_empty(values: np.ndarray, empty: tuple[float, ...]) -> np.ndarray:
    """Finds where there is no data."""
    found: np.ndarray = ~np.isfinite(values)
    for each in empty:
        found |= values == each
    return found


def _cut(picture: Image.Image, *, is_unsigned: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yields a picture's values strip by strip, each with its first row."""
    n_rows = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, n_rows):
        bottom = min(top + n_rows, picture.height)
        values = np.asarray(picture.crop((0, top, picture.width, bottom)))
        yield top, values.view(np.uint32) if is_unsigned and picture.mode == "I" else values


def _cut_pair(high: Image.Image, low: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Yields 16-bit values of two pictures of bytes, strip by strip."""
    lower = _cut(low, is_unsigned=False)
    for (top, upper), (_, under) in zip(_cut(high, is_unsigned=False), lower, strict=True):
        yield top, (upper.astype(np.uint16) << 8) | under
