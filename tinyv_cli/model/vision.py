"""Pixels become features: EVA-CLIP ViT-g/14 and ln_vision.

Source: arXiv 2303.15389 (EVA-CLIP), as BLIP-2 (arXiv 2301.12597) cuts and uses it.
"""

from torch import Tensor, nn

from tinyv_cli.model.transformers_parts import (
    Blip2EncoderLayer,
    Blip2VisionConfig,
    Blip2VisionEmbeddings,
)
from tinyv_cli.spec import VisionSpec


def make_vision_config(spec: VisionSpec) -> Blip2VisionConfig:
    """Translates the tower's numbers to transformers' config; exact GELU, no dropout."""
    return Blip2VisionConfig(
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        image_size=spec.image_px,
        patch_size=spec.patch_px,
        hidden_act="gelu",
        layer_norm_eps=spec.eps,
        attn_implementation="sdpa",
    )


class VisionTower(nn.Module):
    """The vision tower: pixels → features, one for the class token and one a patch.

    Embeddings and blocks are transformers' own. Instead of BLIP-2's model around them, which ends
    in a norm that EVA-CLIP lacks, all tokens go straight to ln_vision (eps 1e-5, not 1e-6). The
    position embedding is expected at the size of `spec.image_px` and never resized here.
    """

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        config = make_vision_config(spec)
        self.embeddings = Blip2VisionEmbeddings(config)
        self.layers = nn.ModuleList([Blip2EncoderLayer(config) for _ in range(spec.n_layers)])
        self.ln_vision = nn.LayerNorm(spec.width, eps=spec.ln_vision_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Computes the features of pictures.

        Args:
            pixels: (B, 3, S, S), normalised.

        Returns:
            (B, N, D), after ln_vision.
        """
        hidden: Tensor = self.embeddings(pixels)  # (B, N, D)
        for layer in self.layers:
            hidden = layer(hidden)
        features: Tensor = self.ln_vision(hidden)
        return features
