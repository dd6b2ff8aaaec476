"""A font file becomes the bitmaps of the kinds, plain and tinted.

Bitmaps are square, the drawn part centred and filling the longer side. `python -m
weights.training.world.glyphs` writes the silhouettes that scenes are laid out with; every glyph is
compared with its silhouette when it is first drawn, so that another version of the font is an
error and not a wrong box. The stored ones are of Noto Color Emoji 2.042.
"""

import argparse
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tinyv_cli.errors import UsageError
from weights.synthetic.module_command import open_console
from weights.training.world.colours import OBJECT_COLOURS
from weights.training.world.kinds import KIND_OF_NAME, KINDS
from weights.training.world.silhouettes import (
    SHEET_FILE,
    SIDE_CELLS,
    load_silhouettes,
    write_silhouettes,
)

FONT_VARIABLE = "TINYV_EMOJI_FONT"
FONT_PACKAGE = "fonts-noto-color-emoji"
BITMAP_PX = 109  # the one size of the font's bitmaps
PADDING_PX = 2  # transparent, so that edges stay soft when a bitmap is turned
# Sides of the bitmaps that are kept: drawing then shrinks by a third at most, without aliasing.
LEVELS_PX = (24, 32, 42, 56, 75, 100, 132)

_FONT_FILE = "NotoColorEmoji.ttf"
_FONT_FOLDERS = (
    "/usr/share/fonts/truetype/noto",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/opt/homebrew/share/fonts",
    "~/Library/Fonts",
    "/Library/Fonts",
)
_OPAQUE = 128  # of 255: from here on a pixel belongs to the object
_MIN_AGREEMENT = 0.93  # intersection over union with the stored silhouette


