import io
import json
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image, ImageOps

from tests.golden import CASES, GOLDEN, needs_golden
from tinyv_cli.errors import DeviceError, InputError
from tinyv_cli.pictures import image
from tinyv_cli.pictures.image import hash_pixels, read_picture, to_pixels


def to_file_bytes(picture, format_="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, format_, **options)
    return stream.getvalue()


def make_noise(width=23, height=17, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def make_png_header(width, height):
    """A PNG that promises any size in a few bytes and holds nothing."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def read_first_pixel(source):
    return read_picture(source).getpixel((0, 0))


def read_golden_array(path, name):
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8:start])[name]
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[start + begin : start + end], "<f4").reshape(entry["shape"])


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_pixels_are_those_of_the_published_code(case):
    wanted = read_golden_array(GOLDEN / case / "expected.safetensors", "pixel_values")
    pixels = to_pixels(read_picture(GOLDEN / case / "image.png"), wanted.shape[-1])
    assert pixels.shape == wanted.shape
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels, wanted, rtol=1e-6)


def test_a_picture_is_squashed_and_not_cropped():
    wide = Image.new("RGB", (200, 20), "black")
    wide.paste("white", (190, 0, 200, 20))
    pixels = to_pixels(wide, 40)
    assert pixels[0, 0, 20, -1] == pytest.approx((1 - 0.48145466) / 0.26862954, abs=1e-4)
    assert pixels[0, 2, 20, 10] == pytest.approx(-0.40821073 / 0.27577711, abs=1e-4)


def test_a_file_and_its_bytes_give_the_same_picture(tmp_path):
    path = tmp_path / "noise.png"
    make_noise().save(path)
    assert read_picture(path).tobytes() == read_picture(path.read_bytes()).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_portrait_photo_is_turned_upright(orientation, format_):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = to_file_bytes(make_noise(), format_, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright.size == ((23, 17) if orientation < 5 else (17, 23))
    assert read_picture(data).tobytes() == upright.convert("RGB").tobytes()


def test_a_damaged_exif_block_does_not_cost_the_picture():
    data = to_file_bytes(make_noise(), "JPEG", exif=b"Exif\x00\x00XX\x00\x2a\xff\xff")
    assert read_picture(data).size == (23, 17)


def test_transparent_parts_become_white():
    picture = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    picture.putpixel((1, 1), (200, 0, 0, 255))
    picture.putpixel((2, 2), (0, 0, 0, 128))
    rgb = read_picture(to_file_bytes(picture))
    assert rgb.mode == "RGB"
    assert rgb.getpixel((0, 0)) == (255, 255, 255)
    assert rgb.getpixel((1, 1)) == (200, 0, 0)
    assert rgb.getpixel((2, 2)) == (127, 127, 127)


def test_opaque_pictures_with_alpha_keep_their_colours():
    opaque = make_noise().convert("RGBA")
    assert read_picture(to_file_bytes(opaque)).tobytes() == make_noise().tobytes()


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((0, 0), 0)
    data = to_file_bytes(picture, transparency=0)
    assert read_first_pixel(data) == (255, 255, 255)
    assert read_picture(data).getpixel((1, 1)) == (0, 0, 255)
    assert read_first_pixel(to_file_bytes(picture)) == (255, 0, 0)
    half_seen = to_file_bytes(picture, transparency=bytes([255, 0]))
    assert read_picture(half_seen).getpixel((1, 1)) == (255, 255, 255)


def test_grey_with_and_without_alpha_is_read():
    assert read_first_pixel(to_file_bytes(Image.new("L", (3, 3), 77))) == (77, 77, 77)
    assert read_first_pixel(to_file_bytes(Image.new("LA", (3, 3), (77, 255)))) == (77, 77, 77)
    assert read_first_pixel(to_file_bytes(Image.new("LA", (3, 3), (77, 0)))) == (255, 255, 255)


def test_one_bit_pictures_are_black_and_white():
    picture = Image.new("1", (3, 3), 0)
    picture.putpixel((1, 1), 1)
    rgb = read_picture(to_file_bytes(picture))
    assert (rgb.getpixel((0, 0)), rgb.getpixel((1, 1))) == ((0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(format_):
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = read_first_pixel(to_file_bytes(picture, format_))
    assert red > 250
    assert max(green, blue) < 5


def test_16_bit_grey_keeps_its_high_byte():
    values = np.array([[0x0000, 0x12FF], [0x8000, 0xFFFF]], np.uint16)
    wanted = [0x00, 0x12, 0x80, 0xFF]
    for format_ in ("PNG", "TIFF"):
        data = to_file_bytes(Image.fromarray(values), format_)
        assert list(read_picture(data).getchannel(0).tobytes()) == wanted
    big_endian = b"MM\x00*" + make_big_endian_tiff_body(values)
    assert Image.open(io.BytesIO(big_endian)).mode == "I;16B"
    assert list(read_picture(big_endian).getchannel(1).tobytes()) == wanted
    pgm = b"P5 2 2 65535\n" + values.astype(">u2").tobytes()
    assert list(read_picture(pgm).getchannel(2).tobytes()) == wanted


def make_big_endian_tiff_body(values):
    """What follows a TIFF's first four bytes: where its directory is, the directory, the values."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 200, 277: 1, 278: height}
    tags[279] = values.size * 2
    directory = struct.pack(">H", len(tags))
    directory += b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags.items())
    body = struct.pack(">I", 8) + directory + bytes(4)
    return body.ljust(196, b"\0") + values.astype(">u2").tobytes()


def test_16_bit_grey_can_have_a_transparent_value():
    values = np.array([[0x1234, 0xD678]] * 2, np.uint16)
    rgb = read_picture(to_file_bytes(Image.fromarray(values), transparency=0x1234))
    assert [rgb.getpixel((x, 0))[0] for x in (0, 1)] == [255, 0xD6]


def test_16_bit_colour_keeps_its_high_bytes():
    values = np.array([[[0x1234, 0x8000, 0xFFFF]] * 2] * 2, ">u2")
    body = b"P6 2 2 65535\n" + values.tobytes()
    assert read_first_pixel(body) == (0x12, 0x80, 0xFF)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0, 128, 255], [0, 128, 255]),
        ([0, 0x8000, 0xFFFF], [0, 0x80, 0xFF]),
        ([-100, 1, 100], [0, 129, 255]),
        ([0, 1 << 18, 1 << 20], [0, 64, 255]),
        ([-7, -7, -7], [0, 0, 0]),
    ],
)
def test_32_bit_whole_numbers_are_brought_to_8_bits(values, wanted):
    picture = Image.fromarray(np.array([values] * 2, np.int32))
    assert picture.mode == "I"
    rgb = read_picture(to_file_bytes(picture, "TIFF"))
    assert [rgb.getpixel((x, 0))[0] for x in range(3)] == wanted


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([-1.0, 0.5, 1.0], [0, 191, 255]),
        ([np.nan, np.inf, 1.0], [0, 0, 255]),
    ],
)
def test_float_pictures_are_brought_to_8_bits(values, wanted):
    picture = Image.fromarray(np.array([values] * 2, np.float32))
    assert picture.mode == "F"
    rgb = read_picture(to_file_bytes(picture, "TIFF"))
    assert [rgb.getpixel((x, 0))[0] for x in range(3)] == wanted


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_read(format_):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = to_file_bytes(
        frames[0], format_, save_all=True, append_images=frames[1:], duration=50, **options
    )
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert read_first_pixel(data) == (255, 0, 0)


