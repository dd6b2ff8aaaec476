"""Files of JPEG and JPEG 2000 that Pillow reads wrongly or not become ones that it reads.

A JPEG whose last bytes alone are missing is whole to the eye; libjpeg wants its end mark. JPEG 2000
of more than 8 bits is rounded by Pillow without a limit: white becomes black.
"""

import re
import struct
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd8\x01]", re.DOTALL)
_FRAMES, _PROGRESSIVE, _SCAN, _TABLES = (0xC0, 0xC1, 0xC2), 0xC2, 0xDA, 0xC4
_MAX_MISSING_BYTES = 4  # before the end mark, which has 2
_NOISE = b"\x5a\xa5\x3c\xc3" * 8  # stands for missing bytes, to see where they would have shown
_PROGRESSIVE_SHARE = 0.25  # of a picture that the last pass may leave a bit less exact


class _Head(NamedTuple):
    """What a JPEG says of its codes.

    Attributes:
        samples: blocks across and down in a unit, of each component; empty where there is no head.
        is_progressive: whether it is built in passes.
        open_depths: the bits that lack a pass, of each component that lacks one.
        least_bits: of the shortest block.
        end: where the last marker that is whole ends its data.
    """

    samples: list[tuple[int, int]]
    is_progressive: bool
    open_depths: list[int]
    least_bits: int
    end: int


Decode = Callable[[BytesIO], Image.Image]


