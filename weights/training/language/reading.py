"""A scene becomes text alone: the words that image tokens will stand for, and dialogues about it.

The words stand where the picture stands in a prompt, so that a language model learns to answer from
a scene's content before it has ever seen an image token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from weights.training.language.dialogues import Dialogue, make_dialogues
from weights.training.language.slots import N_GROUPS, fill_slots, order_objects
from weights.training.world.placement import make_scene
from weights.training.world.splits import make_generator

# Groups are in the order that query tokens have, objects from left to right, but for this share.
# In random order the language model had to sort captions: 40 % right after 3,200 steps (DESIGN.md).
_DISORDER_CHANCE = 0.15
READ_TEMPLATES = ("human", "human-system", "train-inst", "inst")


@dataclass(frozen=True)
class Reading:
    """One scene as text.

    Attributes:
        slots: places in `slots.WORDS`, 32 of them.
        dialogues: about the scene.
        template: of their prompts.
    """

    slots: Sequence[int]
    dialogues: Sequence[Dialogue]
    template: str


def read_scene(seed: int, number: int, count: int, only_short: bool = False) -> Reading:
    """Makes the text of a training scene's number, always the same.

    Args:
        seed: of the scenes.
        number: of the scene.
        count: of dialogues at most.
        only_short: leaves out long answers, as `make_dialogues` does.
    """
    generator = make_generator("train", seed, number)
    scene = make_scene(generator, "train")
    if generator.random() < _DISORDER_CHANCE:
        groups = generator.permutation(N_GROUPS)[: len(scene.objects)].tolist()
    else:
        groups = order_objects(scene)
    template = READ_TEMPLATES[int(generator.integers(len(READ_TEMPLATES)))]
    dialogues = make_dialogues(scene, generator, count, only_short)
    return Reading(fill_slots(scene, groups).tolist(), dialogues, template)
