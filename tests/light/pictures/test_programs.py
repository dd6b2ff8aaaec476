"""No picture starts a program.

Seen in: a fuzzing round; an EPS inside an IPTC file reached Ghostscript under any name.
"""

import struct
import subprocess
from io import BytesIO

import pytest
from PIL import Image

from tinyv_cli.errors import InputError
from tinyv_cli.pictures.image import read_picture

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


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


def make_png():
    stream = BytesIO()
    Image.new("L", (9, 9), 7).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("name", ["a.eps", "a.jpg"])
@pytest.mark.parametrize(
    "content", [EPS, make_iptc(EPS), make_iptc(make_png())], ids=["EPS", "EPS in IPTC", "IPTC"]
)
def test_what_could_start_a_program_is_refused_under_any_name(content, name, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a program is started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(InputError, match="could start a program"):
            read_picture(source)


def test_pillow_would_read_such_an_iptc_file():
    with Image.open(BytesIO(make_iptc(make_png()))) as picture:
        assert picture.format == "IPTC"
