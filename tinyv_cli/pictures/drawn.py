"""Pixels become a guess whether this is a drawing, as the miniature was trained on.

A drawing has few colours: a background, perhaps with a pattern, and flat shapes on it. A photograph
has many, or none at all. Figures: `DESIGN.md`.
"""

import numpy as np

from tinyv_cli.pictures.image import CLIP_MEAN, CLIP_STD

_SIDE = 56  # blocks a side, whose means are compared: grain and JPEG's rings average out
_LEVELS = 32  # of each of red, green and blue
_N_COMMON = 16  # colours that are counted
_LEAST_SHARE = 0.575  # of all blocks that they cover in a drawing
_LEAST_COLOUR = 10 / 255  # of one block, largest less smallest channel: no drawing is all grey


def is_drawing(pixels: np.ndarray) -> bool:
    """Guesses whether a picture is a drawing as the miniature knows them.

    Args:
        pixels: (1, 3, S, S) float32, as `to_pixels` returns them; S is at best a multiple of 56.
    """
    image = pixels[0].transpose(1, 2, 0) * CLIP_STD + CLIP_MEAN  # (S, S, 3), 0 to 1
    side = min(_SIDE, image.shape[0])
    block = image.shape[0] // side
    whole = image[: block * side, : block * side]
    blocks = whole.reshape(side, block, side, block, 3).mean(axis=(1, 3))
    if np.ptp(blocks, axis=2).max() < _LEAST_COLOUR:
        return False
    levels = np.clip(blocks * _LEVELS, 0, _LEVELS - 1).astype(np.int64)
    codes = (levels * [_LEVELS**2, _LEVELS, 1]).sum(axis=2)
    counts = np.sort(np.bincount(codes.ravel()))
    return bool(counts[-_N_COMMON:].sum() >= _LEAST_SHARE * side**2)