def complete_jpeg(content: bytes, decode: Decode) -> Image.Image | None:
    """Decodes a JPEG that lacks its end mark, with or without up to 4 bytes before it.

    What the missing bytes would have shown is found by putting others in their place. Where the
    picture is built row by row, so much of it may be missing as fits into 4 bytes of its own codes.
    Where it is built in passes, all of them must be there, and the last one must come near the end.

    Args:
        content: the whole file.
        decode: turns a whole JPEG into loaded pixels.

    Returns:
        The picture; None where more is missing, or something else is wrong.

    Source: ITU-T T.81, annexes B, F and G.
    """
    data = content.removesuffix(b"\xff")
    head = _read_head(data)
    if not head.samples:
        return None
    # The last pass may be as short as what is missing, so that its own head is cut.
    if head.open_depths and not (head.open_depths == [1] and head.end < len(data)):
        return None
    data = data[: head.end]
    try:
        picture = decode(BytesIO(data + _END))
        other = decode(BytesIO(data + _NOISE + _END))
    except OSError:
        return None
    side = (8 * max(x for x, _ in head.samples), 8 * max(y for _, y in head.samples))
    n_all = -(-picture.width // side[0]) * -(-picture.height // side[1])
    n_missing = _count_missing(picture, other, side, counts_flat=not head.is_progressive)
    if head.is_progressive:
        # A run of blocks without a change is one code: 4 bytes may hold much of a short pass.
        n_there = len(data) - data.rfind(b"\xff\xda") - 10
        share = max(_PROGRESSIVE_SHARE, 32 / (32 + max(0, n_there)))
        most = max(int(share * n_all), -(-picture.width // side[0]))
    else:
        n_blocks = sum(x * y for x, y in head.samples)
        most = 1 + 8 * _MAX_MISSING_BYTES // (n_blocks * head.least_bits)
    return picture if n_missing <= most else None


def read_wide_jpeg2000(content: bytes, picture: Image.Image, decode: Decode) -> Image.Image:
    """Puts white where Pillow wrapped it to black, in JPEG 2000 of more than 8 bits a channel.

    The same codes are decoded once more as if they had one bit more: all values then lie in the
    middle half of the range, and nothing wraps. Where that is bright and the picture 0, it is 255.

    Args:
        content: the whole file.
        picture: what Pillow made of it, of several channels of 8 bits.
        decode: turns such a file into loaded pixels.

    Raises:
        ValueError: the codes cannot be decoded so.

    Source: ITU-T T.800, annex A.5.1 (SIZ), A.6.4 and A.6.5 (QCD, QCC), annex E and G.
    """
    start = content.find(b"\xff\x4f\xff\x51")
    n_channels = int.from_bytes(content[start + 40 : start + 42], "big") if start >= 0 else 0
    depths = content[start + 42 : start + 42 + 3 * n_channels : 3]
    if all((depth & 0x7F) < 8 for depth in depths):
        return picture
    changed = bytearray(content)
    for at in range(start + 42, start + 42 + 3 * n_channels, 3):
        changed[at] += 1
    at = start + 2
    while content[at : at + 2] not in (b"\xff\x90", b""):  # up to the first tile
        marker, length = struct.unpack(">HH", content[at : at + 4])
        styles_at = at + 4 if marker == 0xFF5C else at + 4 + (1 if n_channels < 257 else 2)
        if marker in (0xFF5C, 0xFF5D):
            # Steps of the quantiser are relative to the range: one twice as wide needs half of
            # them, a greater exponent, and one guard bit less for the same number of planes.
            style = content[styles_at]
            if style & 0x1F:
                if style < 0x20:
                    raise ValueError("it has no guard bits")
                changed[styles_at] -= 0x20
                for each in range(styles_at + 1, at + 2 + length, 2):
                    changed[each] += 0x08
        at += 2 + length
    bright = decode(BytesIO(bytes(changed)))
    if bright.mode != picture.mode or bright.size != picture.size:
        raise ValueError("it has more than 8 bits in a way that is not known")
    is_dark = picture.point(([255] + [0] * 255) * len(picture.getbands()))
    is_bright = bright.point(([0] * 128 + [255] * 128) * len(picture.getbands()))
    return ImageChops.add(picture, ImageChops.multiply(is_dark, is_bright))


def _read_head(content: bytes) -> _Head:
    """Reads a JPEG's markers, up to the end or to one that was cut."""
    samples, is_progressive, at, end = list[tuple[int, int]](), False, 2, len(content)
    depths: dict[int, list[int]] = {}
    least_bits = {0: 16, 1: 16}  # by class of table: means, the rest
    while found := _MARKER.search(content, at):
        start, at = found.end() + 2, found.end() + int.from_bytes(content[found.end() :][:2], "big")
        if at > len(content) or start > at:
            end = found.start()
            break
        marker, body = content[found.end() - 1], content[start:at]
        if marker in _FRAMES and len(body) > 5 and len(body) == 6 + 3 * body[5]:
            is_progressive = marker == _PROGRESSIVE
            samples = [(each >> 4, each & 15) for each in body[7::3]] if body[5] > 1 else [(1, 1)]
            depths = {component: [99] * 64 for component in body[6::3]}
        elif marker == _SCAN and body and len(body) == 4 + 2 * body[0]:
            first, last, bits = body[-3:]
            for component in depths.keys() & set(body[1:-3:2]):
                depths[component][first : last + 1] = [bits & 15] * (last + 1 - first)
        while marker == _TABLES and len(body) >= 17:
            lengths = [length for length, n in enumerate(body[1:17], 1) for _ in range(n)]
            symbols, kind = body[17 : 17 + len(lengths)], body[0] >> 4
            # The shortest block is 0 in both: its mean as before, and nothing else.
            if 0 in symbols and kind in least_bits:
                least_bits[kind] = min(least_bits[kind], lengths[symbols.index(0)])
            body = body[17 + len(lengths) :]
    if any(not (x and y) for x, y in samples):
        samples = []
    open_depths = [max(each) for each in depths.values() if any(each)]
    return _Head(samples, is_progressive, open_depths, sum(least_bits.values()), end)


def _count_missing(
    one: Image.Image, other: Image.Image, side: tuple[int, int], *, counts_flat: bool
) -> int:
    """Counts the blocks from the first in which two pictures differ to the end.

    The rim of a block does not count: colours of half the size are smoothed over it.

    Args:
        one: what is shown.
        other: of the same size and mode.
        side: of a block, in pixels.
        counts_flat: whether blocks of one colour count; a pass has nothing to say about them.
    """
    n_missing, is_found = 0, False
    n_across, n_down = -(-one.width // side[0]), -(-one.height // side[1])
    for row in range(n_down):
        box = (0, row * side[1], n_across * side[0], (row + 1) * side[1])
        mine, theirs = (
            np.asarray(each.crop(box)).reshape(side[1], n_across, side[0], -1)[1:-1, :, 1:-1]
            for each in (one, other)
        )
        differs = (mine != theirs).any(axis=(0, 2, 3))
        first = 0 if is_found else int(differs.argmax())
        is_found = is_found or bool(differs.any())
        if is_found:
            counted = np.ptp(mine, axis=(0, 2)).max(axis=-1) > 2
            n_missing += int((counted | counts_flat)[first:].sum())
    return n_missing
