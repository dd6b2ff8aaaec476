"""A scene becomes the 32 words that query tokens learn to stand for.

The language model learns to read the same words as text. A query token and a text token then mean
the same, and two linear projections can turn one into the other.

A scene has 2 + 5 × 6 slots: the background's colour, the kind of the object that hides a part of
another, then five groups of kind, tint and the four edges of a box in hundredths. A group that no
object takes holds "nothing" six times. Objects take groups from left to right, mostly.
"""

from collections.abc import Sequence

import numpy as np

from weights.training.world.colours import BACKGROUND_COLOURS, OBJECT_COLOURS
from weights.training.world.kinds import KINDS
from weights.training.world.relations import find_overlaps
from weights.training.world.scene import Scene, SceneObject

N_GROUPS = 5
GROUP_SIZE = 6
N_SLOTS = 2 + N_GROUPS * GROUP_SIZE

_N_NUMBERS = 101
_NOTHING, _UNTINTED = "nothing", "plain"
WORDS: tuple[str, ...] = (
    *map(str, range(_N_NUMBERS)),
    *(kind.name for kind in KINDS),
    *dict.fromkeys((*BACKGROUND_COLOURS, *OBJECT_COLOURS)),
    _UNTINTED,
    _NOTHING,
)
NUMBERS = slice(0, _N_NUMBERS)  # of WORDS; the number itself is the place
WORD_PLACES = {word: i for i, word in enumerate(WORDS)}
NOTHING_PLACE = WORD_PLACES[_NOTHING]


def list_object_places(each: SceneObject) -> list[int]:
    """Lists the places in `WORDS` of an object's six words."""
    return [WORD_PLACES[each.kind], WORD_PLACES[each.colour or _UNTINTED], *each.box_percent]


def list_scene_places(scene: Scene) -> tuple[int, int]:
    """Lists the places in `WORDS` of the scene's own two words: background and front object."""
    overlaps = find_overlaps(scene)
    front = WORD_PLACES[overlaps[0][1].kind] if overlaps else NOTHING_PLACE
    return WORD_PLACES[scene.background.colour], front


def order_objects(scene: Scene) -> list[int]:
    """Returns each object's place from left to right, as captions name them."""
    boxes = sorted(each.box_percent for each in scene.objects)
    return [boxes.index(each.box_percent) for each in scene.objects]


def fill_slots(scene: Scene, groups: Sequence[int]) -> np.ndarray:
    """Fills all slots of a scene.

    Args:
        scene: up to five objects.
        groups: the group that each object takes, no group twice.

    Returns:
        (32,) places in `WORDS`.
    """
    slots = np.full(N_SLOTS, NOTHING_PLACE)
    slots[:2] = list_scene_places(scene)
    for group, each in zip(groups, scene.objects, strict=True):
        start = 2 + group * GROUP_SIZE
        slots[start : start + GROUP_SIZE] = list_object_places(each)
    return slots
