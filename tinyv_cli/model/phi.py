"""Embeddings become logits: Phi-2 with TinyGPT-V's three added norms.

transformers' Phi is another network: it has no norm on the attention branch and keeps q, k and v
apart.

Source: arXiv 2312.16862 and the implementation published with it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from tinyv_cli.model.cache import Cache
from tinyv_cli.model.mlp import Mlp
from tinyv_cli.spec import LanguageSpec

Rotary = tuple[Tensor, Tensor]  # cosines and signed sines, each (1 or B, 1, T, d)


@dataclass(frozen=True, eq=False)
class Layout:
    """Position ids, and which positions see which, if they do not simply follow on each other.

    Attributes:
        position_ids: (B, T), from 0.
        mask: (B, 1, T, T), true where the row's position sees the column's.
    """

    position_ids: Tensor
    mask: Tensor


def make_rotary(spec: LanguageSpec, position_ids: Tensor, dtype: torch.dtype) -> Rotary:
    """Computes by how much the positions of a sequence are rotated.

    A channel's turned value is its own times a cosine, and its partner's times a sine: partners are
    half the rotary width apart, and the first of two is taken off. Channels behind the rotary width
    have cosine 1 and sine 0, so that a head is turned as a whole.

    Args:
        spec: gives the widths and the base of the rotation.
        position_ids: (B, T) or (1, T), from 0.
        dtype: of the result.

    Returns:
        Cosines and signed sines, (1 or B, 1, T, d); computed in float32.

    Source: arXiv 2104.09864, section 3.2, with halves rotated instead of pairs, as Phi-2 does.
    """
    width = spec.rotary_width
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=position_ids.device) / width
    angles = position_ids.float()[:, None, :, None] / spec.rope_base**steps  # (B, 1, T, width / 2)
    cosines, sines = angles.cos(), angles.sin()
    behind = (0, spec.head_width - width)
    cosines = pad(torch.cat((cosines, cosines), dim=-1), behind, value=1.0)
    sines = pad(torch.cat((-sines, sines), dim=-1), behind)
    return cosines.to(dtype), sines.to(dtype)


class PhiAttention(nn.Module):
    """Causal attention; queries and keys are normed, then partly rotated."""

    def __init__(self, spec: LanguageSpec, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_width = spec.head_width
        self.rotary_width = spec.rotary_width
        self.qkv = nn.Linear(spec.width, 3 * spec.width)  # rows [3][head][d]
        self.dense = nn.Linear(spec.width, spec.width)
        self.q_layernorm = nn.LayerNorm(spec.head_width, eps=spec.eps)
        self.k_layernorm = nn.LayerNorm(spec.head_width, eps=spec.eps)

    def forward(
        self,
        hidden: Tensor,
        rotary: Rotary,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Computes the attention branch up to and with `dense`.

        Args:
            hidden: (B, T, D), after input_layernorm.
            rotary: of these positions, from `make_rotary`.
            mask: (T, positions seen) or (B, 1, T, positions seen), true where seen, or numbers to
                add to the scores; None: each position sees those before it, and a single one all.
            cache: earlier positions, to which these are appended; its dtype is that of the scores'
                factors.

        Returns:
            (B, T, D). Scores are summed and normalised in float32, whatever the dtype.
        """
        n_new = hidden.shape[1]
        q, k, v = self._split(self.qkv(hidden))  # (B, H, T, d) each
        q, k = self._rotate(torch.stack((self.q_layernorm(q), self.k_layernorm(k))), rotary)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        causal = mask is None and n_new > 1
        mixed = scaled_dot_product_attention(q.to(k.dtype), k, v, attn_mask=mask, is_causal=causal)
        out: Tensor = self.dense(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Splits (B, T, 3D) into three of (B, H, T, d)."""
        by_head = qkv.view(*qkv.shape[:2], 3, -1, self.head_width)  # (B, T, 3, H, d)
        q, k, v = by_head.permute(2, 0, 3, 1, 4)
        return q, k, v

    def _rotate(self, heads: Tensor, rotary: Rotary) -> Tensor:
        """Turns queries and keys at once, (2, B, H, T, d): one token is mostly starting kernels."""
        half, width = self.rotary_width // 2, self.rotary_width
        partners = (heads[..., half:width], heads[..., :half], heads[..., width:])
        cosines, sines = rotary
        return torch.addcmul(heads * cosines, torch.cat(partners, dim=-1), sines)


class PhiBlock(nn.Module):
    """Adds an attention branch, normed by itself, and an MLP branch, both of one normed input.

    Differs from transformers' PhiDecoderLayer in `post_layernorm` alone. Phi-2's dropout of the
    branches is left out.
    """

    def __init__(self, spec: LanguageSpec, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(spec.width, eps=spec.eps)
        self.attention = PhiAttention(spec, layer)
        self.post_layernorm = nn.RMSNorm(spec.width, eps=spec.post_norm_eps)
        self.mlp = Mlp(spec.width, spec.mlp_width, approximate="tanh")

    def forward(
        self,
        hidden: Tensor,
        rotary: Rotary,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """(B, T, D) → (B, T, D); the arguments are those of `PhiAttention.forward`."""
        normed = self.input_layernorm(hidden)
        attended = self.post_layernorm(self.attention(normed, rotary, mask, cache))
        out: Tensor = hidden + attended + self.mlp(normed)
        return out


class PhiLanguage(nn.Module):
    """The language model: embeddings of a sequence → logits over the vocabulary.

    Sequences of different lengths go in one batch padded on the right: no position looks to its
    right, so the padding changes nothing before it and needs no mask.
    """

    def __init__(self, spec: LanguageSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed_tokens = nn.Embedding(spec.vocab_size, spec.width)
        self.layers = nn.ModuleList([PhiBlock(spec, layer) for layer in range(spec.n_layers)])
        self.final_layernorm = nn.LayerNorm(spec.width, eps=spec.eps)
        self.lm_head = nn.Linear(spec.width, spec.vocab_size)

    def forward(self, embeddings: Tensor, cache: Cache | None = None) -> Tensor:
        """Computes the logits of every position.

        Args:
            embeddings: (B, T, D), tokens and image tokens in their order.
            cache: the positions before them, to which they are appended (B is 1); None: there are
                none, and nothing is kept.

        Returns:
            (B, T, V). With a cache they equal those without to 1e-5 of their norm in float32;
            not to the bit, as products of other shapes are summed in another order.
        """
        logits: Tensor = self.lm_head(self.compute_hidden(embeddings, cache))
        return logits

    def compute_hidden(
        self, embeddings: Tensor, cache: Cache | None = None, layout: Layout | None = None
    ) -> Tensor:
        """As `forward`, but stops after final_layernorm: (B, T, D) → (B, T, D).

        Args:
            embeddings: (B, T, D).
            cache: the positions before them.
            layout: of the positions, where they do not follow on each other; not with a cache.
        """
        n_new = embeddings.shape[1]
        mask: Tensor | None = None
        if layout is not None:
            position_ids, mask = layout.position_ids, layout.mask
        elif cache is not None:
            position_ids, mask = cache.make_position_ids(n_new), cache.make_mask(n_new)
        else:
            position_ids = torch.arange(n_new, device=embeddings.device)[None]
        dtype = embeddings.dtype if cache is None else cache.dtype
        rotary = make_rotary(self.spec, position_ids, dtype)
        hidden = embeddings
        for layer in self.layers:
            hidden = layer(hidden, rotary, mask, cache)
        if cache is not None:
            cache.advance(n_new)
        out: Tensor = self.final_layernorm(hidden)
        return out
