import re
from collections import Counter

import numpy as np

from tests.light.training.question_reader import (
    find_called,
    find_names,
    is_called,
    strip_article,
    to_box,
    to_plain,
)
from weights.training.language.phrasings import (
    COMPARATIVES,
    POSITIONS_OF_MORE,
    POSITIONS_OF_TWO,
    RELATIONS,
    SUPERLATIVES,
)
from weights.training.world.scene import cover_placement


def middle(each):
    left, top, right, bottom = each.box_percent
    return (left + right) / 2, (top + bottom) / 2


def area(each):
    left, top, right, bottom = each.box_percent
    return (right - left) * (bottom - top)


# How far the first is ahead of the second; more than the margin is beyond doubt.
LEADS = {
    "left": (lambda a, b: middle(b)[0] - middle(a)[0], 14.9),
    "right": (lambda a, b: middle(a)[0] - middle(b)[0], 14.9),
    "above": (lambda a, b: middle(b)[1] - middle(a)[1], 14.9),
    "below": (lambda a, b: middle(a)[1] - middle(b)[1], 14.9),
    "larger": (lambda a, b: np.log(area(a) / area(b)), np.log(1.49)),
    "smaller": (lambda a, b: np.log(area(b) / area(a)), np.log(1.49)),
}


def leads(one, other, relation):
    """True or False beyond doubt, else None."""
    lead, margin = LEADS[relation]
    ahead = lead(one, other)
    return None if abs(ahead) < margin else bool(ahead > 0)


def find_words(text, table):
    """The relations whose words a text holds, and where they begin."""
    words = [(word, relation) for relation, each in table.items() for word in each]
    words.sort(key=lambda each: -len(each[0]))
    for word, relation in words:
        found = re.search(rf"\b{re.escape(word)}\b", text)
        if found:
            return relation, found.start()
    return None, None


def test_refer_gives_the_box_of_the_one_object_that_the_words_fit(asked):
    n_placed = 0
    for scene, each in asked["refer"]:
        text = to_plain(each.question)
        (name,) = find_names(text)
        called = find_called(scene, name)
        (target,) = [item for item in called if to_box(item.box_percent) == each.answer]
        if len(called) > 1:
            n_placed += 1
            table = POSITIONS_OF_TWO if len(called) == 2 else POSITIONS_OF_MORE
            table = {
                relation: [words.format(name=name) for words in table[relation]]
                for relation in table
            }
            relation, _ = find_words(text, table)
            assert all(leads(target, other, relation) for other in called if other is not target)
    assert n_placed > 0.05 * len(asked["refer"])


def is_behind(back, front, scene):
    order = list(scene.objects)
    covers = (cover_placement(back) & cover_placement(front)).any()
    return bool(covers) and order.index(back) < order.index(front)


def test_a_relation_is_beyond_doubt(asked):
    seen = Counter()
    for scene, each in asked["relation"]:
        text = to_plain(each.question)
        names = find_names(text)
        answer = strip_article(each.answer)
        found = [find_called(scene, name) for name in names]
        assert all(len(called) == 1 for called in found), each
        objects = [called[0] for called in found]
        check = {0: check_extreme, 1: check_one, 2: check_two}[len(names)]
        seen[check(scene, text, objects, answer)] += 1
    assert set(seen) == {"most", "which", "is", "what", "behind", "in front"}
    assert min(seen.values()) > 50


def check_extreme(scene, text, _, answer):
    relation, _ = find_words(text, SUPERLATIVES)
    (best,) = [
        one
        for one in scene.objects
        if all(leads(one, other, relation) for other in scene.objects if other is not one)
    ]
    assert best.kind == answer
    return "most"


def check_one(scene, text, objects, answer):
    (anchor,) = objects
    others = [item for item in scene.objects if item is not anchor]
    relation, _ = find_words(text, RELATIONS)
    if relation in ("behind", "in front"):
        (found,) = [
            item
            for item in others
            if (
                is_behind(item, anchor, scene)
                if relation == "behind"
                else is_behind(anchor, item, scene)
            )
        ]
        assert found.kind == answer
        return relation
    ahead = [item for item in others if leads(item, anchor, relation) is not False]
    assert [item.kind for item in ahead] == [answer]
    assert leads(ahead[0], anchor, relation)
    return "what"


def check_two(scene, text, objects, answer):
    one, other = objects
    relation, _ = find_words(text, COMPARATIVES)
    if relation is not None and answer not in ("yes", "no"):
        best = one if leads(one, other, relation) else other
        assert leads(one, other, relation) is not None
        assert is_called(best, answer)
        return "which"
    relation, _ = find_words(text, RELATIONS)
    if relation in ("behind", "in front"):
        back, front = (one, other) if relation == "behind" else (other, one)
        assert is_behind(back, front, scene) != is_behind(front, back, scene)
        assert answer == ("yes" if is_behind(back, front, scene) else "no")
        return relation
    assert answer == {True: "yes", False: "no"}[leads(one, other, relation)]
    return "is"
