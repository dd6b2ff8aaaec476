"""Keys and values of positions read are kept for those to come; computes nothing."""

from typing import Protocol

import torch
from torch import Tensor

from tinyv_cli.spec import LanguageSpec


class Cache(Protocol):
    """All that the network asks of a cache of earlier positions."""

    @property
    def dtype(self) -> torch.dtype:
        """Returns the dtype of keys and values."""

    def make_position_ids(self, n_new: int) -> Tensor:
        """Returns the position ids of `n_new` further positions, (1, n_new), from 0."""

    def make_mask(self, n_new: int) -> Tensor | None:
        """Returns which positions each of them sees; None: itself and all before it."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores keys and values (1, H, n_new, d) of a layer; returns all there are to see."""

    def advance(self, n_new: int) -> None:
        """Counts them as filled, once every layer has appended them."""


class KeyValueCache:
    """Keys and values of some sequences in all layers, in memory taken once and never moved.

    Attributes:
        keys, values: (n_layers, S, H, C, d), a slot for each sequence; keys as they are after norm
            and rotation.
        lengths: positions filled, by slot; the same in all layers.
    """

    def __init__(
        self, spec: LanguageSpec, context_length: int, like: Tensor, n_slots: int = 1
    ) -> None:
        """Takes the memory for `context_length` positions, with the dtype and device of `like`."""
        shape = (spec.n_layers, n_slots, spec.n_heads, context_length, spec.head_width)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)
        self.lengths = [0] * n_slots

    @property
    def context_length(self) -> int:
        """Returns the number of positions there is room for."""
        return self.keys.shape[3]

    def copy(self, source: int, target: int, length: int) -> None:
        """Makes the first positions of one slot those of another, which then holds no more."""
        for each in (self.keys, self.values):
            each[:, target, :, :length] = each[:, source, :, :length]
        self.lengths[target] = length


class SlotCache:
    """One sequence of a cache, for any number of further positions at a time.

    Args:
        cache: whose memory it is.
        slot: of the sequence.
    """

    def __init__(self, cache: KeyValueCache, slot: int = 0) -> None:
        self._cache = cache
        self._slot = slot

    @property
    def length(self) -> int:
        """Returns the number of positions filled."""
        return self._cache.lengths[self._slot]

    @property
    def context_length(self) -> int:
        """Returns the number of positions there is room for."""
        return self._cache.context_length

    @property
    def dtype(self) -> torch.dtype:
        """Returns the dtype of keys and values."""
        return self._cache.keys.dtype

    def make_position_ids(self, n_new: int) -> Tensor:
        """Returns the ids of `n_new` further positions, (1, n_new), behind the filled ones."""
        end = self.length + n_new
        return torch.arange(self.length, end, device=self._cache.keys.device)[None]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a layer's new positions behind the filled ones.

        Args:
            layer: which layer they belong to.
            keys: (1, H, T, d).
            values: (1, H, T, d).

        Returns:
            Keys and values of all positions up to the new ones, (1, H, length + T, d), as views.
        """
        end = self.length + keys.shape[2]
        rows = slice(self._slot, self._slot + 1)
        all_keys, all_values = self._cache.keys[layer, rows], self._cache.values[layer, rows]
        all_keys[:, :, self.length : end] = keys
        all_values[:, :, self.length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def make_mask(self, n_new: int) -> Tensor | None:
        """Returns which positions each of `n_new` further ones sees.

        Returns:
            (n_new, length + n_new), true where seen; None where a plain causal rule says the same:
            nothing is cached yet, or one position comes and sees all.
        """
        if self.length == 0 or n_new == 1:
            return None
        device = self._cache.keys.device
        seen = torch.ones(n_new, self.length + n_new, dtype=torch.bool, device=device)
        return seen.tril(self.length)

    def advance(self, n_new: int) -> None:
        """Counts `n_new` positions as filled, once every layer has appended them."""
        self._cache.lengths[self._slot] += n_new

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on.

        Raises:
            ValueError: `length` is negative or beyond the filled positions.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind {self.length} positions to {length}")
        self._cache.lengths[self._slot] = length


class StaticCache:
    """A static cache: the same memory, for one position of each slot, whose ids are in a tensor.

    All shapes are the same whatever the positions, and nothing is read back from the device, so
    that the step can be recorded once and replayed: positions not filled yet, or forgotten, are
    among the keys that it gets, and are masked.

    Args:
        cache: whose memory it is, and which counts the positions.
        positions: (S,) int64, each below `n_seen`; read when the step runs.
        n_seen: of the cache's positions, how many the step reads.
    """

    def __init__(self, cache: KeyValueCache, positions: Tensor, n_seen: int) -> None:
        self._cache = cache
        self._positions = positions
        self._n_seen = n_seen
        self._slots = torch.arange(len(positions), device=positions.device)

    @property
    def dtype(self) -> torch.dtype:
        """Returns the dtype of keys and values."""
        return self._cache.keys.dtype

    def make_position_ids(self, n_new: int) -> Tensor:
        """Returns the positions' ids, (S, 1)."""
        return self._positions[:, None]

    def make_mask(self, n_new: int) -> Tensor:
        """Returns (S, 1, 1, n_seen) to add to scores: 0 up to a position, minus infinity behind."""
        keys = self._cache.keys
        places = torch.arange(self._n_seen, device=keys.device)
        behind = (places > self._positions[:, None])[:, None, None]
        mask = torch.zeros(behind.shape, dtype=keys.dtype, device=keys.device)
        return mask.masked_fill(behind, float("-inf"))

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes (S, H, 1, d) at the positions; returns (S, H, n_seen, d) each, as views."""
        all_keys, all_values = self._cache.keys[layer], self._cache.values[layer]
        place = (self._slots, slice(None), self._positions)
        all_keys[place] = keys[:, :, 0].to(all_keys.dtype)
        all_values[place] = values[:, :, 0].to(all_values.dtype)
        return all_keys[:, :, : self._n_seen], all_values[:, :, : self._n_seen]

    def advance(self, n_new: int) -> None:
        """Does nothing: a replayed step runs no Python, so whoever replays it counts."""
