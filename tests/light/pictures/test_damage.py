"""Damaged pixels are refused; what is broken or missing beside them costs nothing.

Source: a fuzzing round (9.6 % of flipped bits in a PNG's data were answered from garbage), and
reports of PNGs refused for a wrong checksum or a long text beside the pixels, and of JPEGs without
their end mark.
"""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.light.pictures.drawn_pictures import (
    HEIGHT,
    draw_colours,
    draw_grey,
    make_chunk,
    make_png,
    to_file_bytes,
)
from tinyv_cli.errors import InputError
from tinyv_cli.pictures.image import Reading, read_picture

COLOURS, GREY = draw_colours(), draw_grey()
PROFILE = b"profile\0\0" + zlib.compress(bytes(2 << 20))

# Every kind of chunk beside the pixels, with a content that is right.
BESIDE = {
    b"pHYs": bytes(8) + b"\1", b"tIME": bytes(7), b"gAMA": (45455).to_bytes(4, "big"),
    b"sRGB": b"\0", b"cHRM": bytes(32), b"iCCP": b"name\0\0" + zlib.compress(b"x"),
    b"sBIT": b"\x08\x08\x08", b"bKGD": bytes(6), b"tEXt": b"Title\0cat", b"zTXt": b"Title\0\0xx",
    b"iTXt": b"Title\0\0\0\0\0cat", b"eXIf": b"MM\0*\0\0\0\x08\0\0\0\0", b"tRNS": bytes(6),
    b"acTL": struct.pack(">II", 1, 0), b"prVt": b"of nobody",
}  # fmt: skip


def refuses(content, words):
    with pytest.raises(InputError, match=words) as caught:
        read_picture(content)
    assert caught.value.hint


def shows(content, colours=COLOURS):
    return np.array_equal(np.asarray(read_picture(content)), colours)


def make(before=(), after=(), **options):
    return make_png(COLOURS, 8, 2, before=before, after=after, **options)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 4, 8, 16])
def test_a_flipped_bit_in_a_pngs_data_is_refused_wherever_it_is(depth, interlaced):
    values = GREY.astype(np.uint32)[..., None] * (2**depth - 1) // 255
    content = make_png(values, depth, 0, interlaced=interlaced)
    start, end = content.index(b"IDAT") + 4, content.rindex(b"IEND") - 8
    rights_itself = {content.rindex(b"IDAT") - 8 + at for at in range(12)}  # a chunk's own head
    random = np.random.default_rng(depth)
    for at in random.choice(np.arange(start, end), 40):
        if at in rights_itself:
            continue
        broken = bytearray(content)
        broken[at] ^= 1 << random.integers(8)
        refuses(bytes(broken), "damaged")


def set_size(content, width, height):
    head = struct.pack(">II", width, height) + content[24:29]
    return content[:8] + make_chunk(b"IHDR", head) + content[33:]


@pytest.mark.parametrize("interlaced", [False, True])
def test_rows_that_the_header_promises_must_be_there(interlaced):
    content = make(interlaced=interlaced)
    width = COLOURS.shape[1]
    assert shows(content)
    for height in (HEIGHT + 1, HEIGHT + 8, 10 * HEIGHT):
        refuses(set_size(content, width, height), "bytes of its pixels are there")


def test_a_stream_that_is_cut_or_has_a_wrong_checksum_of_its_own_is_refused():
    for change in (lambda data: data[:-1] + b"?", lambda data: data[:-6]):
        rows = b"".join(b"\0" + row.tobytes() for row in COLOURS)
        data = change(zlib.compress(rows))
        head = struct.pack(">IIBBBBB", COLOURS.shape[1], HEIGHT, 8, 2, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", head) + make_chunk(b"IDAT", data)
        refuses(content + make_chunk(b"IEND", b""), "damaged")


def test_more_than_the_pixels_and_a_missing_end_are_passed_over():
    content = make()
    assert shows(content[: content.rindex(b"IEND") - 4])
    assert shows(content + b"something behind it" * 99)
    assert shows(set_size(content, COLOURS.shape[1], HEIGHT - 9), COLOURS[: HEIGHT - 9])


@pytest.mark.parametrize("kind", BESIDE, ids=lambda kind: kind.decode())
def test_a_broken_or_short_chunk_beside_the_pixels_is_ignored(kind):
    wrong = make_chunk(kind, BESIDE[kind], crc=1)
    short = make_chunk(kind, BESIDE[kind][:1] if kind != b"tRNS" else b"")
    for chunk in (wrong, short):
        assert shows(make(before=[chunk]))
        assert shows(make(after=[chunk]))


def test_a_broken_palette_or_header_is_damage():
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8).tobytes()
    broken = make_chunk(b"PLTE", palette, crc=1)
    refuses(make_png(GREY[..., None], 8, 3, before=[broken]), "palette is broken")
    content = bytearray(make())
    content[29] ^= 1
    refuses(bytes(content), "header is broken")