def resolve_font(font: Path | None = None) -> Path:
    """Finds the font: the named one, else the variable's, else one in the usual places.

    Args:
        font: a file that must exist; None looks for one.

    Raises:
        UsageError: the named file is missing, or none lies in the usual places.
    """
    named = font or os.environ.get(FONT_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise UsageError(f"there is no font {named}", _make_hint())
        return Path(named)
    for folder in (Path(each).expanduser() for each in _FONT_FOLDERS):
        if (folder / _FONT_FILE).is_file():
            return folder / _FONT_FILE
        found = sorted(folder.rglob(_FONT_FILE)) if folder.is_dir() else []
        if found:
            return found[0]
    raise UsageError("the font Noto Color Emoji was not found", _make_hint())


def _make_hint() -> str:
    return (
        f"install Debian's package: `apt-get install {FONT_PACKAGE}`, "
        f"or name {_FONT_FILE} with `--font` or {FONT_VARIABLE}"
    )


class Glyphs:
    """The kinds as a font draws them; each bitmap is made once.

    Attributes:
        path: the font's file.
    """

    def __init__(self, path: Path) -> None:
        """Opens the font.

        Raises:
            UsageError: it is no font with bitmaps of 109 px.
        """
        self.path = path
        try:
            self._font = ImageFont.truetype(str(path), BITMAP_PX)
        except OSError as error:
            problem = f"{path} has no bitmaps of {BITMAP_PX} px: {error}"
            raise UsageError(problem, _make_hint()) from error
        self._levels: dict[tuple[str, str | None, int], Image.Image] = {}
        self._squares: dict[str, Image.Image] = {}

    def choose_level(self, kind: str, colour: str | None, side_px: float) -> Image.Image:
        """Returns the smallest kept bitmap that is at least as large as the object will be.

        Args:
            kind: name of a kind.
            colour: name of a tint, None for the font's own colours.
            side_px: the longer side that the object will have.

        Returns:
            RGBA, a square with `PADDING_PX` of nothing around it.

        Raises:
            UsageError: the font lacks the kind, or draws it otherwise than its silhouette.
        """
        level_px = next((level for level in LEVELS_PX if level >= side_px), LEVELS_PX[-1])
        key = (kind, colour, level_px)
        if key not in self._levels:
            if kind not in self._squares:
                square = self.draw_square(kind)
                drawn, stored = to_silhouette(square), load_silhouettes()[kind]
                agreement = float((drawn & stored).sum() / (drawn | stored).sum())
                if agreement < _MIN_AGREEMENT:
                    raise UsageError(
                        f"{self.path} draws the {kind} otherwise than {SHEET_FILE} says: "
                        f"they share {agreement:.0%}",
                        "use version 2.042 of the font, or redo the silhouettes: "
                        "`python -m weights.training.world.glyphs`",
                    )
                self._squares[kind] = square
            square = self._squares[kind]
            if colour is not None:
                square = tint(square, colour)
            small = square.resize((level_px, level_px), Image.Resampling.LANCZOS)
            padded_px = level_px + 2 * PADDING_PX
            padded = Image.new("RGBA", (padded_px, padded_px))
            padded.paste(small, (PADDING_PX, PADDING_PX))
            self._levels[key] = padded
        return self._levels[key]

    def draw_square(self, kind: str) -> Image.Image:
        """Draws a kind at the bitmaps' size, cut to what is opaque and centred in a square.

        Raises:
            UsageError: the font lacks the kind.
        """
        glyph = Image.new("RGBA", (2 * BITMAP_PX, 2 * BITMAP_PX))
        ImageDraw.Draw(glyph).text(
            (20, 20), KIND_OF_NAME[kind].character, font=self._font, embedded_color=True
        )
        opaque = glyph.getchannel("A").point([255 * (a >= _OPAQUE) for a in range(256)])
        box = opaque.getbbox()
        if box is None or box[2] - box[0] < BITMAP_PX // 4:
            raise UsageError(f"{self.path} has no picture of the kind {kind}", _make_hint())
        width_px, height_px = box[2] - box[0], box[3] - box[1]
        side_px = max(width_px, height_px)
        square = Image.new("RGBA", (side_px, side_px))
        square.paste(glyph.crop(box), ((side_px - width_px) // 2, (side_px - height_px) // 2))
        return square


@cache
def open_glyphs(font: Path | None = None) -> Glyphs:
    """Opens a font, or the one that is found, once a process.

    Raises:
        UsageError: there is none, or it has no bitmaps of 109 px.
    """
    return Glyphs(resolve_font(font))


def tint(square: Image.Image, colour: str) -> Image.Image:
    """Paints the coloured parts of a bitmap in another colour; light, dark and gray stay.

    A pixel's brightness relative to that of the coloured parts goes over to the new colour:
    darker ones are scaled down, lighter ones mixed with white. Alpha is kept. Turning the hue alone
    would leave a light blue shirt pale in every colour.

    Args:
        square: RGBA.
        colour: a name of `OBJECT_COLOURS`.
    """
    pixels = np.asarray(square).astype(np.float64)
    rgb, alpha = pixels[..., :3], pixels[..., 3]
    brightest = rgb.max(-1)
    saturation = 1 - rgb.min(-1) / np.maximum(brightest, 1)
    is_coloured = (saturation > 0.15) & (alpha >= _OPAQUE)
    full = 0.6 * np.median(saturation[is_coloured])  # half the coloured parts are far above
    weight = np.clip(saturation / full, 0, 1)[..., None] ** 2
    light = rgb.mean(-1)
    ratio = (light / np.median(light[is_coloured]))[..., None]
    target = np.array(OBJECT_COLOURS[colour], dtype=np.float64)
    painted = np.where(ratio <= 1, target * ratio, target + (255 - target) * (ratio - 1) * 0.5)
    mixed = weight * painted.clip(0, 255) + (1 - weight) * light[..., None]
    return Image.fromarray(np.dstack([mixed, alpha]).round().astype(np.uint8))


def to_silhouette(square: Image.Image) -> np.ndarray:
    """Finds the opaque part of a bitmap, on the silhouettes' cells (64, 64)."""
    small = square.getchannel("A").resize((SIDE_CELLS, SIDE_CELLS), Image.Resampling.BOX)
    return np.asarray(small) >= _OPAQUE


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the silhouettes of a font.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: the command line is wrong, or there is no such font.
    """
    parser = argparse.ArgumentParser(
        prog="python -m weights.training.world.glyphs", description=__doc__
    )
    parser.add_argument("--font", type=Path, help=f"NotoColorEmoji.ttf; also {FONT_VARIABLE}")
    parser.add_argument("--out", type=Path, default=SHEET_FILE)
    parsed = parser.parse_args(arguments)
    with open_console() as console:
        glyphs = Glyphs(resolve_font(parsed.font))
        shapes = {kind.name: to_silhouette(glyphs.draw_square(kind.name)) for kind in KINDS}
        write_silhouettes(parsed.out, shapes)
        console.write_line(str(parsed.out))


if __name__ == "__main__":
    main()
