"""A kind, a place, a size and a turn become the cells of a picture that the object covers.

The outlines come from `silhouettes.png`, one square of 64 x 64 cells a kind, which
`weights.training.world.glyphs` wrote: scenes and their boxes need no font. Against the alpha drawn
at 400 px the edges of boxes are off by 0.26 hundredths on average and by 1.5 at most (194 boxes).
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from weights.training.world.kinds import KINDS

SHEET_FILE = Path(__file__).with_name("silhouettes.png")
SIDE_CELLS = 64  # of one silhouette
PICTURE_CELLS = 100  # a side of a picture: one cell is one step of a box
_SHEET_COLUMNS = 8


@cache
def load_silhouettes() -> dict[str, np.ndarray]:
    """Reads the outline of each kind: (64, 64) booleans, true where the object is."""
    with Image.open(SHEET_FILE) as picture:
        sheet = np.asarray(picture.convert("1"))
    return {kind.name: sheet[_find_square(i)] for i, kind in enumerate(KINDS)}


def write_silhouettes(path: Path, shapes: Mapping[str, np.ndarray]) -> None:
    """Writes the outlines of all kinds on one sheet of one bit a cell."""
    n_rows = -(-len(KINDS) // _SHEET_COLUMNS)
    sheet = np.zeros((n_rows * SIDE_CELLS, _SHEET_COLUMNS * SIDE_CELLS), dtype=bool)
    for i, kind in enumerate(KINDS):
        sheet[_find_square(i)] = shapes[kind.name]
    Image.fromarray(sheet).save(path, optimize=True)


def _find_square(number: int) -> tuple[slice, slice]:
    row, column = divmod(number, _SHEET_COLUMNS)
    return (
        slice(row * SIDE_CELLS, (row + 1) * SIDE_CELLS),
        slice(column * SIDE_CELLS, (column + 1) * SIDE_CELLS),
    )


@cache
def estimate_area(kind: str) -> float:
    """Estimates the area of a kind of size 1, as a share of its square."""
    return float(load_silhouettes()[kind].mean())


def cover_cells(
    kind: str, centre: tuple[float, float], size: float, rotation_deg: float
) -> np.ndarray:
    """Finds the cells of a picture whose middle an object covers.

    Args:
        kind: name of a kind.
        centre: of the object's square, x to the right and y down, 0-1 of the picture.
        size: side of the square, as a share of the picture's.
        rotation_deg: clockwise.

    Returns:
        (100, 100) booleans, rows from the top.
    """
    covered = np.zeros((PICTURE_CELLS, PICTURE_CELLS), dtype=bool)
    reach = size * 0.7072  # of a square, however it is turned
    columns, rows = (
        slice(
            max(int((middle - reach) * PICTURE_CELLS), 0),
            min(max(int((middle + reach) * PICTURE_CELLS) + 1, 0), PICTURE_CELLS),
        )
        for middle in centre
    )
    x = (np.arange(columns.start, columns.stop) + 0.5) / PICTURE_CELLS - centre[0]
    y = (np.arange(rows.start, rows.stop)[:, None] + 0.5) / PICTURE_CELLS - centre[1]
    angle = np.deg2rad(rotation_deg)
    step = SIDE_CELLS / size
    across = np.floor((x * np.cos(angle) + y * np.sin(angle)) * step).astype(int) + SIDE_CELLS // 2
    down = np.floor((y * np.cos(angle) - x * np.sin(angle)) * step).astype(int) + SIDE_CELLS // 2
    is_inside = (across >= 0) & (across < SIDE_CELLS) & (down >= 0) & (down < SIDE_CELLS)
    last = SIDE_CELLS - 1
    shape = load_silhouettes()[kind]
    covered[rows, columns] = is_inside & shape[down.clip(0, last), across.clip(0, last)]
    return covered
