"""A scene becomes text alone: the words that image tokens will stand for, and what is said of it.

The words stand where the picture stands in a prompt, so that a language model learns to answer from
what is there before it has ever seen an image token. Draws nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tinyv_cli.answers.tokenizer import STOP_MARK, Tokenizer
from tinyv_cli.errors import UsageError
from tinyv_cli.prompts.prompt import TEMPLATES, make_prompt
from weights.training.dialogues import make_dialogues
from weights.training.placement import make_scene
from weights.training.rows import Dialogue
from weights.training.scene import Scene
from weights.training.slots import N_GROUPS, WORDS, fill_slots, order_objects
from weights.training.splits import make_generator

_DISORDER_CHANCE = 0.15  # of groups that objects take at random; some query tokens do
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
    """The text of a training scene's number, always the same.

    Args:
        seed: of the scenes.
        number: of the scene.
        count: of dialogues at most.
        only_short: leaves out what has long answers, as `make_dialogues` does.
    """
    generator = make_generator("train", seed, number)
    scene = make_scene(generator, "train")
    groups = _choose_groups(scene, generator)
    template = READ_TEMPLATES[int(generator.integers(len(READ_TEMPLATES)))]
    dialogues = make_dialogues(scene, generator, count, only_short)
    return Reading(fill_slots(scene, groups).tolist(), dialogues, template)


def _choose_groups(scene: Scene, generator: np.random.Generator) -> list[int]:
    """The group of each object: mostly its place from left to right, as query tokens have it."""
    if generator.random() < _DISORDER_CHANCE:
        return [int(group) for group in generator.permutation(N_GROUPS)[: len(scene.objects)]]
    return order_objects(scene)


def list_texts(seed: int, count: int) -> Iterator[str]:
    """Whole texts of the first scenes: what a vocabulary is learnt from."""
    for number in range(count):
        reading = read_scene(seed, number, 3)
        described = "".join(f" {WORDS[place]}" for place in reading.slots)
        for each in reading.dialogues:
            prompt = make_prompt(TEMPLATES[reading.template], each.turns, each.question)
            yield f"{described.join(prompt.pieces)}{each.answer}{STOP_MARK}"


def number_words(tokenizer: Tokenizer) -> list[int]:
    """The token id of each of `slots.WORDS` after a space.

    Raises:
        UsageError: the vocabulary has no single token for one of them.
    """
    ids = [tokenizer.encode(f" {word}") for word in WORDS]
    for word, tokens in zip(WORDS, ids, strict=True):
        if len(tokens) != 1:
            raise UsageError(
                f"the vocabulary spells {word!r} in {len(tokens)} tokens", "learn more merges"
            )
    return [tokens[0] for tokens in ids]
