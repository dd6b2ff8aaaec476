"""Questions and answers of scenes are read as text again, by other code than wrote them."""

import re
from collections import defaultdict
from functools import cache

from weights.training.scenes import make_example
from weights.training.world.colours import OBJECT_COLOURS
from weights.training.world.kinds import KINDS
from weights.training.world.scene import Background, Scene, SceneObject
from weights.training.world.splits import SPLITS

N_SCENES = 1500
NUMBERS = {"zero": 0, "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
BOX = re.compile(r"\{<(\d+)><(\d+)><(\d+)><(\d+)>\}")

# Every way to name objects: text → (kind, tint or None for any, is it a plural).
NAMES = {}
for _kind in KINDS:
    for _tint in (None, *(OBJECT_COLOURS if _kind.is_tinted else ())):
        _before = f"{_tint} " if _tint else ""
        NAMES[f"{_before}{_kind.plural}"] = (_kind.name, _tint)
        NAMES[f"{_before}{_kind.name}"] = (_kind.name, _tint)
NAME = "(?:" + "|".join(sorted(NAMES, key=len, reverse=True)) + ")"


@cache
def make_examples():
    """Scenes of each split with their questions."""
    return {split: [make_example(split, 0, i) for i in range(N_SCENES)] for split in SPLITS}


@cache
def make_asked():
    """(scene, question) of each task, of all splits."""
    found = defaultdict(list)
    for split in SPLITS:
        for scene, questions in make_examples()[split]:
            for each in questions:
                found[each.task].append((scene, each))
    return found


def split_tag(question):
    found = re.match(r"\[(\w+)\] ", question)
    tag = found[1] if found else ""
    return tag, question[len(found[0]) :] if found else question


def to_plain(question):
    """The question without its tag, in lower case."""
    return split_tag(question)[1].lower().rstrip("?.")


def find_names(text):
    return re.findall(rf"\b{NAME}\b", text)


def is_called(each, name):
    kind, tint = NAMES[name]
    return each.kind == kind and tint in (None, each.colour)


def find_called(scene, name):
    return [each for each in scene.objects if is_called(each, name)]


def read_boxes(text):
    return [tuple(map(int, edges)) for edges in BOX.findall(text)]


def strip_article(answer):
    return re.sub(r"^(an|a|the) ", "", answer)


def put(kind, colour=None, box=(10, 10, 40, 40)):
    return SceneObject(kind, colour, (0.25, 0.25), 0.3, 0.0, box)


def make_scene_of(*objects):
    return Scene("train", Background("green", (78, 158, 82), "plain", 0.1, 0.0, 0.1, 0), objects)


def to_box(box):
    return "{{<{}><{}><{}><{}>}}".format(*box)
