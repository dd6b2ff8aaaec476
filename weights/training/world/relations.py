"""Objects of a scene become facts between them that leave no doubt.

A relation holds (True), does not (False), or is too close to tell (None): then it is not asked.
"""

from typing import Literal, get_args

from weights.training.world.scene import NOTHING, Scene, SceneObject, cover_placement, map_objects

Relation = Literal["left", "right", "above", "below", "larger", "smaller"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)
OPPOSITES: dict[Relation, Relation] = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
    "larger": "smaller",
    "smaller": "larger",
}

MIN_DISTANCE = 0.15  # between the middles of the visible boxes, along the axis in question
MIN_STEEPNESS = 0.6  # "left of" asks for this much sideways for each step up or down
MIN_SIZE_RATIO = 1.3  # of the squares that objects are drawn in
MIN_AREA_RATIO = 1.5  # of the visible boxes, which a turn or an edge changes


def is_more(one: SceneObject, other: SceneObject, relation: Relation) -> bool | None:
    """Compares two objects along one axis or in size.

    Returns:
        Whether `one` is further left, higher, larger, …; None where it is too close to tell.
    """
    if relation in ("larger", "smaller"):
        # Both the drawn size and the visible box must say so.
        sizes, areas = one.size / other.size, _measure_box(one) / _measure_box(other)
        if sizes >= MIN_SIZE_RATIO and areas >= MIN_AREA_RATIO:
            return relation == "larger"
        if sizes <= 1 / MIN_SIZE_RATIO and areas <= 1 / MIN_AREA_RATIO:
            return relation == "smaller"
        return None
    axis = 0 if relation in ("left", "right") else 1
    distance = other.middle[axis] - one.middle[axis]
    if abs(distance) < MIN_DISTANCE:
        return None
    return (distance > 0) == (relation in ("left", "above"))


def is_related(one: SceneObject, other: SceneObject, relation: Relation) -> bool | None:
    """Compares two objects as "is one left of, above, larger than … the other" does.

    As `is_more`, but "left of" is also doubtful between objects that are rather above each other.
    """
    if relation in ("larger", "smaller"):
        return is_more(one, other, relation)
    axis = 0 if relation in ("left", "right") else 1
    along = abs(other.middle[axis] - one.middle[axis])
    aside = abs(other.middle[1 - axis] - one.middle[1 - axis])
    return is_more(one, other, relation) if along >= MIN_STEEPNESS * aside else None


def _measure_box(each: SceneObject) -> float:
    left, top, right, bottom = each.box
    return (right - left) * (bottom - top)


def find_extreme(objects: list[SceneObject], relation: Relation) -> SceneObject | None:
    """Finds the one object that is further left, larger, … than every other of two or more."""
    if len(objects) < 2:
        return None
    for one in objects:
        if all(is_more(one, other, relation) for other in objects if other is not one):
            return one
    return None


def find_related(scene: Scene, anchor: SceneObject, relation: Relation) -> SceneObject | None:
    """Finds the one object that is left of, above, … an anchor, where no other is in doubt."""
    others = [each for each in scene.objects if each is not anchor]
    said = [
        (is_related(each, anchor, relation), is_more(each, anchor, relation), each)
        for each in others
    ]
    related = [each for is_so, _, each in said if is_so]
    doubtful = [each for is_so, is_further, each in said if not is_so and is_further is not False]
    return related[0] if len(related) == 1 and not doubtful else None


def find_overlaps(scene: Scene) -> list[tuple[SceneObject, SceneObject]]:
    """Finds pairs (behind, in front) of which the second hides a part of the first.

    By construction (`placement.py`) that part is a tenth of the first or more.
    """
    shown = map_objects(scene)
    pairs = []
    for i, back in enumerate(scene.objects):
        hiding = shown[cover_placement(back)]
        pairs += [
            (back, front)
            for j, front in enumerate(scene.objects)
            if j not in (i, NOTHING) and (hiding == j).any()
        ]
    return pairs
