"""Features become query tokens: BLIP-2's Q-Former.

Source: arXiv 2301.12597, section 3.1; modules are called as in the published files. Tests hold them
to transformers' BLIP-2.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from tinyv_cli.spec import QFormerSpec


class AddedLinear(nn.Module):
    """A linear map whose result is added to the hidden states, and the sum normed."""

    def __init__(self, spec: QFormerSpec, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, spec.width)
        self.LayerNorm = nn.LayerNorm(spec.width, eps=spec.eps)

    def forward(self, branch: Tensor, hidden: Tensor) -> Tensor:
        """(B, Q, width of the branch) and (B, Q, D) → (B, Q, D)."""
        out: Tensor = self.LayerNorm(self.dense(branch) + hidden)
        return out


class QFormerAttention(nn.Module):
    """Attention of the query tokens to themselves or to features.

    Args:
        spec: the Q-Former's numbers.
        source_width: of what is attended to.
    """

    def __init__(self, spec: QFormerSpec, source_width: int) -> None:
        super().__init__()
        self.head_width = spec.head_width
        widths = {"query": spec.width, "key": source_width, "value": source_width}
        self.attention = nn.ModuleDict(
            {name: nn.Linear(width, spec.width) for name, width in widths.items()}
        )
        self.output = AddedLinear(spec, spec.width)

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        """(B, Q, D) and (B, N, width of the source) → (B, Q, D)."""
        q, k, v = (
            self.attention[name](each).unflatten(2, (-1, self.head_width)).transpose(1, 2)
            for name, each in (("query", hidden), ("key", source), ("value", source))
        )  # (B, H, Q or N, d)
        mixed = scaled_dot_product_attention(q, k, v)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2), hidden)
        return out


class QFormerLayer(nn.Module):
    """Attention of query tokens to each other, in some layers to the features, and an MLP."""

    def __init__(self, spec: QFormerSpec, vision_width: int, layer: int) -> None:
        super().__init__()
        self.attention = QFormerAttention(spec, spec.width)
        self.crossattention = None
        if spec.has_cross_attention(layer):
            self.crossattention = QFormerAttention(spec, vision_width)
        self.intermediate_query = nn.ModuleDict({"dense": nn.Linear(spec.width, spec.mlp_width)})
        self.output_query = AddedLinear(spec, spec.mlp_width)

    def forward(self, hidden: Tensor, features: Tensor) -> Tensor:
        """(B, Q, D) and (B, N, Dv) → (B, Q, D)."""
        hidden = self.attention(hidden, hidden)
        if self.crossattention is not None:
            hidden = self.crossattention(hidden, features)
        out: Tensor = self.output_query(gelu(self.intermediate_query["dense"](hidden)), hidden)
        return out


class QFormer(nn.Module):
    """The learned queries and a BERT without words, in which they attend to a picture's features.

    There is no dropout in training either: the Q-Former is frozen in all four stages.
    """

    def __init__(self, spec: QFormerSpec, vision_width: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, spec.n_queries, spec.width))
        layers = [QFormerLayer(spec, vision_width, layer) for layer in range(spec.n_layers)]
        self.bert = nn.ModuleDict(
            {
                "layernorm": nn.LayerNorm(spec.width, eps=spec.eps),
                "encoder": nn.ModuleDict({"layer": nn.ModuleList(layers)}),
            }
        )

    def forward(self, features: Tensor) -> Tensor:
        """Computes the query tokens of pictures.

        Args:
            features: (B, N, Dv), after ln_vision.

        Returns:
            (B, Q, D).
        """
        queries = self.query_tokens.expand(features.shape[0], -1, -1)  # (B, Q, D)
        hidden: Tensor = self.bert["layernorm"](queries)
        for layer in self.bert.get_submodule("encoder.layer").children():
            hidden = layer(hidden, features)
        return hidden
