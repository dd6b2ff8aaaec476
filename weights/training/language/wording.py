"""Objects and boxes become the text of an answer.

Source: TinyGPT-V's task forms: boxes `{<x1><y1><x2><y2>}` in hundredths, `<delim>` between several,
`<p>phrase</p>` before the boxes of a phrase.
"""

from collections.abc import Iterable, Sequence

from weights.training.world.kinds import KIND_OF_NAME
from weights.training.world.scene import PercentBox, Scene, SceneObject

DELIMITER = "<delim>"
NUMBER_WORDS = ("zero", "one", "two", "three", "four")


def to_box_text(box: PercentBox) -> str:
    """Writes one box: `{<12><5><60><88>}`."""
    return "{" + "".join(f"<{edge}>" for edge in box) + "}"


def to_boxes_text(objects: Iterable[SceneObject]) -> str:
    """Writes the boxes of several objects, from left to right."""
    return DELIMITER.join(to_box_text(box) for box in sorted(each.box_percent for each in objects))


def add_article(name: str) -> str:
    """Puts the article before a name: `a red car`, `an apple`."""
    kind = KIND_OF_NAME.get(name)
    return f"{kind.article if kind else 'a'} {name}"


def make_plural(name: str) -> str:
    """Puts a name, whose last word is a kind, into the plural: `red cars`, `fish`."""
    *before, last = name.split(" ")
    return " ".join([*before, KIND_OF_NAME[last].plural])


def count_in_words(name: str, number: int) -> str:
    """Writes a number, 1-4, of objects: `a cat`, `two red cars`."""
    return add_article(name) if number == 1 else f"{NUMBER_WORDS[number]} {make_plural(name)}"


def join_phrases(phrases: Sequence[str]) -> str:
    """Joins phrases as a sentence does: `a cat, a dog and a car`."""
    *before, last = phrases
    return f"{', '.join(before)} and {last}" if before else last


def group_objects(scene: Scene) -> list[list[SceneObject]]:
    """Groups objects by kind and tint, from left to right."""
    groups: dict[str, list[SceneObject]] = {}
    for each in sorted(scene.objects, key=lambda each: each.box_percent):
        groups.setdefault(each.name, []).append(each)
    return list(groups.values())


def make_caption(scene: Scene) -> str:
    """Writes a caption: every object with its number, and the background.

    `two cats and a red car on a green background`: the group whose leftmost box begins furthest
    left comes first.
    """
    phrases = [count_in_words(group[0].name, len(group)) for group in group_objects(scene)]
    return f"{join_phrases(phrases)} on a {scene.background.colour} background"


def make_grounded_caption(scene: Scene) -> str:
    """Writes the caption with each group's boxes: `<p>two dogs</p> {…}<delim>{…} on a …`."""
    phrases = [
        f"<p>{count_in_words(group[0].name, len(group))}</p> {to_boxes_text(group)}"
        for group in group_objects(scene)
    ]
    return f"{join_phrases(phrases)} on a {scene.background.colour} background"
