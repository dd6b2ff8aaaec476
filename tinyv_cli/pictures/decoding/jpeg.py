"""Files of JPEG and JPEG 2000 that Pillow reads wrongly or not become ones that it reads.

A JPEG whose last bytes alone are missing is whole to the eye; libjpeg wants its end mark. JPEG 2000
of more than 8 bits is rounded by Pillow without a limit: white becomes black.
"""

import re
import struct
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd8\x01]", re.DOTALL)
_FRAMES, _PROGRESSIVE, _SCAN, _TABLES = (0xC0, 0xC1, 0xC2), 0xC2, 0xDA, 0xC4
_MAX_MISSING_BYTES = 4  # before the end mark, which has 2
_NOISE = b"\x5a\xa5\x3c\xc3" * 8  # stands for missing bytes, to see where they would have shown
_PROGRESSIVE_SHARE = 0.15  # of a picture that the last pass may leave as it was

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
    headers, end = _read_headers(data)
    frame = next((body for marker, body in headers if marker in _FRAMES), b"")
    if len(frame) < 9 or len(frame) != 6 + 3 * frame[5]:
        return None
    depths = _list_open_depths(headers, frame)
    if depths and not (depths == [1] and end < len(data)):  # the last bit of one component
        return None
    data = data[:end]
    try:
        picture = decode(BytesIO(data + _END))
        other = decode(BytesIO(data + _NOISE + _END))
    except OSError:
        return None
    samples = [(each >> 4, each & 15) for each in frame[7::3]] if frame[5] > 1 else [(1, 1)]
    side_x, side_y = 8 * max(x for x, _ in samples), 8 * max(y for _, y in samples)
    if not side_x or not side_y:
        return None
    n_across, n_down = -(-picture.width // side_x), -(-picture.height // side_y)
    is_progressive = any(marker == _PROGRESSIVE for marker, _ in headers)
    n_missing = _count_missing(picture, other, (side_x, side_y), counts_flat=not is_progressive)
    if is_progressive:
        # A run of blocks without a change is one code: 4 bytes may hold much of a short pass.
        n_there = len(data) - data.rfind(b"\xff\xda") - 10
        share = max(_PROGRESSIVE_SHARE, 32 / (32 + max(0, n_there)))
        most = max(int(share * n_across * n_down), n_across)
    else:
        n_blocks = sum(x * y for x, y in samples)
        most = 1 + 8 * _MAX_MISSING_BYTES // (n_blocks * _count_least_bits(headers))
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


def _read_headers(content: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Reads a JPEG's markers with what belongs to them; returns also where the last whole one ends.

    What follows there is data, unless a further marker was cut: then it is where that one begins.
    """
    headers, at = [], 2
    while found := _MARKER.search(content, at):
        body = found.end() + 2
        at = found.end() + int.from_bytes(content[found.end() : body], "big")
        if at > len(content) or body > at:
            return headers, found.start()
        headers.append((content[found.end() - 1], content[body:at]))
    return headers, len(content)


def _list_open_depths(headers: list[tuple[int, bytes]], frame: bytes) -> list[int]:
    """Lists the bits that lack a pass, for each component that lacks one."""
    missing = {component: [99] * 64 for component in frame[6::3]}
    for marker, body in headers:
        if marker == _SCAN and body and len(body) == 4 + 2 * body[0]:
            first, last, bits = body[-3:]
            for component in body[1:-3:2]:
                if component in missing:
                    missing[component][first : last + 1] = [bits & 15] * (last + 1 - first)
    return [max(bits) for bits in missing.values() if any(bits)]


def _count_least_bits(headers: list[tuple[int, bytes]]) -> int:
    """Counts the bits of the shortest block: its mean as before, and nothing else."""
    least = {0: 16, 1: 16}  # by class of table: means, the rest
    for marker, body in headers:
        at = 0
        while marker == _TABLES and at + 17 <= len(body):
            kind, counts = body[at] >> 4, body[at + 1 : at + 17]
            lengths = [length for length, n in enumerate(counts, 1) for _ in range(n)]
            symbols = body[at + 17 : at + 17 + len(lengths)]
            for length, symbol in zip(lengths, symbols, strict=False):
                if symbol == 0 and kind in least:
                    least[kind] = min(least[kind], length)
            at += 17 + len(lengths)
    return sum(least.values())


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
