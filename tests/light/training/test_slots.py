"""A scene in 32 words: all of it is there, in groups, whichever group an object takes."""

import numpy as np
import pytest

from weights.training.language.slots import GROUP_SIZE, N_GROUPS, N_SLOTS, WORDS, fill_slots
from weights.training.world.placement import make_scene
from weights.training.world.relations import find_overlaps
from weights.training.world.splits import make_generator

SCENES = [make_scene(make_generator("train", 11, i), "train") for i in range(60)]


def read_groups(slots: np.ndarray) -> list[list[str]]:
    words = [WORDS[place] for place in slots]
    return [words[i : i + GROUP_SIZE] for i in range(2, N_SLOTS, GROUP_SIZE)]


def test_no_word_is_there_twice():
    assert len(set(WORDS)) == len(WORDS)
    assert WORDS[:101] == tuple(map(str, range(101)))
    assert not any(" " in word for word in WORDS)


@pytest.mark.parametrize("seed", [0, 1])
def test_slots_tell_the_scene(seed):
    generator = np.random.default_rng(seed)
    for scene in SCENES:
        taken = [int(group) for group in generator.permutation(N_GROUPS)[: len(scene.objects)]]
        slots = fill_slots(scene, taken)
        assert slots.shape == (N_SLOTS,)
        groups = read_groups(slots)
        for number, group in enumerate(groups):
            if number not in taken:
                assert group == ["nothing"] * GROUP_SIZE
                continue
            one = scene.objects[taken.index(number)]
            assert group[:2] == [one.kind, one.colour or "plain"]
            assert [int(edge) for edge in group[2:]] == list(one.box_percent)
        assert WORDS[slots[0]] == scene.background.colour
        overlaps = find_overlaps(scene)
        assert WORDS[slots[1]] == (overlaps[0][1].kind if overlaps else "nothing")


def test_some_scenes_have_a_front_object_and_some_have_not():
    fronts = {bool(find_overlaps(scene)) for scene in SCENES}
    assert fronts == {True, False}
    assert all(len(find_overlaps(scene)) <= 1 for scene in SCENES)
