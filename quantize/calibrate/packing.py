"""Sequences of embeddings become rows of a batch, each seeing nothing but itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinyv_cli.model.phi import PhiBlock, Rotary, make_rotary
from tinyv_cli.spec import LanguageSpec

_ROW_POSITIONS = 640  # several sequences stand in a row: attention is cheap, little is padding


@dataclass(frozen=True)
class Sequences:
    """Sequences of embeddings or states, several in a row.

    None sees another, but for a beginning that they share, which stands there once.

    Attributes:
        states: (B, T, D), the rest of each row zeros.
        filled: (B, T), false where there is no position.
        places: of each sequence its row, and where in it its positions are, (T) int64.
        rotary: of each position in its own sequence.
        mask: (B, 1, T, T), true where the row's position sees the column's.
    """

    states: Tensor
    filled: Tensor
    places: tuple[tuple[int, Tensor], ...]
    rotary: Rotary
    mask: Tensor

    def run(self, block: PhiBlock) -> Tensor:
        """Computes a block's output, (B, T, D)."""
        out: Tensor = block(self.states, self.rotary, self.mask)
        return out


def pack(
    sequences: Sequence[np.ndarray], spec: LanguageSpec, *, share_beginnings: bool = False
) -> Sequences:
    """Puts embeddings, (T, D) float32 each, into rows, the longest first.

    Args:
        sequences: the embeddings.
        spec: of the model that they are for.
        share_beginnings: whether neighbours that begin alike stand together, and their beginning
            once: the questions about one picture are half picture.
    """
    capacity = max(_ROW_POSITIONS, *map(len, sequences))
    if share_beginnings:
        clusters = cluster_by_beginning(sequences, capacity)
    else:
        lengths = enumerate(map(len, sequences))
        clusters = [Cluster(n, {index: torch.arange(n)}) for index, n in lengths]
    used: list[int] = []  # of each row
    places: list[tuple[int, Tensor]] = [(0, torch.empty(0))] * len(sequences)
    for cluster in sorted(clusters, key=lambda each: -each.length):
        row = next((r for r, n in enumerate(used) if n + cluster.length <= capacity), len(used))
        if row == len(used):
            used.append(0)
        for index, place in cluster.places.items():
            places[index] = (row, place + used[row])
        used[row] += cluster.length
    states = torch.zeros(len(used), capacity, sequences[0].shape[1])
    positions = torch.zeros(len(used), capacity, dtype=torch.int64)
    filled = torch.zeros(len(used), capacity, dtype=torch.bool)
    mask = torch.eye(capacity, dtype=torch.bool).repeat(len(used), 1, 1)  # nobody sees nothing
    for sequence, (row, place) in zip(sequences, places, strict=True):
        order = torch.arange(len(sequence))
        states[row, place] = torch.from_numpy(sequence)
        positions[row, place] = order
        filled[row, place] = True
        mask[row, place[:, None], place] = order[:, None] >= order
    rotary = make_rotary(spec, positions, states.dtype)
    return Sequences(states, filled, tuple(places), rotary, mask[:, None])


@dataclass
class Cluster:
    """Sequences that stand together, the beginnings that they share with the first of them once."""

    length: int
    places: dict[int, Tensor]  # by their numbers


def cluster_by_beginning(sequences: Sequence[np.ndarray], capacity: int) -> list[Cluster]:
    """Puts neighbours that begin alike together, up to a capacity."""
    clusters: list[Cluster] = []
    first = sequences[0]
    for index, sequence in enumerate(sequences):
        n = min(len(first), len(sequence))
        differs = (first[:n] != sequence[:n]).any(1)
        n_common = int(differs.argmax()) if differs.any() else n
        n_more = len(sequence) - n_common
        if clusters and n_common and clusters[-1].length + n_more <= capacity:
            length = clusters[-1].length
            place = torch.cat([torch.arange(n_common), length + torch.arange(n_more)])
            clusters[-1].places[index] = place
            clusters[-1].length += n_more
        else:
            first = sequence
            clusters.append(Cluster(len(sequence), {index: torch.arange(len(sequence))}))
    return clusters
