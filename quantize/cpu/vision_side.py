"""Full-precision features become a vision side that is as fast as its image tokens allow.

Per-channel int8 is two to six times as fast as int8 by group, but all activations that meet a
matrix share one scale. Where a few channels or tokens are huge, as in large ViTs, that scale leaves
nothing of the others. So each matrix is measured on the input that the probes' pictures send it,
and those whose product bears it are rounded per channel. Then the written graphs encode the
pictures, and where an image token has turned too far, fewer matrices stay per channel.
"""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from quantize.channelwise import round_activations, round_channels
from quantize.cpu.parts import PartWriter
from quantize.measure.probes import EncodedProbes, make_pictures
from quantize.measure.reference import compute_image_tokens
from quantize.plan import Shapes
from quantize.recipe import INT8_PER_CHANNEL, Recipe
from tinyv_cli.backends.cpu.onnx_cpu import OnnxEncoder
from tinyv_cli.backends.cpu.onnx_sessions import open_graphs
from tinyv_cli.pictures.image import to_pixels
from weights.reading.checkpoint import MergedWeights

# Of a product. Twice the error on data without outliers (0.5 to 1.4 %), a fifth of that of matrices
# that meet channels 15 times as large as the rest (14 %).
LARGEST_ERROR = 0.03
LEAST_WEIGHTS = 1_000_000  # of a matrix: below that there is no time to be gained
LEAST_COSINE = 0.998  # of an image token with its full-precision self
_KEPT_SHARE = 4  # where a cosine is smaller, one matrix of so many stays per channel
_MEASURED_ROWS = 128  # of an input's tokens; the scale is that of all of them
_MOST_IN_A_LAYER = 4  # of these:
_CANDIDATES = (  # those that all of a picture's tokens meet
    "vision.layers.*.self_attn.qkv.weight",
    "vision.layers.*.self_attn.projection.weight",
    "vision.layers.*.mlp.fc1.weight",
    "vision.layers.*.mlp.fc2.weight",
    "qformer.bert.encoder.layer.*.crossattention.attention.key.weight",
    "qformer.bert.encoder.layer.*.crossattention.attention.value.weight",
)


def write_vision_side(
    writer: PartWriter, weights: MergedWeights, least_weights: int = LEAST_WEIGHTS
) -> tuple[Recipe, EncodedProbes]:
    """Writes the vision side, per channel where it may be.

    Args:
        writer: its recipe says which tensors are rounded at all.
        weights: that it writes, in full precision.
        least_weights: matrices of fewer weights keep the recipe's rounding.

    Returns:
        The recipe that it was written with, and the probes' image tokens.
    """
    spec, recipe = writer.plan.spec, writer.recipe
    pixels = [to_pixels(picture, spec.vision.image_px) for picture in make_pictures()]
    rounded = {name: s for name, s in weights.shapes.items() if recipe.rounding(name).has_codes}
    meter = PerChannelMeter(rounded, least_weights)
    with writer.progress("computing the vision side in full precision"):
        exact = compute_image_tokens(spec, weights.read, np.concatenate(pixels), meter.watch)
    chosen = choose_per_channel(meter.errors)
    paths = [writer.folder / name for name in writer.plan.graphs("vision")]
    while True:
        chosen_recipe = recipe.replace_rounding(sorted(chosen), INT8_PER_CHANNEL)
        replace(writer, recipe=chosen_recipe).write_vision()
        encoder = OnnxEncoder(lambda: open_graphs(paths, writer.threads))
        probes = EncodedProbes(exact, np.concatenate([encoder.encode(each) for each in pixels]))
        if not chosen or probes.cosines.min() >= LEAST_COSINE:
            return chosen_recipe, probes
        chosen = chosen[: len(chosen) // _KEPT_SHARE]


class PerChannelMeter:
    """Measures during a reference pass what per-channel int8 would do to each product.

    Args:
        shapes: every canonical tensor and its shape.
        least_weights: smaller matrices are passed over.

    Attributes:
        errors: name → mean over tokens of ‖rounded − exact‖ / ‖exact‖ of the product x · Wᵀ, of
            the worst picture so far. By token, since one huge token would hide the others in a
            norm over all.
    """

    def __init__(self, shapes: Shapes, least_weights: int = LEAST_WEIGHTS) -> None:
        self.errors: dict[str, float] = {
            name: 0.0
            for name, shape in shapes.items()
            if any(fnmatchcase(name, pattern) for pattern in _CANDIDATES)
            and shape[0] * shape[1] >= least_weights
        }
        self._rounded: dict[str, Tensor] = {}  # the last matrices, as they are rounded

    def watch(self, name: str, linear: nn.Linear, x: Tensor, output: Tensor) -> None:
        """Measures one product, of x (B, N, K) to its output (B, N, M), bias included."""
        if name not in self.errors:
            return
        matrix = self._round(name, linear.weight)
        low, high = (float(each) for each in torch.aminmax(x))
        rows, exact = x.flatten(0, 1), output.flatten(0, 1)
        some = slice(None, None, max(1, len(rows) // _MEASURED_ROWS))
        exact = exact[some] - linear.bias
        rounded = round_activations(rows[some], low, high) @ matrix.T
        lengths = exact.norm(dim=1).clamp_min(torch.finfo(exact.dtype).tiny)
        error = float(((rounded - exact).norm(dim=1) / lengths).mean())
        self.errors[name] = max(self.errors[name], error)

    def _round(self, name: str, matrix: Tensor) -> Tensor:
        """Rounds a matrix (M, K), once for all pictures: these pass a layer one after another."""
        if name not in self._rounded:
            if len(self._rounded) == _MOST_IN_A_LAYER:
                del self._rounded[next(iter(self._rounded))]
            self._rounded[name] = round_channels(matrix).to_matrix()
        return self._rounded[name]


def choose_per_channel(errors: Mapping[str, float], limit: float = LARGEST_ERROR) -> list[str]:
    """Returns the names of the matrices whose error is within the limit, the best first."""
    return sorted((name for name in errors if errors[name] <= limit), key=lambda n: errors[n])
