"""Pixels become image tokens and embeddings become logits: the whole network.

The names in `state_dict` are the network's tensor names everywhere else in the project.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tinyv_cli.model.phi import PhiLanguage
from tinyv_cli.model.qformer import QFormer
from tinyv_cli.model.vision import VisionTower
from tinyv_cli.spec import ModelSpec


class Projection(nn.Module):
    """The projection of query tokens to Phi-2's width: two linear maps with nothing between them.

    They are kept apart, although they fold into one, because both are trained.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.first = nn.Linear(spec.qformer.width, spec.projection_width)
        self.second = nn.Linear(spec.projection_width, spec.language.width)

    def forward(self, query_tokens: Tensor) -> Tensor:
        """(B, Q, Dq) → (B, Q, D)."""
        out: Tensor = self.second(self.first(query_tokens))
        return out


class TinyGptV(nn.Module):
    """The four parts side by side; putting image tokens among embeddings is the caller's work.

    Attributes:
        vision: pixels (B, 3, S, S) → features (B, N, Dv).
        qformer: features → query tokens (B, Q, Dq).
        projection: query tokens → image tokens (B, Q, D).
        language: embeddings (B, T, D) → logits (B, T, V).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.vision = VisionTower(spec.vision)
        self.qformer = QFormer(spec.qformer, spec.vision.width)
        self.projection = Projection(spec)
        self.language = PhiLanguage(spec.language)

    def encode(self, pixels: Tensor) -> Tensor:
        """Turns pictures into image tokens.

        Args:
            pixels: (B, 3, S, S), normalised.

        Returns:
            (B, Q, D).
        """
        image_tokens: Tensor = self.projection(self.qformer(self.vision(pixels)))
        return image_tokens


def make_empty_model(spec: ModelSpec) -> TinyGptV:
    """Builds the network on the meta device, where tensors have shapes and no memory."""
    with torch.device("meta"):
        return TinyGptV(spec).eval().requires_grad_(False)


def load_model(spec: ModelSpec, read: Callable[[str], Tensor]) -> TinyGptV:
    """Builds the network around tensors as they are read, without a second copy.

    Args:
        spec: the network's numbers.
        read: returns the float32 tensor of a name; called once for each name in `state_dict`.

    Returns:
        The network in evaluation mode; nothing in it asks for a gradient until told to.

    Raises:
        RuntimeError: a tensor's shape is not the network's.
    """
    model = make_empty_model(spec)
    tensors = {name: read(name) for name in model.state_dict()}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model
