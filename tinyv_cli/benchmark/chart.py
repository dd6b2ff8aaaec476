"""Rates by length and by depth become a picture of two panels; measures nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tinyv_cli.disk.paths import is_file, is_folder
from tinyv_cli.disk.whole_file import open_whole
from tinyv_cli.disk.writing import check_place
from tinyv_cli.errors import DeviceError, UsageError, describe_os_error

_PANEL_PX = (420, 320)
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 50, 24, 50  # margins of a panel, in pixels
_DOT_PX = 4
_INK, _GRID, _LINE, _SPREAD = "#303030", "#d8d8d8", "#1f4e79", "#9db4c8"
_N_GRID = 4
_WHOLE_FROM = 40  # tokens a second that need no digits after the point


def check_chart(path: Path, *, replaces: bool = False) -> None:
    """Checks that a chart can be written there, before anything is measured.

    Args:
        path: where the chart goes.
        replaces: whether a file that is there may go.

    Raises:
        UsageError: another kind of file than PNG, there is no such folder, or there is such a file.
        DeviceError: the place may not be looked at, or is a folder.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} is not called after a PNG", "use `--chart FILE.png`")
    if not is_folder(path.parent):
        raise UsageError(f"there is no folder {path.parent}", "make it, or name another place")
    if not replaces and is_file(path):
        raise UsageError(f"{path} is there already", "name another file, or replace it: `--force`")
    check_place(path, "use `--chart` elsewhere")


def draw_chart(details: Mapping[str, Any], title: str) -> Image.Image:
    """Draws decoding by depth and prompts by length: a line of medians, bars from min to max.

    Args:
        details: `decode_tok_s` and `prefill_tok_s` of a document's `details`.
        title: stands above both.

    Returns:
        A picture of mode RGB.
    """
    width, height = _PANEL_PX
    chart = Image.new("RGB", (2 * width, height + _TOP // 2), "white")
    draw = ImageDraw.Draw(chart)
    draw.text((_LEFT, 8), title, _INK, _load_font(15))
    panels = (
        ("decoding, tokens/s by tokens cached", details["decode_tok_s"]),
        ("prompt, tokens/s by its length", details["prefill_tok_s"]),
    )
    for i, (label, figures) in enumerate(panels):
        _draw_panel(draw, (i * width, _TOP // 2), label, figures)
    return chart


def write_chart(chart: Image.Image, path: Path) -> None:
    """Writes a PNG, whole or not at all.

    Raises:
        DeviceError: it cannot be written there.
    """
    try:
        with open_whole(path) as file:
            chart.save(file, "PNG")
    except OSError as error:
        problem = f"cannot write {path}: {describe_os_error(error)}"
        raise DeviceError(problem, "use `--chart` elsewhere") from error


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    label: str,
    figures: Mapping[str, Mapping[str, float]],
) -> None:
    """Draws one panel whose upper left corner is given; both axes begin at 0."""
    font = _load_font(12)
    left, top = corner[0] + _LEFT, corner[1] + _TOP
    right, bottom = corner[0] + _PANEL_PX[0] - _RIGHT, corner[1] + _PANEL_PX[1] - _BOTTOM
    longest = max(int(key) for key in figures)
    highest = max(each["max"] for each in figures.values())
    n_digits = 0 if highest >= _WHOLE_FROM else 1

    def to_x(key: str) -> float:
        return left + (right - left) * int(key) / max(1, longest)

    def to_y(rate: float) -> float:
        return bottom - (bottom - top) * rate / highest

    draw.text((left, top - 26), label, _INK, font)
    for i in range(_N_GRID + 1):
        rate = highest * i / _N_GRID
        draw.line((left, to_y(rate), right, to_y(rate)), _GRID)
        draw.text((left - 8, to_y(rate)), f"{rate:.{n_digits}f}", _INK, font, anchor="rm")
    for key, each in figures.items():
        draw.line((to_x(key), to_y(each["min"]), to_x(key), to_y(each["max"])), _SPREAD, 5)
        draw.text((to_x(key), bottom + 8), key, _INK, font, anchor="mt")
    points = [(to_x(key), to_y(each["median"])) for key, each in figures.items()]
    draw.line(points, _LINE, 2)
    for x, y in points:
        draw.ellipse((x - _DOT_PX, y - _DOT_PX, x + _DOT_PX, y + _DOT_PX), _LINE)


def _load_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Loads the font that comes with Pillow."""
    return ImageFont.load_default(size_px)
