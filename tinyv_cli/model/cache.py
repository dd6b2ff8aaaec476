"""Keys and values of positions read are kept for those to come; knows no layer's arithmetic."""

import torch
from torch import Tensor

from tinyv_cli.spec import LanguageSpec


class KeyValueCache:
    """Keys and values of one sequence in all layers, in memory taken once and never moved.

    A block asks for three things only: where the sequence stands (`length`), what new positions
    may look at (`make_mask`) and the keys and values to look at (`append`).

    Attributes:
        keys, values: (n_layers, 1, H, C, d); keys as they are after norm and rotation.
        length: positions filled, the same in all layers.
    """

    def __init__(self, spec: LanguageSpec, context_length: int, like: Tensor) -> None:
        """Takes the memory for `context_length` positions, with the dtype and device of `like`."""
        shape = (spec.n_layers, 1, spec.n_heads, context_length, spec.head_width)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    @property
    def context_length(self) -> int:
        """Positions there is room for."""
        return self.keys.shape[3]

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
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def make_mask(self, n_new: int) -> Tensor | None:
        """Tells which positions each of `n_new` further ones sees.

        Returns:
            (n_new, length + n_new), true where seen; None where a plain causal rule says the same:
            nothing is cached yet, or one position comes and sees all.
        """
        if self.length == 0 or n_new == 1:
            return None
        seen = torch.ones(n_new, self.length + n_new, dtype=torch.bool, device=self.keys.device)
        return seen.tril(self.length)

    def advance(self, n_new: int) -> None:
        """Counts `n_new` positions as filled, once every layer has appended them."""
        self.length += n_new

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on.

        Raises:
            ValueError: `length` is negative or beyond the filled positions.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind {self.length} positions to {length}")
        self.length = length
