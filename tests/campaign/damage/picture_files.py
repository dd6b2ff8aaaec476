"""Sound pictures of every format that is read, by format, and ways to put one inside another.

Most are those whose colours the light tests know; those that Pillow reads and does not write are
made here.
"""

import gzip
import struct
import zlib
from functools import partial

import numpy as np
from PIL import Image

from tests.light.pictures.drawn_pictures import (
    HEIGHT,
    WIDTH,
    draw_colours,
    draw_grey,
    make_chunk,
    make_page,
    to_file_bytes,
)
from tests.light.pictures.test_damage import make_animation
from tests.light.pictures.test_every_format import list_cases
from tests.light.pictures.test_formats import make_icns, make_icon, make_iptc, make_spider_or_mic
from tinyv_cli.pictures.decoding.formats import list_formats

COLOURS, GREY = draw_colours(), draw_grey()


def list_seeds():
    """By format: sound files of it."""
    seeds = {}
    for name, (content, _) in list_cases().items():
        seeds.setdefault(name.partition("-")[0], []).append(content)
    for format_ in ("GIF", "PNG", "WEBP"):
        for colours in ((None, "red", "blue"), ("red", None, "blue"), (None,) * 8):
            seeds[format_].append(make_animation(format_, colours))
    if "AVIF" in list_formats():
        frames = [Image.new("RGB", (16, 12), each) for each in ("white", "red", "white")]
        seeds["AVIF"].append(
            to_file_bytes(frames[0], "AVIF", save_all=True, append_images=frames[1:])
        )
    seeds["ICNS"] = [to_file_bytes(Image.fromarray(COLOURS).resize((64, 64)), "ICNS")]
    for format_, contents in list_read_only():
        seeds.setdefault(format_, []).extend(contents)
    return {name: sorted(set(each), key=len)[:40] for name, each in sorted(seeds.items())}


