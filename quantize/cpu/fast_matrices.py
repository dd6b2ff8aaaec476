"""Full-precision features become the choice of matrices that may take the fast kind of rounding.

The fast kind gives all activations that meet a matrix one scale. Where a few channels or tokens are
huge, as they are in large ViTs, that scale leaves nothing of the others; such a matrix keeps the
kind with a scale for each group. Each is measured by itself, on what the probes' pictures send it.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from quantize.channelwise import round_activations, round_channels
from quantize.plan import Shapes

LARGEST_ERROR = 0.03  # of a product; DESIGN.md tells how it was found
LEAST_WEIGHTS = 1_000_000  # of a matrix: below that there is no time to be gained
_CANDIDATES = (  # those that all of a picture's tokens meet
    "vision.layers.*.self_attn.qkv.weight",
    "vision.layers.*.self_attn.projection.weight",
    "vision.layers.*.mlp.fc1.weight",
    "vision.layers.*.mlp.fc2.weight",
    "qformer.bert.encoder.layer.*.crossattention.attention.key.weight",
    "qformer.bert.encoder.layer.*.crossattention.attention.value.weight",
)
_MEASURED_ROWS = 128  # of an input's tokens; the scale is that of all of them


class FastKindMeter:
    """Watches a reference pass and measures what the fast kind would do to each product.

    Args:
        shapes: every canonical tensor and its shape.
        least_weights: smaller matrices are passed over.

    Attributes:
        errors: name → mean over tokens of ‖rounded − exact‖ / ‖exact‖ of the product x · Wᵀ, of
            the worst picture so far.
    """

    def __init__(self, shapes: Shapes, least_weights: int = LEAST_WEIGHTS) -> None:
        self.errors: dict[str, float] = {
            name: 0.0
            for name, shape in shapes.items()
            if any(fnmatchcase(name, pattern) for pattern in _CANDIDATES)
            and shape[0] * shape[1] >= least_weights
        }
        self._last: tuple[str, Tensor] = ("", torch.empty(0))

    def watch(self, name: str, x: Tensor, matrix: Tensor) -> None:
        """Takes what enters a matrix: x (B, N, K), W (M, K)."""
        if name not in self.errors:
            return
        if self._last[0] != name:  # pictures come one after another, with the same matrix
            self._last = (name, round_channels(matrix).to_matrix())
        low, high = (float(each) for each in torch.aminmax(x))
        rows = x.flatten(0, 1)
        rows = rows[:: max(1, len(rows) // _MEASURED_ROWS)]
        exact = rows @ matrix.T
        rounded = round_activations(rows, low, high) @ self._last[1].T
        lengths = exact.norm(dim=1).clamp_min(torch.finfo(exact.dtype).tiny)
        error = float(((rounded - exact).norm(dim=1) / lengths).mean())
        self.errors[name] = max(self.errors[name], error)


def choose_fast(errors: Mapping[str, float], limit: float = LARGEST_ERROR) -> list[str]:
    """Names of the matrices whose error is within the limit, the best first."""
    return sorted((name for name in errors if errors[name] <= limit), key=lambda n: errors[n])
