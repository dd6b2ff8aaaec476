"""Features become query tokens: BLIP-2's Q-Former.

Source: arXiv 2301.12597, section 3.1.
"""

import torch
from torch import Tensor, nn

from tinyv_cli.model.transformers_parts import Blip2QFormerConfig, Blip2QFormerModel
from tinyv_cli.spec import QFormerSpec


def make_qformer_config(spec: QFormerSpec, vision_width: int) -> Blip2QFormerConfig:
    """Translates the Q-Former's numbers to transformers' config; exact GELU, no text branch.

    Dropout is zero in training too: the Q-Former is frozen in all four stages.
    """
    return Blip2QFormerConfig(
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=spec.eps,
        cross_attention_frequency=spec.cross_attention_every,
        encoder_hidden_size=vision_width,
        use_qformer_text_input=False,
    )


class QFormer(nn.Module):
    """The learned queries and transformers' model, in which they attend to a picture's features."""

    def __init__(self, spec: QFormerSpec, vision_width: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, spec.n_queries, spec.width))
        self.bert = Blip2QFormerModel(make_qformer_config(spec, vision_width))

    def forward(self, features: Tensor) -> Tensor:
        """Computes the query tokens of pictures.

        Args:
            features: (B, N, Dv), after ln_vision.

        Returns:
            (B, Q, D).
        """
        queries = self.query_tokens.expand(features.shape[0], -1, -1)  # (B, Q, D)
        out: Tensor = self.bert(query_embeds=queries, encoder_hidden_states=features)[0]
        return out
