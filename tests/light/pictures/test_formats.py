"""What is read as a picture: a list; what is not is named, and starts no program.

Source: a fuzzing round; an EPS inside an IPTC file reached Ghostscript under any name. And reports
of folders passed over and of HEIC refused without a way out.
"""

import os
import struct
import subprocess
import sys
from contextlib import suppress
from io import BytesIO

import pytest
from PIL import Image

from tests.light.pictures.drawn_pictures import make_tiff, to_file_bytes
from tinyv_cli.batch.finding import find_pictures
from tinyv_cli.errors import InputError
from tinyv_cli.pictures.decoding import formats
from tinyv_cli.pictures.decoding.formats import list_formats, list_suffixes
from tinyv_cli.pictures.image import read_picture
from tinyv_cli.pictures.names import names_picture

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(200)
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(200)
WMF = b"\xd7\xcd\xc6\x9a" + bytes(200)


def make_field(record, number, content):
    return bytes([0x1C, record, number]) + struct.pack(">H", len(content)) + content


def make_iptc(inner):
    """An IPTC file of 9 x 9 pixels that holds another picture."""
    return b"".join(
        (
            make_field(3, 60, bytes([1, 0])),
            make_field(3, 65, bytes([1])),
            make_field(3, 20, bytes([9])),
            make_field(3, 30, bytes([9])),
            make_field(3, 120, bytes([5])),
            make_field(8, 10, inner),
        )
    )


