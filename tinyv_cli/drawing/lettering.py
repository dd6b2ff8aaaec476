"""A text becomes a font that can write it, and what of it can be written; draws nothing.

Pillow's own font writes plain English and looks alike everywhere. For the rest of Unicode a font of
this system is looked for. What no font here has loses its accents, and else becomes `?`.
"""

import subprocess
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from PIL import ImageFont

from tinyv_cli.errors import DeviceError

Font = ImageFont.FreeTypeFont

UNKNOWN = "?"

# Where fontconfig does not run: Windows, macOS, then what bare Linux images carry. Pillow finds
# them by name in the system's folders.
_FONT_FILES = (
    "segoeui.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Nirmala.ttc",
    "LeelawUI.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
)
_NO_SIGN = "\U0010fffd"  # a private code point: every font shows its sign for what it lacks
_FONTCONFIG_S = 5.0


class Lettering(NamedTuple):
    """A text as it can be written.

    Attributes:
        text: one line; other than what was asked where the fonts lack something.
        font: has every sign of it.
        is_whole: whether the text is the one asked for, white space aside.
    """

    text: str
    font: Font
    is_whole: bool


def resolve_lettering(text: str, size_px: int) -> Lettering:
    """Finds a font for a text.

    Args:
        text: any Unicode; white space becomes single spaces, control characters vanish.
        size_px: height of the letters.

    Raises:
        DeviceError: this Pillow was built without fonts.
    """
    line = "".join(each for each in " ".join(text.split()) if each.isprintable())
    for font in _walk_fonts(line, size_px):
        if _find_missing(font, line) == frozenset():
            return Lettering(line, font, True)
    plain = "".join(
        each for each in unicodedata.normalize("NFKD", line) if not unicodedata.combining(each)
    )
    font = _open_own_font(size_px)
    missing = _find_missing(font, plain)
    return Lettering("".join(UNKNOWN if each in missing else each for each in plain), font, False)


def _walk_fonts(text: str, size_px: int) -> Iterator[Font]:
    """Fonts that may have the text: Pillow's own, then the system's."""
    yield _open_own_font(size_px)
    signs = "".join(sorted(set(text)))
    for name in (*_ask_fontconfig(signs), *_FONT_FILES):
        try:
            yield ImageFont.truetype(name, size_px)
        except OSError:  # no such font here, or one of fixed sizes, as for coloured emoji
            continue


def _open_own_font(size_px: int) -> Font:
    """The font that comes with Pillow."""
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise DeviceError(
            "this Pillow writes no letters: it was built without FreeType",
            "install the published one: `pip install --force-reinstall pillow`",
        )
    return font


@lru_cache(maxsize=64)
def _ask_fontconfig(signs: str) -> tuple[str, ...]:
    """Files of fonts that have all signs, plainest name first; none where fontconfig is not."""
    charset = " ".join(f"{ord(sign):x}" for sign in signs if not sign.isspace())
    command = ["fc-list", "--format", "%{file}\n", f":charset={charset}"]
    try:
        found = subprocess.run(
            command, capture_output=True, timeout=_FONTCONFIG_S, check=True
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        return ()
    # "DejaVuSans.ttf" before "DejaVuSansCondensed-BoldOblique.ttf".
    return tuple(sorted(found.splitlines(), key=lambda name: (len(name), name))[:8])


def _find_missing(font: Font, text: str) -> frozenset[str]:
    """Signs of a text that a font has no picture of."""
    lacking = bytes(font.getmask(_NO_SIGN))
    return frozenset(
        sign for sign in set(text) if not sign.isspace() and bytes(font.getmask(sign)) == lacking
    )
