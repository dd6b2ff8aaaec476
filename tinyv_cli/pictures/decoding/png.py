"""A PNG file becomes one that Pillow reads: its pixels whole, what is broken beside them left out.

Pillow looks at no checksum of the pixels, shows missing rows as black, and refuses the whole
picture for one wrong byte in a text. Here it is the other way round, as in libpng and browsers.

Source: Portable Network Graphics (third edition), W3C, sections 5, 10, 11 and 13.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MAX_TEXT_BYTES = 1 << 20  # of a text when it is unpacked; Pillow refuses the picture for more
_PIECE_BYTES = 1 << 16

# The least length of chunks that Pillow asks one of.
_LEAST = {
    b"PLTE": 3, b"tRNS": 1, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"pHYs": 9,
    b"acTL": 8, b"fcTL": 26, b"fdAT": 5,
}  # fmt: skip
_FRAMES = frozenset({b"acTL", b"fcTL", b"fdAT"})  # the further frames of an animation
_N_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by type of colour
_PASSES = (  # the seven of an interlaced picture: first column and row, steps of both
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip


class CheckedPng(NamedTuple):
    """A PNG whose pixels are whole.

    Attributes:
        stream: the file itself, or a copy without what is broken or too long beside the pixels.
        beside: the content of the first chunk of each kind that says how the pixels are meant.
    """

    stream: BinaryIO
    beside: dict[bytes, bytes]


class _Chunk(NamedTuple):
    kind: bytes
    start: int  # where its length stands
    length: int  # of its content

    @property
    def end(self) -> int:
        return self.start + 12 + self.length


def check_png(stream: BinaryIO, max_pixels: int) -> CheckedPng:
    """Checks the pixels of a PNG, and leaves out what is broken or too long beside them.

    The pixels must be a whole zlib stream with a right checksum, in chunks with right checksums,
    that holds every row which the header promises; of an animation, those of the default picture.

    Args:
        stream: of a PNG, from its beginning; its position is changed.
        max_pixels: a picture of more is not looked at, since it will be refused.

    Raises:
        ValueError: the pixels are damaged, or not all there.
    """
    chunks = list(_list_chunks(stream))
    header = _read(stream, chunks[0]) if chunks and chunks[0].kind == b"IHDR" else None
    if header is None or len(header) < 13:
        raise ValueError("its header is broken")
    width, height, depth, colour, _, _, is_interlaced = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * _N_SAMPLES.get(colour, 0)
    if width * height > max_pixels or not bits:
        return CheckedPng(stream, {})
    first = next((at for at, each in enumerate(chunks) if each.kind == b"IDAT"), len(chunks))
    after = next((at for at in range(first, len(chunks)) if chunks[at].kind != b"IDAT"), None)
    data = chunks[first:after]
    if is_interlaced:
        sizes = [
            (-((x - width) // across), -((y - height) // down)) for x, y, across, down in _PASSES
        ]
    else:
        sizes = [(width, height)]
    n_bytes = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0)
    _check_pixels(stream, data, n_bytes)
    beside: dict[bytes, bytes] = {b"IHDR": header}
    kept, left_out = [chunks[0]], list[_Chunk]()
    for chunk in chunks[1:]:
        if chunk.kind == b"IDAT":
            (kept if chunk in data else left_out).append(chunk)
            continue
        content = _read(stream, chunk)
        if content is None and chunk.kind == b"PLTE" and colour == 3:
            raise ValueError("its palette is broken")
        if content is not None and _is_harmless(chunk.kind, content):
            kept.append(chunk)
            beside.setdefault(chunk.kind, content)
        else:
            left_out.append(chunk)
    if any(each.kind in _FRAMES for each in left_out):  # a sequence with a gap is refused by Pillow
        kept = [each for each in kept if each.kind not in _FRAMES]
    # A profile is used from here: Pillow refuses the picture for one that unpacks to too much.
    kept = [each for each in kept if each.kind != b"iCCP"]
    if len(kept) == len(chunks):
        return CheckedPng(stream, beside)
    copy = BytesIO(SIGNATURE)
    copy.seek(0, 2)
    for chunk in kept:
        stream.seek(chunk.start)
        copy.write(stream.read(12 + chunk.length))
    copy.write(b"\0\0\0\0IEND" + _sum(b"IEND", b""))
    copy.seek(0)
    return CheckedPng(copy, beside)


def unpack(packed: bytes, max_bytes: int) -> bytes | None:
    """Unpacks a zlib stream; None where it is broken, cut, or longer than `max_bytes`."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, max_bytes)
    except zlib.error:
        return None
    return content if unpacker.eof else None


def _list_chunks(stream: BinaryIO) -> Iterator[_Chunk]:
    """Yields the chunks as far as they make sense and lie within the file."""
    end = stream.seek(0, 2)
    at = len(SIGNATURE)
    while at + 12 <= end:
        stream.seek(at)
        length, kind = struct.unpack(">I4s", stream.read(8))
        chunk = _Chunk(kind, at, length)
        # The last chunk of pixels may be cut at its checksum: its stream says whether it is whole.
        if not (kind.isalpha() and (chunk.end <= end or kind == b"IDAT")):
            return
        yield chunk
        at = chunk.end
        if kind == b"IEND":
            return


def _read(stream: BinaryIO, chunk: _Chunk) -> bytes | None:
    """Reads a chunk's content; None where its checksum is wrong."""
    stream.seek(chunk.start + 8)
    content = stream.read(chunk.length)
    return content if stream.read(4) == _sum(chunk.kind, content) else None


def _sum(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk's checksum as it stands in the file."""
    return zlib.crc32(content, zlib.crc32(kind)).to_bytes(4, "big")


def _check_pixels(stream: BinaryIO, data: Iterable[_Chunk], n_bytes: int) -> None:
    """Unpacks the pixels, keeping none, and checks that there are as many bytes as promised."""
    unpacker = zlib.decompressobj()
    n_there = 0
    try:
        for chunk in data:
            stream.seek(chunk.start + 8)
            left, crc = chunk.length, zlib.crc32(chunk.kind)
            while piece := stream.read(min(left, _PIECE_BYTES)):
                left -= len(piece)
                crc = zlib.crc32(piece, crc)
                while piece and not unpacker.eof and n_there <= n_bytes + _MAX_TEXT_BYTES:
                    n_there += len(unpacker.decompress(piece, _MAX_TEXT_BYTES))
                    piece = unpacker.unconsumed_tail
            if not left and stream.read(4) != crc.to_bytes(4, "big"):
                raise ValueError("the checksum of its pixels is wrong")
    except zlib.error as error:
        raise ValueError("its pixels cannot be unpacked") from error
    # What is too much is passed over, as everywhere; so much of it is not even counted.
    if n_there < n_bytes or not (unpacker.eof or n_there > n_bytes + _MAX_TEXT_BYTES):
        raise ValueError(f"{n_there} of {n_bytes} bytes of its pixels are there")


def _is_harmless(kind: bytes, content: bytes) -> bool:
    """Returns whether Pillow takes a chunk: long enough, and as a text, short enough."""
    packed = None
    if kind == b"zTXt":
        packed = content.partition(b"\0")[2][1:]
    elif kind == b"iTXt":
        rest = content.partition(b"\0")[2]
        packed = rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" else None
    if packed is not None:
        return unpack(packed, _MAX_TEXT_BYTES) is not None
    is_text = kind in (b"tEXt", b"iTXt")
    return len(content) >= _LEAST.get(kind, 0) and not (is_text and len(content) > _MAX_TEXT_BYTES)
