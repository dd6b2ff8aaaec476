"""A picture whose head is read is refused where memory lacks, or a small file would keep it busy.

Most decoders take a few nanoseconds a pixel, and end where the file ends. Those of Pillow's that
are written in Python take a hundred times as long, and some fill in what is missing; a JPEG may go
over all its pixels as often as it likes. Figures: `DESIGN.md`.
"""

import os
from typing import BinaryIO

from PIL import Image, ImageFile

from tinyv_cli.machine.memory import read_main_memory
from tinyv_cli.pictures.decoding.formats import NotReadError

_SLOW_PIXELS = 1 << 24  # by Python, which takes some 0.3 µs for one; more where the file is larger
_SCANNED_PIXELS = 1 << 33  # scans times pixels; writers make 14 scans at the most
_FRAME_PIXELS = 1 << 27  # of all frames that are looked through
PEAK_BYTES = 8  # a pixel: with transparency as it is stored, and as RGB, which Pillow pads to 4
_ASKED_FROM_BYTES = 4 << 20  # asking what is free takes 0.5 ms, a small picture 1 ms
_SCAN = b"\xff\xda"
_WITH_SCANS = frozenset({"BLP", "JPEG", "MPO"})  # libtiff counts those in a TIFF itself


def check_effort(picture: ImageFile.ImageFile, stream: BinaryIO) -> None:
    """Checks that decoding takes time in proportion to the file.

    Args:
        picture: opened, not loaded.
        stream: of the file; its place stays.

    Raises:
        NotReadError: it would not.
    """
    n_pixels = picture.width * picture.height
    is_slow = any(tile.codec_name in Image.DECODERS for tile in picture.tile)
    has_scans = picture.format in _WITH_SCANS
    if not (is_slow or has_scans):
        return
    place = stream.tell()
    if is_slow and n_pixels > max(_SLOW_PIXELS, stream.seek(0, os.SEEK_END)):
        raise NotReadError(f"has {n_pixels} pixels, packed in a way that is read slowly")
    stream.seek(0)
    n_scans = stream.read().count(_SCAN) if has_scans else 0  # in pixels, 0 follows each 255
    if n_scans * n_pixels > _SCANNED_PIXELS:
        raise NotReadError(f"goes over its {n_pixels} pixels {n_scans} times")
    stream.seek(place)


def check_memory(width: int, height: int) -> None:
    """Checks that so many pixels fit into what is free.

    Raises:
        MemoryError: they do not.
    """
    needed_bytes = width * height * PEAK_BYTES
    if needed_bytes < _ASKED_FROM_BYTES:
        return
    if needed_bytes > read_main_memory().available_bytes:
        raise MemoryError


def count_frames(picture: ImageFile.ImageFile, most: int) -> int:
    """Counts the frames of an animation that may be looked through, `most` where it is small."""
    return min(most, 1 + _FRAME_PIXELS // (picture.width * picture.height))
