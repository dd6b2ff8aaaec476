"""A scene becomes one question and answer of each task that it can answer without doubt.

Answers to `[vqa]` are bare ("cat", "red", "two", "yes"), without a tag they have an article where
one fits ("a cat", "the cat"). Boxes and captions have the forms of `wording.py`.
"""

from collections.abc import Callable

import numpy as np

from weights.training.language.asking import Asker, SceneQuestion
from weights.training.language.phrasings import COMPARATIVES, SUPERLATIVES
from weights.training.language.phrasings import RELATIONS as RELATION_WORDS
from weights.training.language.wording import (
    NUMBER_WORDS,
    add_article,
    make_caption,
    make_grounded_caption,
    make_plural,
    to_box_text,
    to_boxes_text,
)
from weights.training.world.colours import OBJECT_COLOURS
from weights.training.world.kinds import KIND_OF_NAME, KINDS
from weights.training.world.relations import (
    OPPOSITES,
    RELATIONS,
    find_extreme,
    find_overlaps,
    find_related,
    is_more,
    is_related,
)
from weights.training.world.scene import PercentBox, Scene, SceneObject

MAX_SHARED_BOX = 0.5  # of two boxes' union: beyond, a box does not say which object is meant
# Weight of asking for zero, one, … objects: small numbers are true of more scenes.
_COUNT_WEIGHTS = (0.35, 0.3, 0.9, 2.5, 5.0)
_PRESENT_CHANCE = 0.5  # of asking for an object that is there
_COLOUR_OF_OBJECT_CHANCE = 0.7
_CAPTION_TAG_CHANCE = 0.75
_ALL_OBJECTS = ("objects", "things")
_SIZES = ("larger", "smaller")


def make_questions(scene: Scene, generator: np.random.Generator) -> list[SceneQuestion]:
    """Asks a scene one question of each task; tasks that it cannot answer are left out.

    Args:
        scene: to be asked about; its split decides which phrasings are used.
        generator: of the questions; the same state gives the same ones.

    Returns:
        5-10 questions in the order of tasks.
    """
    asker = Asker(scene, generator)
    asked = [ask(asker) for ask in _ASKERS]
    return [question for question in asked if question is not None]


def ask_what(asker: Asker) -> SceneQuestion | None:
    """Asks what a single object is, what several of one kind are, or what is beside another."""
    objects = asker.objects
    kinds = {each.kind for each in objects}
    if len(objects) == 1:
        only = objects[0]
        return asker.ask_short("what", "what", only.kind, add_article(only.kind))
    if len(kinds) == 1:
        plural = objects[0].plural
        return asker.ask_short("what", "what several", plural, plural)
    if len(objects) > 2:
        return None
    known, other = asker.shuffle(objects)
    reference = asker.refer_to(known)
    if reference is None:
        return None
    answer = add_article(other.kind)
    return asker.ask_short("what", "what else", other.kind, answer, a=reference)


def ask_colour(asker: Asker) -> SceneQuestion:
    """Asks for the colour of a tinted object, of several that share it, or of the background."""
    tinted = [each for each in asker.objects if each.colour is not None]
    if tinted and asker.flip(_COLOUR_OF_OBJECT_CHANCE):
        one = asker.choose(tinted)
        colour = str(one.colour)
        same = [each for each in asker.objects if each.kind == one.kind]
        if len(same) == 1:
            return asker.ask_short("colour", "colour of object", colour, colour, a=one.kind)
        if len({each.colour for each in same}) == 1:
            things = one.plural
            return asker.ask_short("colour", "colour of objects", colour, colour, things=things)
    colour = asker.scene.background.colour
    return asker.ask_short("colour", "colour of background", colour, colour)


def ask_count(asker: Asker) -> SceneQuestion:
    """Asks how many there are of a kind, of a kind and tint, or of all objects; zero to four."""
    counted: dict[str, int] = {}
    for each in asker.objects:
        for name in dict.fromkeys(
            (each.kind, each.name)
        ):  # a set has an order of its own a process
            counted[make_plural(name)] = counted.get(make_plural(name), 0) + 1
    absent = make_plural(_choose_absent(asker))
    counted |= {absent: 0, asker.choose(_ALL_OBJECTS): len(asker.objects)}
    weights = np.array([_COUNT_WEIGHTS[number] for number in counted.values()])
    weights /= [list(counted.values()).count(number) for number in counted.values()]
    chosen = asker.generator.choice(len(counted), p=weights / weights.sum())
    things, number = list(counted.items())[int(chosen)]
    answer = NUMBER_WORDS[number]
    return asker.ask_short("count", "count", answer, answer, things=things)


