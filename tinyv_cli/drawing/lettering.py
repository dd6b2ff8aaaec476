"""A text becomes a font and the text that this font can write; draws nothing.

Pillow's own font writes plain English (it lacks even `é`) and looks alike everywhere. For the rest
of Unicode a font of this system is looked for. Without one, accents are dropped, and other
characters become `?`.
"""

import subprocess
import unicodedata
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
_NO_CHARACTER = "\U0010fffd"  # a private code point, drawn as the mark for a missing character
_FONTCONFIG_S = 5.0


class Lettering(NamedTuple):
    """A text that a font can write.

    Attributes:
        text: one line; differs from the text asked for where the fonts lack something.
        font: has every character of it.
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
    own_font = ImageFont.load_default(size_px)
    if not isinstance(own_font, ImageFont.FreeTypeFont):
        raise DeviceError(
            "this Pillow writes no letters: it was built without FreeType",
            "install the published one: `pip install --force-reinstall pillow`",
        )
    if not _find_missing(own_font, line):
        return Lettering(line, own_font, True)
    for name in (*_ask_fontconfig("".join(sorted(set(line)))), *_FONT_FILES):
        try:
            font = ImageFont.truetype(name, size_px)
        except OSError:  # no such font here, or one of a single size, as for coloured emoji
            continue
        if not _find_missing(font, line):
            return Lettering(line, font, True)
    plain = "".join(
        each for each in unicodedata.normalize("NFKD", line) if not unicodedata.combining(each)
    )
    missing = _find_missing(own_font, plain)
    written = "".join(UNKNOWN if each in missing else each for each in plain)
    return Lettering(written, own_font, False)


@lru_cache(maxsize=64)
def _ask_fontconfig(characters: str) -> tuple[str, ...]:
    """Lists files of fonts with all characters, shortest name first; none without fontconfig."""
    charset = " ".join(f"{ord(each):x}" for each in characters if not each.isspace())
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
    """Returns the characters of a text that a font lacks.

    Found by drawing each: reading the tables of a font's file would need fontTools.
    """
    lacking = bytes(font.getmask(_NO_CHARACTER))
    return frozenset(
        each for each in set(text) if not each.isspace() and bytes(font.getmask(each)) == lacking
    )
