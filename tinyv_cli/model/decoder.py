"""Token ids and image tokens become the next position's logits, in torch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tinyv_cli.answers.generate import ImageTokens, Segment, count_positions
from tinyv_cli.model.cache import KeyValueCache, SlotCache
from tinyv_cli.model.phi import PhiLanguage


class TorchDecoder:
    """Reads a sequence piece by piece and remembers it; implements `generate.Decoder`."""

    def __init__(
        self,
        language: PhiLanguage,
        context_length: int | None = None,
        cache: SlotCache | None = None,
        chunk_positions: int | None = None,
    ) -> None:
        """Takes the cache's memory at once, unless there is one.

        Args:
            language: runs as it is, on the device and with the dtype of its last norm.
            context_length: positions there is room for; None: as many as the network has.
            cache: an empty sequence's; None: one with the network's dtype.
            chunk_positions: of a prompt, computed at once at most; None: all of it.
        """
        self._language = language
        self._like = language.final_layernorm.weight
        self._chunk_positions = chunk_positions
        longest = context_length or language.spec.context_length
        self._cache = cache or SlotCache(KeyValueCache(language.spec, longest, self._like))

    @property
    def context_length(self) -> int:
        """Returns the number of positions there is room for."""
        return self._cache.context_length

    @property
    def length(self) -> int:
        """Returns the number of positions cached."""
        return self._cache.length

    @torch.no_grad()
    def extend(self, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions.

        Args:
            segments: token ids and image tokens in their order; at least one position.

        Returns:
            Logits after the last position, (V,) float32.

        Raises:
            ValueError: there are no positions, or more than there is room for.
        """
        n_new = count_positions(segments)
        if not 0 < n_new <= self.context_length - self.length:
            raise ValueError(f"{n_new} positions after {self.length} of {self.context_length}")
        logits: np.ndarray = self._compute(segments).float().numpy(force=True)
        return logits

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on.

        Raises:
            ValueError: `length` is negative or beyond the cached positions.
        """
        self._cache.rewind(length)

    def _compute(self, segments: Sequence[Segment]) -> Tensor:
        """Computes all positions, chunk by chunk; returns the logits after the last, (V,)."""
        embeddings = torch.cat([self._embed(segment) for segment in segments])  # (T, D)
        for chunk in torch.split(embeddings, self._chunk_positions or len(embeddings)):
            hidden = self._language.compute_hidden(chunk[None], self._cache)  # (1, T, D)
        logits: Tensor = self._language.lm_head(hidden[:, -1])
        return logits[0]

    def _embed(self, segment: Segment) -> Tensor:
        """Brings a segment to Phi-2's width: (T, D)."""
        if isinstance(segment, ImageTokens):
            return torch.tensor(segment.embeddings).to(self._like)
        return self.look_up(segment).to(self._like)

    def look_up(self, ids: Sequence[int]) -> Tensor:
        """Looks up the embeddings of tokens, (T, D), on the device of their table."""
        table = self._language.embed_tokens
        rows: Tensor = table(torch.tensor(ids, dtype=torch.long, device=table.weight.device))
        return rows