def make_icon(inside):
    entry = struct.pack("<BBBBHHII", 9, 9, 0, 0, 1, 32, len(inside), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inside


def make_icns(inside):
    body = b"ic07" + struct.pack(">I", 8 + len(inside)) + inside
    return b"icns" + struct.pack(">I", 8 + len(body)) + body


def make_spider_or_mic(inside):
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + inside


NESTS = {
    "alone": lambda content: content,
    "iptc": make_iptc,
    "iptc twice": lambda content: make_iptc(make_iptc(content)),
    "icon": make_icon,
    "icns": make_icns,
    "ole": make_spider_or_mic,
    "jpeg's APP13": lambda content: (
        b"\xff\xd8\xff\xed" + struct.pack(">H", len(content) + 2) + content + b"\xff\xd9"
    ),
}


def list_contents():
    """Files of all formats that Pillow writes, and the beginnings of those that it reads alone."""
    Image.init()
    picture = Image.new("RGB", (9, 9), "red")
    contents = {"EPS": EPS, "HEIC": HEIC, "JXL": JXL, "WMF": WMF}
    for format_ in sorted(Image.SAVE):
        for mode in ("RGB", "L", "1"):
            try:
                contents[format_] = to_file_bytes(picture.convert(mode), format_)
                break
            except (OSError, ValueError, KeyError, DeprecationWarning):
                continue
    starts = {"BUFR": b"BUFR", "GRIB": b"GRIB\0\0\0\1", "HDF5": b"\x89HDF\r\n\x1a\n",
              "MPEG": b"\0\0\1\xb3\0\x90\x09"}  # fmt: skip
    return contents | {name: start + bytes(400) for name, start in starts.items()}


_watched: list[str] = []
_is_watching = False


STARTS = {
    "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn",
    "subprocess.Popen",
}  # fmt: skip


def _watch(event, arguments):
    if _is_watching and event in STARTS:
        _watched.append(f"{event} {arguments}")


@pytest.fixture
def started():
    """Programs started meanwhile."""
    global _is_watching
    if not getattr(_watch, "is_hooked", False):
        sys.addaudithook(_watch)  # for good: hooks cannot be taken away
        _watch.is_hooked = True
    _watched.clear()
    _is_watching = True
    yield _watched
    _is_watching = False


def test_the_watch_sees_a_program(started):
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert started


@pytest.mark.parametrize("nest", NESTS)
def test_no_picture_of_any_format_starts_a_program_however_nested(started, nest):
    contents = list_contents()
    assert len(contents) > 25
    n_read = 0
    for content in contents.values():
        with suppress(InputError):
            n_read += read_picture(NESTS[nest](content)).mode == "RGB"
    assert started == []
    assert n_read > 15 or nest != "alone"


def test_pillow_alone_would_start_one(started, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", sys.executable)
    with Image.open(BytesIO(make_iptc(EPS))) as picture, pytest.raises(subprocess.SubprocessError):
        picture.load()
    assert started


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (EPS, "EPS"),
        (b"\xc5\xd0\xd3\xc6" + bytes(100), "EPS"),
        (make_iptc(EPS), "IPTC"),
        (make_iptc(to_file_bytes(Image.new("L", (9, 9), 7), "PNG")), "IPTC"),
        (WMF, "Windows metafile"),
        (b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="x">', "SVG"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_what_is_known_and_not_read_is_named_under_any_name(content, name, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(InputError, match=f"is not a picture that is read: it is .*{name}"):
            read_picture(source)


def test_the_list_holds_no_format_that_opens_others_or_has_no_pixels():
    assert set(list_formats()).isdisjoint(
        {"EPS", "IPTC", "WMF", "FPX", "MIC", "BUFR", "GRIB", "HDF5", "MPEG", "PDF"}
    )
    assert {"PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PSD"} <= set(list_formats())


@pytest.mark.parametrize(
    ("content", "module", "command"),
    [(HEIC, "pillow_heif", "tinyv[heic]"), (JXL, "pillow_jxl", "pillow-jxl-plugin")],
)
def test_a_picture_that_needs_a_library_more_names_it(content, module, command, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"{module}, which reads it, is not installed") as caught:
        read_picture(content)
    assert f"pip install '{command}'" in caught.value.hint or command in caught.value.hint


def test_heic_is_read_with_its_library():
    pillow_heif = pytest.importorskip("pillow_heif")
    picture = Image.new("RGB", (64, 48), (200, 30, 60))
    stream = BytesIO()
    pillow_heif.from_pillow(picture).save(stream, format="HEIF", quality=100)
    shown = read_picture(stream.getvalue())
    assert shown.size == (64, 48)
    assert abs(shown.getpixel((9, 9))[0] - 200) < 6


def test_a_folder_lists_whatever_can_be_read(tmp_path):
    endings = (
        *("apng", "avif", "dds", "dib", "heic", "heics", "icns", "ico", "j2k", "JPG", "jxl", "mpo"),
        *("pbm", "pcx", "pnm", "psd", "qoi", "sgi", "tif", "webp"),
    )
    names = [f"a.{ending}" for ending in endings]
    for name in (*names, "a.txt", "a.eps", "a.mp4", "a.json", ".hidden.png"):
        (tmp_path / name).touch()
    found = find_pictures([str(tmp_path)], lambda: b"", recurses=False)
    assert sorted(path.name for path in found) == sorted(names)


def test_what_is_read_is_a_picture_by_its_name_and_what_is_refused_too():
    for suffix in (*list_suffixes(), ".eps", ".pdf", ".mp4"):
        assert names_picture(f"never-there{suffix}"), suffix


def test_the_names_of_formats_are_known_to_pillow():
    Image.init()
    assert set(formats._PILLOWS) <= set(Image.OPEN) | {"AVIF", "MPO"}


@pytest.mark.skipif(sys.platform == "win32", reason="its functions are hidden there")
def test_libtiff_writes_nothing_past_q(tmp_path):
    """Source: its warnings came on stderr in spite of `-q`."""
    noise = Image.effect_noise((64, 64), 50)
    content = bytearray(to_file_bytes(noise, "TIFF", compression="tiff_adobe_deflate"))
    content[len(content) // 2] ^= 255
    (tmp_path / "broken.tif").write_bytes(content)
    tags = {"t256": (3, [9]), "t257": (3, [9]), "t258": (3, [8]), "t277": (3, [999])}
    (tmp_path / "samples.tif").write_bytes(make_tiff([bytes(81)], **tags))
    code = (
        "import sys; from pathlib import Path\n"
        "from tinyv_cli.pictures.image import read_picture\n"
        "for name in sys.argv[1:]:\n"
        "    try: read_picture(Path(name))\n"
        "    except Exception: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, tmp_path.iterdir())],
        capture_output=True,
        check=True,
        env=os.environ,
    )
    assert done.stderr == b""