def check_refusal(source, *words):
    with pytest.raises(InputError) as caught:  # and no warning: pytest makes those errors
        read_picture(source)
    for word in words:
        assert word in caught.value.problem
    assert not caught.value.problem.endswith(".")
    assert "`" in caught.value.hint
    return caught.value


@pytest.mark.parametrize("side", [10_000, 12_000, 20_000, 60_000])
def test_a_decompression_bomb_is_refused_from_its_header(side):
    data = make_png_header(side, side)
    if side * side <= image.MAX_PIXELS:
        check_refusal(data, "damaged")  # it is let through, and then found to be empty
    else:
        error = check_refusal(data, str(side * side), str(image.MAX_PIXELS))
        assert "-resize" in error.hint


def test_pillows_own_limit_is_as_before_afterwards(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    check_refusal(make_png_header(60_000, 60_000), "pixels")
    read_picture(to_file_bytes(make_noise(200, 200)))
    assert Image.MAX_IMAGE_PIXELS == 12345


def make_icon(inside):
    """An icon that calls whatever PNG it holds 16 pixels wide and high."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inside


def test_a_bomb_inside_an_icon_is_refused():
    check_refusal(make_icon(make_png_header(30_000, 30_000)), "has 900000000 pixels")


def test_pillows_warnings_do_not_leak():
    icon = make_icon(to_file_bytes(make_noise()))
    with pytest.warns(UserWarning, match="not the expected size"):
        Image.open(io.BytesIO(icon))
    assert read_picture(icon).tobytes() == make_noise().tobytes()


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (1, 1)])
def test_a_picture_one_pixel_thin_is_refused(size):
    check_refusal(to_file_bytes(Image.new("RGB", size)), f"{size[0]}×{size[1]}")


def test_a_missing_file_is_named(tmp_path):
    error = check_refusal(tmp_path / "no such cat.png", "no such cat.png")
    assert error.hint == f"check its name: `ls {tmp_path}`"
    error = check_refusal(tmp_path / "no" / "folder" / "cat.png", "cat.png")
    assert error.hint == f"check its name: `ls {tmp_path}`"


def test_a_folder_is_not_a_picture(tmp_path):
    check_refusal(tmp_path, "is a folder")


def test_an_empty_file_is_told_apart_from_a_damaged_one(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    check_refusal(path, "empty.png is empty")
    check_refusal(b"", "is empty")


def test_a_text_named_png_is_not_a_picture(tmp_path):
    path = tmp_path / "it's.png"
    path.write_text("hello, I am a text\n" * 20)
    error = check_refusal(path, "is not a picture Pillow can read")
    assert """'"'"'""" in error.hint  # the name can be pasted into a shell


def test_a_drawing_program_is_not_started():
    check_refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n", "EPS")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_truncated_picture_is_refused(tmp_path, format_):
    path = tmp_path / "half"
    data = to_file_bytes(make_noise(200, 200), format_)
    path.write_bytes(data[: len(data) // 2])
    check_refusal(path, "half")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_corrupt_bytes_give_a_picture_or_a_planned_error(format_):
    data = to_file_bytes(make_noise(60, 40), format_)
    random = np.random.default_rng(1)
    n_refused = 0
    for _ in range(80):
        broken = bytearray(data)
        for position in random.integers(0, len(data), 6):
            broken[position] = random.integers(256)
        try:
            assert read_picture(bytes(broken)).mode == "RGB"
        except InputError:
            n_refused += 1
    assert n_refused > 0


def test_a_file_that_may_not_be_read_says_how_to_allow_it(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    make_noise().save(path)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    error = check_refusal(path, "secret.png may not be read")
    assert f"chmod u+r {path}" in error.hint


def test_a_path_through_a_file_is_an_input_error(tmp_path):
    (tmp_path / "file").touch()
    check_refusal(tmp_path / "file" / "cat.png", "cannot be opened")


def test_too_little_memory_is_not_called_damage(monkeypatch):
    def fail(*_):
        raise MemoryError

    data = to_file_bytes(make_noise().convert("P"))
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(DeviceError, match="memory does not suffice"):
        read_picture(data)


def test_a_picture_beyond_the_free_memory_is_refused_before_it_is_decoded(monkeypatch):
    data = to_file_bytes(make_noise(1000, 1000))
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(total=8 << 20, available=7 << 20)
    )
    with pytest.raises(DeviceError, match="memory does not suffice"):
        read_picture(data)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_read_to_its_end(tmp_path):
    import os
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = to_file_bytes(make_noise())
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert read_picture(pipe).tobytes() == make_noise().tobytes()
    writer.join()


def test_a_device_is_not_a_picture():
    if not Path("/dev/zero").is_char_device():
        pytest.skip("no /dev/zero here")
    check_refusal(Path("/dev/zero"), "is not a file")


def test_the_hash_follows_content_and_shape():
    pixels = to_pixels(make_noise(), 28)
    assert hash_pixels(pixels) == hash_pixels(pixels.copy())
    assert hash_pixels(pixels) != hash_pixels(to_pixels(make_noise(seed=1), 28))
    assert hash_pixels(pixels) != hash_pixels(pixels.reshape(1, 3, 14, 56))