def ask_exists(asker: Asker) -> SceneQuestion:
    """Asks whether a kind, or a kind in a colour, is there; half of the answers are yes."""
    if asker.flip(_PRESENT_CHANCE):
        each = asker.choose(asker.objects)
        name, answer = asker.choose([each.kind, each.name]), "yes"
    else:
        name, answer = _choose_absent(asker), "no"
    return ask_whether(asker, name, answer)


def ask_whether(asker: Asker, name: str, answer: str) -> SceneQuestion:
    """Asks whether there is an object of a name, whose answer is given."""
    thing, things = add_article(name), make_plural(name)
    return asker.ask_short("exists", "exists", answer, answer, thing=thing, things=things)


def _choose_absent(asker: Asker) -> str:
    """Chooses a kind that is not there, or one that is, in a colour that it does not have."""
    tinted = [each for each in asker.objects if each.colour is not None]
    names = {each.name for each in asker.objects}
    if tinted and asker.flip():
        kind = asker.choose(tinted).kind
        return asker.choose([n for c in OBJECT_COLOURS if (n := f"{c} {kind}") not in names])
    kinds = {each.kind for each in asker.objects}
    kind = asker.choose([kind.name for kind in KINDS if kind.name not in kinds])
    if KIND_OF_NAME[kind].is_tinted and asker.flip():
        return f"{asker.choose(list(OBJECT_COLOURS))} {kind}"
    return kind


def ask_relation(asker: Asker) -> SceneQuestion | None:
    """Asks how objects stand to each other, in one of five forms."""
    if len(asker.objects) < 2:
        return None
    overlap = [_ask_overlap] if asker.flip() else []
    forms = [_ask_which, _ask_which_of_all, _ask_is_related, _ask_what_is_related]
    for form in overlap + asker.shuffle(forms):
        question = form(asker)
        if question is not None:
            return question
    return None


def _choose_pair(asker: Asker) -> tuple[SceneObject, SceneObject, str, str] | None:
    """Chooses two objects and words for each."""
    one, other = asker.shuffle(asker.objects)[:2]
    name, other_name = asker.refer_to(one), asker.refer_to(other)
    return (one, other, name, other_name) if name and other_name else None


def _ask_which(asker: Asker) -> SceneQuestion | None:
    """Asks which of two is further left, larger and so on."""
    pair = _choose_pair(asker)
    if pair is None:
        return None
    one, other, a, b = pair
    for relation in asker.shuffle(RELATIONS):
        is_first = is_more(one, other, relation)
        if is_first is not None:
            more = asker.choose(COMPARATIVES[relation])
            name = a if is_first else b
            return asker.ask_short("relation", "which", name, f"the {name}", a=a, b=b, more=more)
    return None


def _ask_which_of_all(asker: Asker) -> SceneQuestion | None:
    """Asks which of three or four is furthest left, the largest and so on."""
    if len(asker.objects) < 3:
        return None
    relation = asker.choose(RELATIONS)
    extreme = find_extreme(asker.objects, relation)
    if extreme is None:
        return None
    most, kind = asker.choose(SUPERLATIVES[relation]), extreme.kind
    return asker.ask_short("relation", "which of all", kind, add_article(kind), most=most)


def _ask_is_related(asker: Asker) -> SceneQuestion | None:
    """Asks whether one is left of, larger than … another; half of the answers are yes."""
    pair = _choose_pair(asker)
    if pair is None:
        return None
    one, other, a, b = pair
    for relation in asker.shuffle(RELATIONS):
        is_so = is_related(one, other, relation)
        if is_so is not None:
            if is_so != asker.flip():
                relation, is_so = OPPOSITES[relation], not is_so
            return _ask_yes_or_no(asker, a, b, relation, is_so)
    return None


