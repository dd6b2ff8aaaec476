"""Token ids and image tokens become the next position's logits, in torch; knows no text."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tinyv_cli.generate import ImageTokens, Segment
from tinyv_cli.model.cache import KeyValueCache
from tinyv_cli.model.phi import PhiLanguage


class TorchDecoder:
    """Reads a sequence piece by piece and remembers it; implements `generate.Decoder`."""

    def __init__(self, language: PhiLanguage, context_length: int | None = None) -> None:
        """Takes the cache's memory at once.

        Args:
            language: runs as it stands, on its device and with its dtype.
            context_length: positions there is room for; None: as many as the network has.
        """
        self._language = language
        self._cache = KeyValueCache(
            language.spec,
            context_length or language.spec.context_length,
            like=language.embed_tokens.weight,
        )

    @property
    def context_length(self) -> int:
        """Positions there is room for."""
        return self._cache.context_length

    @property
    def length(self) -> int:
        """Positions now cached."""
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
        embeddings = self._embed(segments)  # (1, T, D)
        n_new = embeddings.shape[1]
        if not 0 < n_new <= self.context_length - self.length:
            raise ValueError(f"{n_new} positions after {self.length} of {self.context_length}")
        hidden = self._language.compute_hidden(embeddings, self._cache)
        logits: np.ndarray = self._language.lm_head(hidden[0, -1]).float().numpy(force=True)
        return logits

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on.

        Raises:
            ValueError: `length` is negative or beyond the cached positions.
        """
        self._cache.rewind(length)

    def _embed(self, segments: Sequence[Segment]) -> Tensor:
        """Puts segments side by side at Phi-2's width: (1, T, D)."""
        table = self._language.embed_tokens
        parts = [table.weight.new_empty(0, table.embedding_dim)]
        for segment in segments:
            if isinstance(segment, ImageTokens):
                parts.append(torch.tensor(segment.embeddings).to(table.weight))
            else:
                ids = torch.tensor(segment, dtype=torch.long, device=table.weight.device)
                parts.append(table(ids))
        return torch.cat(parts)[None]