def test_texts_and_profiles_of_any_length_are_ignored():
    long = zlib.compress(bytes(2 << 20))
    for chunk in (
        make_chunk(b"iCCP", PROFILE),
        make_chunk(b"zTXt", b"Comment\0\0" + long),
        make_chunk(b"iTXt", b"Comment\0\1\0\0\0" + long),
        make_chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20)),
    ):
        for place in ({"before": [chunk]}, {"after": [chunk]}):
            assert shows(make(**place))
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (2 << 20), zip=True)
    picture = Image.fromarray(COLOURS)
    assert shows(to_file_bytes(picture, "PNG", pnginfo=info, icc_profile=bytes(2 << 20)))


def test_a_broken_profile_is_told_and_the_pixels_are_shown_as_they_stand():
    for format_, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        content = to_file_bytes(
            Image.fromarray(COLOURS), format_, icc_profile=b"no profile" * 20, **options
        )
        notes = []
        picture = read_picture(content, Reading(note=notes.append))
        assert np.array_equal(np.asarray(picture), COLOURS)
        assert "its colour profile is damaged" in notes[0]


@pytest.mark.parametrize("format_", ["ICO", "ICNS"])
def test_damaged_pixels_of_a_png_inside_an_icon_are_refused(format_):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8))
    options = {"sizes": [(128, 128)]} if format_ == "ICO" else {}
    content = bytearray(to_file_bytes(noise, format_, **options))
    read_picture(bytes(content))
    content[content.index(b"IDAT") + 500] ^= 4
    refuses(bytes(content), "damaged")


def make_animation(format_, colours, size=(16, 12)):
    frames = []
    for colour in colours:
        frames.append(Image.new("RGB", size, "white"))
        if colour:
            frames[-1].paste(colour, (4, 4, 9, 9))
    options = {"lossless": True} if format_ == "WEBP" else {}
    return to_file_bytes(
        frames[0], format_, save_all=True, append_images=frames[1:], duration=50, **options
    )


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_that_shows_something_is_shown(format_):
    notes = []
    content = make_animation(format_, [None, "red", "blue"])
    picture = read_picture(content, Reading(note=notes.append))
    assert picture.getpixel((6, 6)) == (255, 0, 0)
    assert "begins with an empty frame; frame 2 is shown" in notes[0]
    notes = []
    content = make_animation(format_, ["red", None, "blue"])
    picture = read_picture(content, Reading(note=notes.append))
    assert (picture.getpixel((6, 6)), notes) == ((255, 0, 0), [])


def test_a_broken_later_frame_of_an_animated_png_costs_nothing_but_itself():
    content = bytearray(make_animation("PNG", ["red", "blue", "lime"]))
    content[content.index(b"fdAT") + 12] ^= 255
    assert read_picture(bytes(content)).getpixel((6, 6)) == (255, 0, 0)


# JPEG


def list_jpegs():
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    half = np.full((200, 300, 3), 255, np.uint8)
    half[:100] = np.linspace(0, 255, 300)[None, :, None]
    for name, pixels in (("noise", noise), ("drawn", COLOURS), ("half", half)):
        for progressive in (False, True):
            for subsampling in (0, 2):
                yield name, pixels, {"progressive": progressive, "subsampling": subsampling}
            yield name, pixels[..., 0], {"progressive": progressive}
        yield name, pixels, {"optimize": True}


@pytest.mark.parametrize(("name", "pixels", "options"), list(list_jpegs()))
def test_a_jpeg_is_read_without_its_last_6_bytes_and_not_without_half(name, pixels, options):
    content = to_file_bytes(Image.fromarray(pixels), "JPEG", quality=85, **options)
    whole = np.asarray(read_picture(content), float)
    for n_missing in range(1, 7):
        shown = np.asarray(read_picture(content[:-n_missing]), float)
        assert np.abs(shown - whole).mean() < 2
    data = content.index(b"\xff\xda")
    for share in (0.1, 0.3, 0.5, 0.7):
        refuses(content[: data + int(share * (len(content) - data))], "damaged")


def test_a_jpeg_without_its_end_keeps_its_turn():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = to_file_bytes(Image.fromarray(COLOURS), "JPEG", exif=exif)
    assert read_picture(content[:-2]).size == (HEIGHT, COLOURS.shape[1])
