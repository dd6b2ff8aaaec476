"""The bytes of a picture file become RGB at 8 bits, upright; which file it was, others know.

What a big picture takes is its pixels once as they are stored and once as RGB, at most: whatever
else is computed goes strip by strip.
"""

import re
from contextlib import suppress
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from tinyv_cli.pictures.decoding.depth import (
    Meaning,
    find_transparent,
    is_deep,
    merge_bytes,
    to_levels,
    to_low_bytes,
)
from tinyv_cli.pictures.decoding.effort import check_effort, check_memory, count_frames
from tinyv_cli.pictures.decoding.formats import (
    HEAD_BYTES,
    NotReadError,
    list_formats,
    load_plugin,
    name_unread,
)
from tinyv_cli.pictures.decoding.jpeg import complete_jpeg, read_wide_jpeg2000
from tinyv_cli.pictures.decoding.png import SIGNATURE, check_png
from tinyv_cli.pictures.decoding.profiles import ProfileError, find_png_profile, to_srgb
from tinyv_cli.pictures.decoding.tiff import choose_page, mend, prepare_tiffs

# Formats in which alpha of nothing but 0 means that there is none: writers leave the byte empty.
_ALPHA_MAY_BE_EMPTY = frozenset({"BMP", "CUR", "DDS", "DIB", "ICO", "TGA"})
_ANIMATIONS = frozenset({"AVIF", "FLI", "GIF", "HEIF", "PNG", "WEBP"})
_WHITE_IS_STATED = {"JPEG2000": 16, "PPM": 16}  # Pillow brings them to so many bits
_MOST_FRAMES = 100  # looked through for one that shows something
_STRIP_PIXELS = 1 << 20

# Source: EXIF 2.3, tag 0x0112; the same table as PIL.ImageOps.exif_transpose.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Opened(NamedTuple):
    """A picture whose head is read, and what else the file says of its values."""

    picture: ImageFile.ImageFile
    meaning: Meaning
    beside: dict[bytes, bytes]  # chunks of a PNG


def decode(
    stream: BinaryIO, max_pixels: int, *, uses_profiles: bool
) -> tuple[Image.Image, list[str]]:
    """Decodes a picture to RGB; of an animation the first frame that shows something.

    Args:
        stream: of the file, from its beginning.
        max_pixels: as Pillow's own limit is set.
        uses_profiles: whether colours are converted to sRGB.

    Returns:
        A picture of mode RGB that holds no file, upright; and what the user is to know of it, in
        half sentences that follow its name.

    Raises:
        NotReadError: it is of a kind that is not read, or less than 2 pixels wide or high.
        UnidentifiedImageError: it is no picture.
        ValueError, OSError, and whatever else Pillow raises: it is damaged.
    """
    head = stream.read(HEAD_BYTES)
    load_plugin(head)
    beside: dict[bytes, bytes] = {}
    if head.startswith(SIGNATURE):
        stream, beside = check_png(stream, max_pixels)
    elif head.startswith((b"II", b"MM")):
        prepare_tiffs()
    try:
        opened = _open(stream, beside)
    except UnidentifiedImageError as error:
        if unread := name_unread(head):
            raise NotReadError(f"is not a picture that is read: it is {unread}") from error
        raise
    notes: list[str] = []
    with opened.picture as picture:
        width, height = picture.size
        if min(width, height) < 2:
            raise NotReadError(
                f"is {width}×{height} pixels, too thin to show anything",
                "use a picture at least 2 pixels wide and high: `tinyv ask PICTURE QUESTION`",
            )
        if picture.format in ("CUR", "ICNS", "ICO"):
            stream.seek(0)
            content = stream.read()
            for inside in re.finditer(re.escape(SIGNATURE), content):
                check_png(BytesIO(content[inside.start() :]), max_pixels)
        check_memory(width, height)
        loaded, n_bits = _load(opened, stream)
        if n_bits:
            notes.append(f"uses {n_bits} bits of its words of 16, white is {2**n_bits - 1}")
        rgb = _to_rgb(loaded, opened, uses_profiles, notes)
        try:
            # Pillow turns TIFF pictures itself while loading and then reports 1.
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # noqa: BLE001 - a picture is worth more than its broken metadata
            orientation = 1
        if picture.format in _ANIMATIONS and getattr(picture, "is_animated", False):
            rgb = _find_frame(rgb, opened, uses_profiles, notes)
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return rgb if turn is None else rgb.transpose(turn), notes


def _open(stream: BinaryIO, beside: dict[bytes, bytes]) -> _Opened:
    """Reads the head of a picture, weighs it, and sets right how its pixels will be decoded."""
    picture = Image.open(stream, formats=list_formats())
    check_effort(picture, stream)
    meaning = Meaning()
    if picture.mode != "F":
        meaning = Meaning(n_bits=_WHITE_IS_STATED.get(picture.format or ""))
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and picture.format == "TIFF":
        choose_page(picture)
        meaning = mend(picture)
    header = beside.get(b"IHDR")
    transparent = picture.info.get("transparency")
    if header and isinstance(transparent, int | tuple) and picture.mode != "P":
        depth = header[8]
        most = 2**depth - 1
        if isinstance(transparent, int) and depth < 8:  # Pillow spreads the values to 8 bits
            picture.info["transparency"] = (transparent & most) * 255 // most
        elif depth == 8:  # the low bits count alone
            picture.info["transparency"] = (
                transparent & 255
                if isinstance(transparent, int)
                else tuple(each & 255 for each in transparent)
            )
    return _Opened(picture, meaning, beside)


