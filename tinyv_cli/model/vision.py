"""Pixels become features: EVA-CLIP ViT-g/14 and ln_vision.

Source: arXiv 2303.15389 (EVA-CLIP), as BLIP-2 (arXiv 2301.12597) cuts and uses it. Tests hold the
modules to those of the same names in transformers' BLIP-2.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from tinyv_cli.model.mlp import Mlp
from tinyv_cli.spec import VisionSpec


class PatchEmbedding(nn.Module):
    """Each patch of a picture becomes a vector: a convolution without overlap, as one product.

    As a convolution it would load cuDNN on a GPU, a library of half a gigabyte, for this alone.
    """

    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, 3, patch_px, patch_px))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, (S / patch)², D), rows from the top."""
        n_pictures, n_channels, height, width = pixels.shape
        side = self.weight.shape[-1]
        squares = pixels.view(n_pictures, n_channels, height // side, side, width // side, side)
        patches = squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, N - 1, 3 side²)
        return linear(patches, self.weight.flatten(1), self.bias)


class VisionEmbeddings(nn.Module):
    """A class token and a picture's patches, each with the embedding of its position."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.position_embedding = nn.Parameter(torch.zeros(1, spec.n_tokens, spec.width))
        self.patch_embedding = PatchEmbedding(spec.width, spec.patch_px)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, N, D); position embeddings must be those of this size."""
        patches = self.patch_embedding(pixels)
        class_tokens = self.class_embedding.expand(patches.shape[0], -1, -1).to(patches.dtype)
        embeddings = torch.cat((class_tokens, patches), dim=1)
        return embeddings + self.position_embedding.to(patches.dtype)


class VisionAttention(nn.Module):
    """Attention of all tokens to all, with one fused matrix."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.head_width = spec.head_width
        self.qkv = nn.Linear(spec.width, 3 * spec.width)  # rows [3][head][d]
        self.projection = nn.Linear(spec.width, spec.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        by_head = self.qkv(hidden).view(*hidden.shape[:2], 3, -1, self.head_width)
        q, k, v = by_head.permute(2, 0, 3, 1, 4).unbind()  # (B, H, N, d) each
        mixed = scaled_dot_product_attention(q, k, v)
        out: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return out


class VisionBlock(nn.Module):
    """Adds attention and an MLP to the hidden states, each of its own norm of them."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        # In this order, in which training draws its first weights.
        self.self_attn = VisionAttention(spec)
        self.layer_norm1 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.mlp = Mlp(spec.width, spec.mlp_width)
        self.layer_norm2 = nn.LayerNorm(spec.width, eps=spec.eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        hidden = self.self_attn(self.layer_norm1(hidden)) + hidden
        out: Tensor = self.mlp(self.layer_norm2(hidden)) + hidden
        return out


class VisionTower(nn.Module):
    """The vision tower: pixels → features, one for the class token and one a patch.

    Instead of the norm that BLIP-2's model in transformers ends in, and EVA-CLIP lacks, all tokens
    go straight to ln_vision (eps 1e-5, not 1e-6). The position embedding is expected at the size of
    the picture and never resized here.
    """

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(spec)
        self.layers = nn.ModuleList([VisionBlock(spec) for _ in range(spec.n_layers)])
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
