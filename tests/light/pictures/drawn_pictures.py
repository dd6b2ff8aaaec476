"""Files that tests write byte by byte, of a drawing whose colours are known."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

WIDTH, HEIGHT = 64, 32
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip


def draw_colours():
    """(H, W, 3) uint8: ramps of red, green and blue, with white, black and colours in corners."""
    x, y = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    drawn = np.stack([x, y, 255 - x], axis=-1).round().astype(np.uint8)
    for at, colour in enumerate([(255, 255, 255), (0, 0, 0), (200, 30, 60), (20, 180, 90)]):
        drawn[4:14, 2 + 12 * at : 10 + 12 * at] = colour
    return drawn


def draw_grey():
    """(H, W) uint8: all levels, with white and black."""
    grey = np.linspace(0, 255, WIDTH * HEIGHT).round().astype(np.uint8).reshape(HEIGHT, WIDTH)
    grey[2:10, 4:14], grey[2:10, 20:30] = 255, 0
    return grey


def draw_alpha(kind):
    """(H, W) uint8 of a kind: opaque, half, ramp or none."""
    alpha = np.full((HEIGHT, WIDTH), {"opaque": 255, "half": 128, "none": 0}.get(kind, 0), np.uint8)
    if kind == "ramp":
        alpha[:] = np.linspace(0, 255, WIDTH).round()
    return alpha


def put_on_white(colours, alpha):
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def to_file_bytes(picture, format_, **options):
    stream = BytesIO()
    picture.save(stream, format_, **options)
    return stream.getvalue()


# Colours

D65 = (0.3127, 0.329)
PRIMARIES = {
    "sRGB": (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06),
    "P3": (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    "Adobe": (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06),
    "2020": (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
}
SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def power(exponent):
    return (exponent, 1, 0, 0, 0)


def to_matrix(name):
    """RGB to XYZ."""
    white, *corners = np.array(PRIMARIES[name]).reshape(4, 2)
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (white, *corners)]).T
    return xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0])


def show(levels, primaries, curve):
    """What levels (H, W, 3) in such colours look like in sRGB, by the formulas of both."""
    values = levels / 255
    exponent, a, b, c, d = curve
    light = np.where(values >= d, np.maximum(a * values + b, 0) ** exponent, c * values)
    light = light @ np.linalg.solve(to_matrix("sRGB"), to_matrix(primaries)).T
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


WHITE = struct.pack(">3i", 63190, 65536, 54061)  # D50


def make_profile_of(space, kind, connection, tags):
    """The bytes of a profile of other spaces than RGB, from its tags."""
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">II4s4s4s4s", at + len(body), 0, b"\2\x40\0\0", kind, space, connection)
    return (head.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + WHITE + bytes(48) + table + body


def make_grey_profile():
    """Light as it is, without a curve."""
    line = b"curv" + bytes(4) + struct.pack(">IH", 1, 256)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + WHITE, b"kTRC": line}
    return make_profile_of(b"GRAY", b"mntr", b"XYZ ", tags)


def make_ink_profile():
    """Inks whose colours are those of red, green and blue turned round: cyan prints red."""
    inks = np.array(list(np.ndindex(2, 2, 2, 2)))
    colours = (inks[:, :3] * (1 - inks[:, 3:]) * 255).astype(np.uint8)
    colours[~inks.any(axis=1)] = 255
    lab = ImageCms.profileToProfile(
        Image.fromarray(colours[None]),
        *map(ImageCms.createProfile, ("sRGB", "LAB")),
        outputMode="LAB",
    )
    corners = (np.frombuffer(lab.tobytes(), np.uint8).reshape(-1, 3) ^ (0, 128, 128)).astype(
        np.uint8
    )
    line, matrix = bytes(range(256)), struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    table = b"mft1" + bytes(4) + b"\4\3\2\0" + matrix + 4 * line + corners.tobytes() + 3 * line
    tags = {b"wtpt": b"XYZ \0\0\0\0" + WHITE, b"A2B0": table}
    return make_profile_of(b"CMYK", b"prtr", b"Lab ", tags)


# PNG


def make_chunk(kind, content, crc=None):
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def pack_rows(values, depth, swap=True):
    """Rows of whole bytes from (H, W, C) values of a depth."""
    flat = values.reshape(len(values), -1)
    if depth == 16:
        return [row.astype(">u2" if swap else "<u2").tobytes() for row in flat]
    if depth == 8:
        return [row.astype(np.uint8).tobytes() for row in flat]
    bits = ((flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(len(flat), -1)
    return [row.tobytes() for row in np.packbits(bits.astype(np.uint8), axis=1)]


def make_png(values, depth, colour, *, before=(), after=(), interlaced=False):
    """A PNG of (H, W, C) values; chunks before and after its data."""
    height, width = values.shape[:2]
    if interlaced:
        parts = [values[y::down, x::across] for x, y, across, down in PASSES]
    else:
        parts = [values]
    rows = [row for part in parts if part.size for row in pack_rows(part, depth)]
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    middle = len(data) // 2
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            make_chunk(b"IHDR", header),
            *before,
            make_chunk(b"IDAT", data[:middle]),
            make_chunk(b"IDAT", data[middle:]),
            *after,
            make_chunk(b"IEND", b""),
        )
    )


# TIFF


def make_tiff(planes, *, order="<", **tags):
    """An uncompressed TIFF of one strip a plane.

    Args:
        planes: the bytes of each plane.
        order: < or >.
        tags: `t256=(3, [48])`: numbers with their types (2 text, 3 short, 4 long).
    """
    page = make_page(planes, 8, order=order, **tags)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + page


def make_page(planes, at, *, order="<", following=0, **tags):
    """A directory that stands at a place, and what it points to."""
    fields = {int(name[1:]): value for name, value in tags.items()}
    fields[273] = (4, [0] * len(planes))
    fields[279] = (4, [len(plane) for plane in planes])
    fields.setdefault(278, (4, [fields[257][1][0]]))
    sizes = {2: 1, 3: 2, 4: 4}
    letters = {3: "H", 4: "I"}
    data_at = at + 2 + 12 * len(fields) + 4
    extra = b""
    room = {}
    for tag, (kind, content) in fields.items():
        n_bytes = len(content) * sizes[kind]
        if n_bytes > 4:
            room[tag] = data_at + len(extra)
            extra += bytes(n_bytes + n_bytes % 2)
    starts = [data_at + len(extra) + sum(map(len, planes[:i])) for i in range(len(planes))]
    fields[273] = (4, starts)
    directory, extra = struct.pack(f"{order}H", len(fields)), bytearray(extra)
    for tag, (kind, content) in sorted(fields.items()):
        raw = (
            content if kind == 2 else struct.pack(f"{order}{len(content)}{letters[kind]}", *content)
        )
        directory += struct.pack(f"{order}HHI", tag, kind, len(content))
        if tag in room:
            begin = room[tag] - data_at
            extra[begin : begin + len(raw)] = raw
            directory += struct.pack(f"{order}I", room[tag])
        else:
            directory += raw.ljust(4, b"\0")
    return directory + struct.pack(f"{order}I", following) + bytes(extra) + b"".join(planes)


# BMP, TGA, ICO


def make_bmp(colours, alpha, header_bytes):
    """A BMP of 32 bits with a header of some length, alpha in its fourth byte."""
    rows = np.dstack([colours[..., ::-1], alpha])[::-1].astype(np.uint8).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack(
        "<IiiHHIIiiII", header_bytes, WIDTH, HEIGHT, 1, 32, 3, len(rows), 0, 0, 0, 0
    )
    header = (header + struct.pack("<4I", *masks)).ljust(header_bytes, b"\0")
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + rows


def make_tga(colours, alpha, attribute_bits):
    rows = np.dstack([colours[..., ::-1], alpha]).astype(np.uint8).tobytes()
    head = struct.pack(
        "<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 32, 0x20 | attribute_bits
    )
    return head + rows


def make_ico(colours, alpha):
    """An icon of 32 bits, as before there was PNG in icons, with an empty mask."""
    rows = np.dstack([colours[..., ::-1], alpha])[::-1].astype(np.uint8).tobytes()
    mask = bytes(-(-WIDTH // 32) * 4 * HEIGHT)
    body = struct.pack("<IiiHHIIiiII", 40, WIDTH, 2 * HEIGHT, 1, 32, 0, 0, 0, 0, 0, 0) + rows + mask
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, WIDTH, HEIGHT, 0, 0, 1, 32, len(body), 22) + body


# JPEG 2000


def make_wide_jpeg2000(picture, depth):
    """JPEG 2000 of more than 8 bits a channel, of values of 8 bits in its upper ones.

    The steps of the lossy kind are relative to the range: with another depth in the head the same
    codes are values that many times as great.
    """
    content = bytearray(to_file_bytes(picture, "JPEG2000", irreversible=True, no_jp2=True))
    for channel in range(len(picture.getbands())):
        content[42 + 3 * channel] = depth - 1
    return bytes(content)


def make_thumbnail_first(whole):
    def page(colours, at, following, subfile):
        height, width = colours.shape[:2]
        return make_page(
            [colours.tobytes()], at, following=following, t254=(4, [subfile]), t256=(3, [width]),
            t257=(3, [height]), t258=(3, [8, 8, 8]), t259=(3, [1]), t262=(3, [2]), t277=(3, [3]),
        )  # fmt: skip

    small = np.zeros((4, 6, 3), np.uint8)
    first = page(small, 8, 8, 1)
    return (
        b"II*\0\x08\0\0\0" + page(small, 8, 8 + len(first), 1) + page(whole, 8 + len(first), 0, 0)
    )