def _load(opened: _Opened, stream: BinaryIO) -> tuple[Image.Image, int]:
    """Decodes the pixels to 8 bits a channel.

    Returns:
        The picture, and the number of bits in words of 16 that were taken for all, or 0.
    """
    picture, meaning, beside = opened
    args = picture.tile[0].args if picture.tile else ""
    rawmode = str(args[0] if isinstance(args, tuple) else args)
    try:
        picture.load()
    except OSError:
        stream.seek(0)
        whole = None
        if picture.format in ("JPEG", "MPO"):
            whole = complete_jpeg(stream.read(), decode_plainly)
        if whole is None:
            raise
        return whole, 0
    if is_deep(picture.mode):
        return to_levels(picture, meaning)
    if picture.format == "JPEG2000" and picture.mode in ("LA", "RGB", "RGBA"):
        stream.seek(0)
        return read_wide_jpeg2000(stream.read(), picture, decode_plainly), 0
    if picture.format in _ALPHA_MAY_BE_EMPTY and picture.mode in ("LA", "RGBA"):
        stream.seek(0)
        says_none = picture.format == "TGA" and not stream.read(18)[17] & 15
        if says_none or not _find_extrema(picture)[-1].any():
            return picture.convert(picture.mode[:-1]), 0
    if ";16" not in rawmode or picture.mode not in ("RGB", "RGBA") or rawmode.startswith("RGBa"):
        return picture, 0
    colour = picture.info.pop("transparency", None)
    if colour is None and _find_extrema(picture)[:3].max() > 127:
        return picture, 0
    again = _open(stream, beside).picture
    lower = to_low_bytes(rawmode)
    swapped = lower or "RGBA"
    again.tile = [
        each._replace(args=(swapped, *each.args[1:]) if isinstance(each.args, tuple) else swapped)
        for each in again.tile
    ]
    again.load()
    low: Image.Image = again
    if lower is None:  # of grey with alpha: its four bytes, as they stand
        _, grey, _, opacity = again.split()
        low = Image.merge("RGBA", (grey, grey, grey, opacity))
    alpha = None if colour is None else find_transparent(picture, low, colour)
    merged, n_bits = merge_bytes(picture, low)
    if alpha is not None:
        merged.putalpha(alpha)
    return merged, n_bits


def decode_plainly(stream: BinaryIO) -> Image.Image:
    """Decodes a file as Pillow does, in the mode that it has."""
    load_plugin(stream.read(HEAD_BYTES))
    stream.seek(0)
    picture = Image.open(stream, formats=list_formats())
    check_effort(picture, stream)
    picture.load()
    return picture


def _to_rgb(
    picture: Image.Image, opened: _Opened, uses_profiles: bool, notes: list[str]
) -> Image.Image:
    """Converts colours to sRGB, and puts what is transparent on white.

    Args:
        picture: loaded, of 8 bits a channel.
        opened: what the file says of its colours.
        uses_profiles: whether that is of interest.
        notes: takes why it could not be used.
    """
    is_see_through = picture.has_transparency_data
    if picture.mode == "La":
        picture = picture.convert("LA")
    try:
        profile = opened.picture.info.get("icc_profile") if uses_profiles else None
        if uses_profiles and opened.picture.format == "PNG":
            profile = find_png_profile(opened.beside)
        if profile:
            if is_see_through and picture.mode != "RGBA":
                picture = picture.convert("RGBA")
            elif picture.mode not in ("L", "RGB", "RGBA", "CMYK", "LAB"):
                picture = picture.convert("RGB")
            picture = to_srgb(picture, profile)
    except ProfileError as error:
        notes.append(f"is shown in its colours as they stand: {error}")
    if is_see_through:
        # White, since such pictures (drawings, logos, diagrams) are made for a light page. The
        # colour hidden under full transparency is most often black and would swallow lines.
        rgb = Image.new("RGB", picture.size, "white")
        n_rows = max(1, _STRIP_PIXELS // picture.width)
        for top in range(0, picture.height, n_rows):
            box = (0, top, picture.width, min(top + n_rows, picture.height))
            strip = picture.crop(box).convert("RGBA")
            rgb.paste(strip, box, strip)
        return rgb
    # In mode RGB these are the same pixels, without the file.
    rgb = picture._new(picture.im) if picture.mode == "RGB" else picture.convert("RGB")
    rgb.info = {}  # what it says of profiles and transparency is no longer so
    return rgb


def _find_extrema(picture: Image.Image) -> np.ndarray:
    """Returns the least and the greatest value of each channel, (C, 2)."""
    return np.array(picture.getextrema()).reshape(-1, 2)


def _find_frame(
    first: Image.Image, opened: _Opened, uses_profiles: bool, notes: list[str]
) -> Image.Image:
    """Returns the first frame of an animation that is not of one colour; the first without one."""
    lows, highs = _find_extrema(first).T
    if (lows < highs).any():
        return first
    first = first.copy()  # its pixels are the file's, and change
    with suppress(Exception):  # a damaged later frame costs nothing but itself
        for frame in range(1, count_frames(opened.picture, _MOST_FRAMES)):
            opened.picture.seek(frame)
            opened.picture.load()
            rgb = _to_rgb(opened.picture, opened, uses_profiles, [])
            lows, highs = _find_extrema(rgb).T
            if (lows < highs).any():
                notes.append(f"begins with an empty frame; frame {frame + 1} is shown")
                return rgb
    return first
