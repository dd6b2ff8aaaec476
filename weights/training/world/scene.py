"""Describes a picture in numbers, before it is drawn: background, objects, visible boxes.

All lengths are shares of the picture's side, x to the right and y down; pictures are square.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from weights.training.world.colours import Rgb
from weights.training.world.kinds import KIND_OF_NAME
from weights.training.world.silhouettes import PICTURE_CELLS, cover_cells
from weights.training.world.splits import Split

Style = Literal["plain", "shaded", "striped", "checked", "dotted", "noisy"]
STYLES: tuple[Style, ...] = ("plain", "shaded", "striped", "checked", "dotted", "noisy")
PercentBox = tuple[int, int, int, int]
NOTHING = -1  # in place of an object's number, where no object is

_MIN_PATCH_SHARE = 1 / 3


@dataclass(frozen=True)
class Background:
    """The ground behind all objects.

    Attributes:
        colour: its name.
        rgb: the name's colour, a little off.
        style: how it is filled.
        contrast: of the second shade to the first, as a share of brightness.
        angle_deg: direction of shading and stripes.
        period: of stripes, checks and dots.
        seed: of the noise.
    """

    colour: str
    rgb: Rgb
    style: Style
    contrast: float
    angle_deg: float
    period: float
    seed: int


@dataclass(frozen=True)
class Placement:
    """An object without regard to others that hide it.

    Attributes:
        kind: name of a kind.
        colour: name of a tint; None where the kind has colours of its own.
        centre: x and y of its square.
        size: side of its square, which is the longer side of the unturned object.
        rotation_deg: clockwise.
    """

    kind: str
    colour: str | None
    centre: tuple[float, float]
    size: float
    rotation_deg: float

    @property
    def name(self) -> str:
        """Returns tint and kind: `red car`, `cat`."""
        return self.kind if self.colour is None else f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class SceneObject(Placement):
    """An object as it is seen.

    Attributes:
        box_percent: left, top, right and bottom of its visible part, in whole hundredths of the
            picture: cut off at the edge, and without what another object hides.
    """

    box_percent: PercentBox

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom of the visible part, 0-1."""
        left, top, right, bottom = self.box_percent
        return left / 100, top / 100, right / 100, bottom / 100

    @property
    def middle(self) -> tuple[float, float]:
        """Returns the middle of the visible box, 0-1."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def plural(self) -> str:
        """Returns the name of several of its kind."""
        return KIND_OF_NAME[self.kind].plural


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn.

    Attributes:
        split: decides which pairs and phrasings it may have.
        background: behind everything.
        objects: from the back to the front.
    """

    split: Split
    background: Background
    objects: tuple[SceneObject, ...]


def cover_placement(placement: Placement) -> np.ndarray:
    """Finds the cells (100, 100) of the picture that an object covers, hidden or not."""
    return cover_cells(placement.kind, placement.centre, placement.size, placement.rotation_deg)


def find_box(cells: np.ndarray) -> PercentBox:
    """Finds the smallest box around true cells (100, 100), of which there is one at least."""
    columns, rows = np.flatnonzero(cells.any(0)), np.flatnonzero(cells.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def map_objects(scene: Scene) -> np.ndarray:
    """Finds the object that each cell of the picture shows.

    Returns:
        (100, 100) numbers of objects in the scene's order, `NOTHING` where the background is.
    """
    shown = np.full((PICTURE_CELLS, PICTURE_CELLS), NOTHING)
    for i, each in enumerate(scene.objects):
        shown[cover_placement(each)] = i
    return shown


def label_patches(scene: Scene, grid: int) -> np.ndarray:
    """Finds the object that each patch of the picture shows: labels for a vision tower.

    Args:
        scene: shown by the picture.
        grid: patches a side, 1-100.

    Returns:
        (grid, grid) numbers of objects, rows from the top: the object with the largest visible
        part of a patch where that is a third of the patch or more, else `NOTHING`.
    """
    shown = map_objects(scene)
    patches = ((np.arange(PICTURE_CELLS) + 0.5) * grid / PICTURE_CELLS).astype(int)
    edges = np.searchsorted(patches, np.arange(grid))
    shares = np.stack(
        [
            np.add.reduceat(np.add.reduceat((shown == i).astype(float), edges, 0), edges, 1)
            for i in range(len(scene.objects))
        ]
    )
    n_cells = np.bincount(patches, minlength=grid)
    shares /= n_cells[:, None] * n_cells
    labels: np.ndarray = np.where(shares.max(0) >= _MIN_PATCH_SHARE, shares.argmax(0), NOTHING)
    return labels
