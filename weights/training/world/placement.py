"""A random generator becomes a scene: which objects stand where, and how much of each is seen."""

from dataclasses import dataclass

import numpy as np

from weights.training.world.colours import BACKGROUND_COLOURS, OBJECT_COLOURS, Rgb
from weights.training.world.kinds import KINDS, ObjectKind
from weights.training.world.scene import (
    STYLES,
    Background,
    Placement,
    Scene,
    SceneObject,
    cover_placement,
    find_box,
)
from weights.training.world.silhouettes import PICTURE_CELLS, estimate_area
from weights.training.world.splits import Split, is_allowed_pair

MAX_OBJECTS = 4
MAX_HIDDEN_SHARE = 0.3  # of an object, by others and by the picture's edge together
MIN_OVERLAP_SHARE = 0.1  # of an object that stands behind another
# Of an object that stands before another, no more lies upon that one: small things on large ones
# look like prints.
MAX_INSIDE_SHARE = 0.6
MAX_ROTATION_DEG = 20.0

_N_OBJECTS_SHARES = (0.28, 0.30, 0.22, 0.20)  # of scenes with one to four objects
_SIZES = ((0.32, 0.90), (0.28, 0.62), (0.25, 0.50), (0.23, 0.44))  # by the number of objects
_OVERLAP_CHANCE = 0.45  # that the second object of a scene stands before the first
_REPEAT_CHANCE = 0.3  # that an object is of the kind of the one before it
_SAME_TINT_CHANCE = 0.4  # that it also has its tint
_N_TRIES = 30
_SHRINK = 0.93  # of the size after a try that failed


@dataclass
class _Canvas:
    """The objects placed so far: the cells that each shows, and its whole area in cells."""

    shown: list[np.ndarray]
    areas: list[float]


def make_scene(generator: np.random.Generator, split: Split) -> Scene:
    """Makes up a scene.

    Every object shows 70 % of itself at least. The second object hides a tenth of the first or
    more, where it hides any of it, and is of another kind; no others overlap.

    Args:
        generator: from `make_generator`; the same state gives the same scene.
        split: only a test scene may hold a kind on a background that was kept for testing.
    """
    background = _make_background(generator)
    colour = background.colour
    allowed = [
        kind
        for kind in KINDS
        if colour not in kind.lost_on and is_allowed_pair(kind.name, colour, split)
    ]
    n_objects = int(generator.choice(MAX_OBJECTS, p=_N_OBJECTS_SHARES)) + 1
    canvas, placed = _Canvas([], []), list[Placement]()
    overlaps = generator.random() < _OVERLAP_CHANCE
    before: tuple[ObjectKind, str | None] | None = None
    for i in range(n_objects):
        chosen = _choose_kind(generator, allowed, colour, before)
        hides = overlaps and i == 1 and before is not None and chosen[0] != before[0]
        placement = _place(generator, chosen, n_objects, canvas, hides)
        if placement is not None:
            placed.append(placement)
            before = chosen
    boxes = [find_box(cells) for cells in canvas.shown]
    return Scene(
        split,
        background,
        tuple(
            SceneObject(each.kind, each.colour, each.centre, each.size, each.rotation_deg, box)
            for each, box in zip(placed, boxes, strict=True)
        ),
    )


def _make_background(generator: np.random.Generator) -> Background:
    colours = list(BACKGROUND_COLOURS)
    colour = colours[generator.integers(len(colours))]
    brightness = generator.uniform(0.94, 1.04)
    shift = generator.uniform(-5, 5, 3)
    channels = np.clip(np.array(BACKGROUND_COLOURS[colour]) * brightness + shift, 0, 255)
    red, green, blue = (round(float(channel)) for channel in channels)
    rgb: Rgb = (red, green, blue)
    return Background(
        colour=colour,
        rgb=rgb,
        style=STYLES[generator.integers(len(STYLES))],
        contrast=float(generator.uniform(0.06, 0.14)),
        angle_deg=float(generator.uniform(0, 360)),
        period=float(generator.uniform(0.08, 0.3)),
        seed=int(generator.integers(2**31)),
    )


def _choose_kind(
    generator: np.random.Generator,
    allowed: list[ObjectKind],
    background: str,
    before: tuple[ObjectKind, str | None] | None,
) -> tuple[ObjectKind, str | None]:
    """Chooses a kind and its tint, now and then those before; a tint is never the background's."""
    repeats = before is not None and generator.random() < _REPEAT_CHANCE
    if before is not None and repeats:
        kind = before[0]
        if generator.random() < _SAME_TINT_CHANCE:
            return before
    else:
        kind = allowed[generator.integers(len(allowed))]
    if not kind.is_tinted:
        return kind, None
    tints = [colour for colour in OBJECT_COLOURS if colour != background]
    return kind, tints[generator.integers(len(tints))]


def _place(
    generator: np.random.Generator,
    chosen: tuple[ObjectKind, str | None],
    n_objects: int,
    canvas: _Canvas,
    overlaps: bool,
) -> Placement | None:
    """Finds a place for one more object in front of those placed; None when there is none.

    Args:
        generator: of the scene.
        chosen: kind and tint.
        n_objects: in the whole scene, which decides the size.
        canvas: the objects placed so far; gains this one.
        overlaps: it is to hide a part of one that is placed; when that fails it stands free.
    """
    low, high = _SIZES[n_objects - 1]
    size = float(generator.uniform(low, high))
    for i in range(2 * _N_TRIES):
        if i == _N_TRIES:
            overlaps = False
        margin = size * 0.4  # so that the edge cuts off little
        centre = (
            float(generator.uniform(margin, 1 - margin)),
            float(generator.uniform(margin, 1 - margin)),
        )
        turn = float(generator.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG))
        placement = Placement(chosen[0].name, chosen[1], centre, size, turn)
        if _try_place(placement, canvas, overlaps):
            return placement
        size = max(size * _SHRINK, low)
    return None


def _try_place(placement: Placement, canvas: _Canvas, overlaps: bool) -> bool:
    """Adds an object to the canvas where everything stays visible enough."""
    cells = cover_placement(placement)
    area = estimate_area(placement.kind) * (placement.size * PICTURE_CELLS) ** 2
    if cells.sum() < (1 - MAX_HIDDEN_SHARE) * area:
        return False
    hidden = [int((shown & cells).sum()) for shown in canvas.shown]
    is_over_one = sum(n > 0 for n in hidden) == 1
    if overlaps != is_over_one or (not overlaps and any(hidden)):
        return False
    for shown, whole, n_hidden in zip(canvas.shown, canvas.areas, hidden, strict=True):
        is_slight = 0 < n_hidden < MIN_OVERLAP_SHARE * whole
        is_inside = n_hidden > MAX_INSIDE_SHARE * cells.sum()
        if is_slight or is_inside or shown.sum() - n_hidden < (1 - MAX_HIDDEN_SHARE) * whole:
            return False
    canvas.shown = [shown & ~cells for shown in canvas.shown]
    canvas.shown.append(cells)
    canvas.areas.append(area)
    return True
