"""A split, a seed and a number become a scene's own random generator.

Pairs of a kind and a background that only test scenes show are held out here; phrasings are held
out in `phrasings.py`.
"""

from typing import Literal

import numpy as np

from weights.training.world.colours import BACKGROUND_COLOURS
from weights.training.world.kinds import KINDS

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# A prime next to 10 backgrounds: each kind loses at most one of them, each background 5 or 6 kinds.
_STRIDE = 11
_KIND_NUMBERS = {kind.name: number for number, kind in enumerate(KINDS)}
_COLOUR_NUMBERS = {colour: number for number, colour in enumerate(BACKGROUND_COLOURS)}


def make_generator(split: Split, seed: int, index: int) -> np.random.Generator:
    """Makes a generator that no other split, seed or index shares.

    Args:
        split: its number is the first word of the seed, so splits cannot meet.
        seed: zero or more.
        index: of a scene within the seed, zero or more.
    """
    return np.random.default_rng([SPLITS.index(split), seed, index])


def is_held_out_pair(kind: str, background: str) -> bool:
    """Returns whether a kind stands on a background in test scenes only: one pair in 11."""
    return (_KIND_NUMBERS[kind] + 3 * _COLOUR_NUMBERS[background]) % _STRIDE == 0


def is_allowed_pair(kind: str, background: str, split: Split) -> bool:
    """Returns whether scenes of a split may show a kind on a background."""
    return split == "test" or not is_held_out_pair(kind, background)