def list_read_only():
    """Yields formats that Pillow reads and does not write, or writes in one way only."""
    rows, grey = COLOURS.tobytes(), GREY.tobytes()
    icon = to_file_bytes(Image.fromarray(COLOURS), "ICO", sizes=[(32, 32)], bitmap_format="bmp")
    yield "CUR", [icon[:2] + b"\2\0" + icon[4:10] + bytes(4) + icon[14:]]
    pcx = [to_file_bytes(Image.fromarray(each), "PCX") for each in (COLOURS, GREY)]
    starts = (4 + 4 * 1024, 4 + 4 * 1024 + len(pcx[0]))
    yield (
        "DCX",
        [struct.pack("<I3I", 987654321, *starts, 0).ljust(starts[0], b"\0") + b"".join(pcx)],
    )
    yield "FITS", [make_fits(), make_fits(16), make_fits(-32), make_packed_fits()]
    yield "FLI", [make_fli(), make_fli(0xAF11)]
    head = struct.pack("<4s7i", b"FTEX", 0, WIDTH, HEIGHT, 1, 1, 1, 32)
    yield "FTEX", [head + struct.pack("<i", len(rows)) + rows, make_blocks(head)]
    head = struct.pack(">5I4sI", 32, 2, WIDTH, HEIGHT, 1, b"GIMP", 10) + b"cat\0"
    yield "GBR", [head + grey, head[:16] + struct.pack(">I", 4) + head[20:] + 4 * grey]
    words = f"width {WIDTH}\nheight {HEIGHT}\n* a cat\npixel n8\n".encode().ljust(100, b" ")
    yield "IMT", [words + b"\n\x0c" + grey]
    numbers = [0] * 65
    numbers[2], numbers[9:15], numbers[34] = 4, (HEIGHT, WIDTH, 1, 0, 0, 1), 256
    yield "MCIDAS", [struct.pack("!64i", *numbers[1:]) + grey]
    yield "BMP", [make_packed_bmp(8), make_packed_bmp(4)]
    yield "PCD", [(bytes(2048) + b"PCD_OPA").ljust(96 * 2048, b"\0") + bytes(768 * 512 * 3 // 2)]
    head = b"\x80\xe8\0\0".ljust(416, b"\0") + struct.pack("<6H", HEIGHT, WIDTH, 0, 0, 14, 2)
    yield "PIXAR", [head.ljust(1024, b"\0") + rows]
    yield "PSD", [make_psd(0), make_psd(1)]
    for kind, depth, plane in ((1, 24, rows), (2, 8, bytes((0x80, 255, 7)) * 9), (1, 8, grey)):
        palette = bytes(range(256)) * 3 if depth == 8 else b""
        has_palette, n_bytes = int(bool(palette)), len(palette)
        head = struct.pack(
            ">8I", 0x59A66A95, WIDTH, HEIGHT, depth, len(plane), kind, has_palette, n_bytes
        )
        yield "SUN", [head + palette + plane, head[:24] + bytes(8) + plane]
    yield "XPM", [make_xpm(4), make_xpm(300)]
    yield "XVTHUMB", [b"P7 332\n#XVVERSION:2\n#END_OF_COMMENTS\n64 32 255\n" + grey]


def make_packed_bmp(depth, width=WIDTH, height=HEIGHT):
    """A BMP of runs, in at most 99 rows: a run, a jump to the right, plain pixels, the end."""
    palette = bytes(range(256))[: 4 << depth].ljust(4 << depth, b"\0")
    row = bytes((min(width // 2, 255), 0x5A, 0, 2, 4, 0, 0, 4, 1, 2, 3, 4, 0, 0))
    data = row * min(height, 99) + b"\0\1"
    start = 54 + len(palette)
    head = struct.pack("<IHHI", start + len(data), 0, 0, start)
    sizes = (40, width, height, 1, depth, 1 if depth == 8 else 2, len(data), 0, 0, 1 << depth, 0)
    return b"BM" + head + struct.pack("<IiiHHIIiiII", *sizes) + palette + data


def make_fits(depth=8, extra=()):
    cards = (
        ("SIMPLE", "T"),
        ("BITPIX", depth),
        ("NAXIS", 2),
        ("NAXIS1", WIDTH),
        ("NAXIS2", HEIGHT),
    )
    plane = GREY.astype({8: ">u1", 16: ">u2", -32: ">f4"}[depth]).tobytes()
    return to_cards((*cards, *extra)) + plane.ljust(-(-len(plane) // 2880) * 2880, b"\0")


def to_cards(cards):
    text = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in cards) + "END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


def make_packed_fits():
    """A picture in a compressed table, as telescopes' archives have it."""
    table = (
        *(("XTENSION", "'BINTABLE'"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 8), ("NAXIS2", 1)),
        *(("ZIMAGE", "T"), ("ZCMPTYPE", "'GZIP_1  '"), ("ZBITPIX", 8), ("ZNAXIS", 2)),
        *(("ZNAXIS1", WIDTH), ("ZNAXIS2", HEIGHT)),
    )
    packed = gzip.compress(GREY.astype(">u4").tobytes(), mtime=0)
    first = to_cards((("SIMPLE", "T"), ("BITPIX", 8), ("NAXIS", 0)))
    return first + to_cards(table) + (bytes(8) + packed).ljust(2880, b"\0")


def make_fli(kind=0xAF12):
    """Two frames: one of a palette and plain pixels, one empty."""
    palette = struct.pack("<IHHBB", 6 + 2 + 2 + 768, 4, 1, 0, 0) + bytes(range(256)) * 3
    pixels = struct.pack("<IH", 6 + len(GREY.tobytes()), 16) + GREY.tobytes()
    frame = struct.pack("<IHH8x", 16 + len(palette) + len(pixels), 0xF1FA, 2) + palette + pixels
    empty = struct.pack("<IHH8x", 16, 0xF1FA, 0)
    size = 128 + len(frame) + len(empty)
    head = struct.pack("<IHHHHHHI", size, kind, 2, WIDTH, HEIGHT, 8, 3, 70)
    return head.ljust(128, b"\0") + frame + empty


def make_blocks(head):
    """A texture in blocks of 4 by 4 pixels."""
    blocks = WIDTH * HEIGHT // 16 * struct.pack("<HHI", 0xF800, 0x1F, 0x1B1B1B1B)
    return head[:24] + struct.pack("<2i", 0, 32) + struct.pack("<i", len(blocks)) + blocks


def make_psd(compression):
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, HEIGHT, WIDTH, 8, 3)
    profile = b"no profile"
    resource = b"8BIM" + struct.pack(">H2sI", 1039, b"\0\0", len(profile)) + profile
    planes = np.ascontiguousarray(COLOURS.transpose(2, 0, 1)).reshape(-1, WIDTH)
    if compression:
        rows = [bytes([WIDTH - 1]) + row.tobytes() for row in planes]
        data = struct.pack(f">{len(rows)}H", *map(len, rows)) + b"".join(rows)
    else:
        data = planes.tobytes()
    sections = struct.pack(">II", 0, len(resource)) + resource + struct.pack(">I", 0)
    return head + sections + struct.pack(">H", compression) + data


def make_xpm(n_colours):
    names = [f"{i:02x}" for i in range(min(n_colours, 256))] + [f"x{i:x}"[-2:] for i in range(16)]
    names = list(dict.fromkeys(names))[:n_colours]
    table = "".join(f'"{name} c #{i * 999 % 2**24:06x}",\n' for i, name in enumerate(names))
    rows = "".join(
        f'"{"".join(names[(x + y) % len(names)] for x in range(9))}",\n' for y in range(7)
    )
    head = f'/* XPM */\nstatic char *cat[] = {{\n"9 7 {len(names)} 2",\n'
    return f"{head}{table}{rows}}};\n".encode()


# One inside another


def put_in_exif(content, content_of):
    """A JPEG or PNG whose metadata is the content."""
    if content_of == "JPEG":
        whole = to_file_bytes(Image.fromarray(COLOURS), "JPEG")
        body = (b"Exif\0\0" + content)[:65000]
        return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]
    whole = to_file_bytes(Image.fromarray(COLOURS), "PNG")
    return whole[:33] + make_chunk(b"eXIf", content) + whole[33:]


def put_in_tiff(content, compression):
    """A TIFF whose only strip is the content, packed as it says it is."""
    page = make_page(
        [content], 8, t256=(3, [WIDTH]), t257=(3, [HEIGHT]), t258=(3, [8, 8, 8]),
        t259=(3, [compression]), t262=(3, [6 if compression == 7 else 2]), t277=(3, [3]),
    )  # fmt: skip
    return b"II*\0\x08\0\0\0" + page


def put_in_riff(content, kind):
    """A WebP with the content as one of its chunks."""
    chunk = kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    size = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x3c\0\0\0" + size + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def put_in_texture(content):
    """A BLP whose pixels are the content, as JPEG."""
    head = struct.pack("<4sIIIIII", b"BLP1", 0, 0, WIDTH, HEIGHT, 5, 0)
    mipmaps = struct.pack("<32I", 160, *[0] * 15, len(content), *[0] * 15)
    return head + mipmaps + struct.pack("<I", 0) + content


def put_in_pages(content):
    """A DCX whose only page is the content."""
    return struct.pack("<III", 987654321, 12, 0) + content


def put_in_icns(content, kind):
    return make_icns(content).replace(b"ic07", kind, 1)


NESTS = (
    *(make_icon, make_spider_or_mic, put_in_texture, put_in_pages),
    lambda content: make_iptc(content[:65_000]),
    lambda content: make_icon(content).replace(b"\0\0\1\0", b"\0\0\2\0", 1),
    *(partial(put_in_icns, kind=each) for each in (b"ic07", b"ic10", b"icp4", b"it32", b"jp2 ")),
    *(partial(put_in_exif, content_of=each) for each in ("JPEG", "PNG")),
    *(partial(put_in_tiff, compression=each) for each in (1, 5, 7, 8, 32773, 50000)),
    *(partial(put_in_riff, kind=each) for each in (b"EXIF", b"ICCP", b"VP8 ", b"VP8L", b"ANMF")),
    lambda content: content + content,
    lambda content: b"\xff\xd8\xff\xe2\x00\x10MPF\0" + content,
)


# PNG, with checksums that are right


def damage_png(content, chance, damage):
    """Damages a chunk, or the order of chunks; every checksum is right again.

    Args:
        content: a sound PNG.
        chance: dice.
        damage: takes bytes, and returns damaged ones.
    """
    chunks, place = [], 8
    while place + 8 <= len(content):
        (n_bytes,) = struct.unpack_from(">I", content, place)
        chunks.append([content[place + 4 : place + 8], content[place + 8 : place + 8 + n_bytes]])
        place += 12 + n_bytes
    at = chance.randrange(len(chunks))
    kind, body = chunks[at]
    way = chance.randrange(6)
    if way == 0:
        chunks.insert(chance.randrange(len(chunks)), [kind, body])
    elif way == 1:
        chunks.pop(at)
    elif way == 2:
        chunks[at][0] = chance.choice(
            (b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"gAMA", b"cHRM", b"acTL", b"fcTL", b"fdAT",
             b"cICP", b"eXIf", b"zTXt", b"iTXt", b"sBIT", b"IHDR", b"IEND")
        )  # fmt: skip
    elif kind == b"IDAT" and way == 3:
        try:
            chunks[at][1] = zlib.compress(damage(zlib.decompress(body)))
        except zlib.error:
            chunks[at][1] = damage(body)
    else:
        chunks[at][1] = damage(body)
    return content[:8] + b"".join(make_chunk(*each) for each in chunks)
