"""The formats that are read: a file's first bytes, or its name's ending, become a yes or a reason.

What is read is a list, so that nothing Pillow learns later is read unseen. Left out of it are EPS
(drawn by Ghostscript, a program that is started), IPTC (holds a picture of any kind, EPS too, and
hands it to whatever reads it), WMF (drawn by Windows), FPX and MIC (folders of files), BUFR, GRIB,
HDF5 and MPEG (Pillow knows their names alone).
"""

import re
from functools import lru_cache
from importlib import import_module
from typing import NamedTuple

HEAD_BYTES = 1024  # a PDF may begin so late; of everything else less decides

_PILLOWS = (
    *("AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF"),
    *("ICNS", "ICO", "IM", "IMT", "JPEG", "JPEG2000", "MCIDAS", "MPO", "MSP", "PCD", "PCX"),
    *("PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP"),
    *("XBM", "XPM", "XVTHUMB"),
)


class NotReadError(ValueError):
    """A file that is no damaged picture, and is not read either.

    Attributes:
        problem: what it is and why it is not read; follows the file's name.
        hint: a way out; empty where it is to convert the file.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class Plugin(NamedTuple):
    """A library beside Pillow that teaches it a format.

    Attributes:
        format: as Pillow calls it, and as people do.
        module: that is imported.
        opener: a function in it that makes it known; None where importing does.
        suffixes: of its files.
        install: the command that installs it.
    """

    format: str
    module: str
    opener: str | None
    suffixes: tuple[str, ...]
    install: str


HEIF = Plugin(
    "HEIF",
    "pillow_heif",
    "register_heif_opener",
    (".heic", ".heics", ".heif", ".heifs", ".hif"),
    "pip install 'tinyv[heic]'",
)
JXL = Plugin("JXL", "pillow_jxl", None, (".jxl",), "pip install pillow-jxl-plugin")

# Source: ISO/IEC 23008-12, brands of HEVC pictures; AV1's (avif, avis) are read by Pillow.
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})

_PICTURE_STARTS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM", b"8BPS")
_UNREAD = (
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "EPS, a program that draws"),
    (re.compile(rb"\x1c[\x01-\x09\xf0]"), "IPTC, a container of other files"),
    (re.compile(rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", re.DOTALL), "a Windows metafile"),
    (re.compile(rb"[^<]{0,9}(?:<[?!][^>]*>\s*)*<svg\b", re.DOTALL), "SVG, a drawing"),
    (re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "a container of other files"),
)  # fmt: skip


def name_unread(head: bytes) -> str | None:
    """Names what a content is that Pillow did not take, where that is known.

    Args:
        head: the first `HEAD_BYTES` bytes.
    """
    if is_pdf(head):
        return "a PDF"
    return next((name for pattern, name in _UNREAD if pattern.match(head)), None)


def load_plugin(head: bytes) -> None:
    """Makes known to Pillow what a content needs beside it, if anything.

    Args:
        head: the first `HEAD_BYTES` bytes.

    Raises:
        NotReadError: the library is not installed.
    """
    plugin = None
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, 64, 4))}
        if head[8:12] in _HEIF_BRANDS and not brands & {b"avif", b"avis"}:
            plugin = HEIF
    elif head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        plugin = JXL
    if plugin is None:
        return
    try:
        module = import_module(plugin.module)
    except ImportError as error:
        raise NotReadError(
            f"is {plugin.format}, and {plugin.module}, which reads it, is not installed",
            f"install it: `{plugin.install}`",
        ) from error
    if plugin.opener is not None:
        getattr(module, plugin.opener)()


def is_pdf(head: bytes) -> bool:
    """Returns whether a content is a PDF, which may begin a little late."""
    # Source: ISO 32000-1, annex H, note 13. A picture whose text speaks of PDFs stays a picture.
    return b"%PDF-" in head[:HEAD_BYTES] and not head.startswith(_PICTURE_STARTS)


def list_formats() -> tuple[str, ...]:
    """Returns the formats that are read, for `Image.open`: of those listed, what Pillow has here.

    TGA, which has no mark of its own, is tried last.
    """
    from PIL import Image

    Image.init()
    known = (*(name for name in _PILLOWS if name != "TGA"), HEIF.format, JXL.format, "TGA")
    return tuple(name for name in known if name in Image.OPEN)


@lru_cache(maxsize=1)
def list_suffixes() -> frozenset[str]:
    """Returns the endings of the names of pictures that are read, here or with a library more."""
    from PIL import Image

    known = Image.registered_extensions().items()
    by_pillow = [suffix for suffix, name in known if suffix and name in _PILLOWS]
    # AVIF too where Pillow was built without: a picture is refused rather than passed over.
    return frozenset((*by_pillow, ".avif", ".avifs", *HEIF.suffixes, *JXL.suffixes))