def _ask_yes_or_no(asker: Asker, a: str, b: str, relation: str, is_so: bool) -> SceneQuestion:
    words, answer = asker.choose(RELATION_WORDS[relation]), "yes" if is_so else "no"
    return asker.ask_short("relation", "is related", answer, answer, a=a, b=b, relation=words)


def _ask_what_is_related(asker: Asker) -> SceneQuestion | None:
    """Asks what is left of, above, … an object, where only one is."""
    anchor = asker.choose(asker.objects)
    reference = asker.refer_to(anchor)
    if reference is None:
        return None
    for relation in asker.shuffle([each for each in RELATIONS if each not in _SIZES]):
        found = find_related(asker.scene, anchor, relation)
        if found is not None:
            return _ask_what(asker, reference, relation, found.kind)
    return None


def _ask_what(asker: Asker, reference: str, relation: str, kind: str) -> SceneQuestion:
    words, answer = asker.choose(RELATION_WORDS[relation]), add_article(kind)
    return asker.ask_short("relation", "what is related", kind, answer, a=reference, relation=words)


def _ask_overlap(asker: Asker) -> SceneQuestion | None:
    """Asks what is behind or in front of an object, or whether another is, where two overlap."""
    overlaps = find_overlaps(asker.scene)
    if not overlaps:
        return None
    back, front = overlaps[0]
    back_name, front_name = asker.refer_to(back), asker.refer_to(front)
    if back_name is None or front_name is None:
        return None
    relation = asker.choose(("behind", "in front"))
    is_behind = relation == "behind"
    if asker.flip(0.6):
        anchor, kind = (front_name, back.kind) if is_behind else (back_name, front.kind)
        return _ask_what(asker, anchor, relation, kind)
    is_so = asker.flip()
    a, b = (back_name, front_name) if is_behind == is_so else (front_name, back_name)
    return _ask_yes_or_no(asker, a, b, relation, is_so)


def ask_caption(asker: Asker) -> SceneQuestion:
    """Asks for a description of everything in one fixed form."""
    tag = "caption" if asker.flip(_CAPTION_TAG_CHANCE) else ""
    return asker.ask("caption", "caption", make_caption(asker.scene), tag, {})


def ask_refer(asker: Asker) -> SceneQuestion | None:
    """Asks where an object is that words single out."""
    for target in asker.shuffle(asker.objects):
        reference = asker.refer_to(target, with_position=True)
        if reference is not None:
            box = to_box_text(target.box_percent)
            return asker.ask("refer", "refer", box, "refer", {"a": reference})
    return None


def ask_identify(asker: Asker) -> SceneQuestion | None:
    """Asks for the object in a box that fits no other."""
    alone = [
        each
        for each in asker.objects
        if all(
            share_box(each.box_percent, other.box_percent) <= MAX_SHARED_BOX
            for other in asker.objects
            if other is not each
        )
    ]
    if not alone:
        return None
    target = asker.choose(alone)
    box, answer = to_box_text(target.box_percent), add_article(target.name)
    return asker.ask("identify", "identify", answer, "identify", {"box": box})


def share_box(one: PercentBox, other: PercentBox) -> float:
    """Computes the intersection over union of two boxes, 0-1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared)


def ask_detection(asker: Asker) -> SceneQuestion:
    """Asks where all objects of a kind, or of a kind and tint, are."""
    each = asker.choose(asker.objects)
    name = asker.choose([each.kind, each.name])
    found = [other for other in asker.objects if name in (other.kind, other.name)]
    answer = f"<p>{name}</p> {to_boxes_text(found)}"
    values = {"a": name, "things": make_plural(name)}
    return asker.ask("detection", "detection", answer, "detection", values)


def ask_grounding(asker: Asker) -> SceneQuestion:
    """Asks for the description with boxes."""
    answer = make_grounded_caption(asker.scene)
    return asker.ask("grounding", "grounding", answer, "grounding", {})


_ASKERS: tuple[Callable[[Asker], SceneQuestion | None], ...] = (
    ask_what,
    ask_colour,
    ask_count,
    ask_exists,
    ask_relation,
    ask_caption,
    ask_refer,
    ask_identify,
    ask_detection,
    ask_grounding,
)
