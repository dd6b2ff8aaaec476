"""Full-precision features become a vision side that is as fast as its image tokens allow.

Matrices whose product bears it take the fast kind (`fast_matrices`). Then the written graphs encode
the probes' pictures, and where an image token has turned too far, fewer matrices stay fast.
"""

from pathlib import Path

import numpy as np

from quantize.cpu.fast_matrices import LEAST_WEIGHTS, FastKindMeter, choose_fast
from quantize.cpu.parts import PartWriter
from quantize.measure.probes import EncodedProbes, make_pictures
from quantize.measure.reference import compute_image_tokens
from quantize.recipe import INT8_PER_CHANNEL, Recipe
from tinyv_cli.backends.cpu.onnx_cpu import OnnxEncoder
from tinyv_cli.backends.cpu.onnx_sessions import open_graphs
from tinyv_cli.pictures.image import to_pixels
from weights.reading.checkpoint import MergedWeights

LEAST_COSINE = 0.998  # of an image token with its full-precision self, where fast matrices are used
_KEPT_SHARE = 4  # one fast matrix of so many stays fast where a cosine is too small


def write_vision_side(
    writer: PartWriter, weights: MergedWeights, least_weights: int = LEAST_WEIGHTS
) -> tuple[Recipe, EncodedProbes]:
    """Writes the vision side, fast where it may be.

    Args:
        writer: its recipe tells what is rounded at all.
        weights: that it writes, in full precision.
        least_weights: matrices of fewer weights keep the recipe's rounding.

    Returns:
        The recipe that it was written with, and the probes' image tokens.
    """
    spec, recipe = writer.plan.spec, writer.recipe
    pixels = [to_pixels(picture, spec.vision.image_px) for picture in make_pictures()]
    rounded = {name: s for name, s in weights.shapes.items() if recipe.rounding(name).has_codes}
    meter = FastKindMeter(rounded, least_weights)
    with writer.progress("computing the vision side in full precision"):
        exact = compute_image_tokens(spec, weights.read, np.concatenate(pixels), meter.watch)
    fast = choose_fast(meter.errors)
    while True:
        writer = writer.with_recipe(recipe.replace_rounding(sorted(fast), INT8_PER_CHANNEL))
        writer.write_vision()
        probes = EncodedProbes(exact, _encode(writer, pixels))
        if not fast or probes.cosines.min() >= LEAST_COSINE:
            return writer.recipe, probes
        fast = fast[: len(fast) // _KEPT_SHARE]


def _encode(writer: PartWriter, pixels: list[np.ndarray]) -> np.ndarray:
    """What the written graphs make of pictures, (P, Q, D)."""
    paths: list[Path] = [writer.folder / name for name in writer.plan.graphs("vision")]
    encoder = OnnxEncoder(lambda: open_graphs(paths, writer.threads))
    return np.concatenate([encoder.encode(each) for each in pixels])
