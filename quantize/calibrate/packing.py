"""Sequences of embeddings become rows of a batch, each seeing nothing but itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinyv_cli.model.phi import PhiBlock, Rotary, make_rotary
from tinyv_cli.spec import LanguageSpec

# Neighbours that begin alike stand together up to so many; rows are half as long in the mean, or
# longer.
_ROW_POSITIONS = 640


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
    if share_beginnings:
        clusters = cluster_by_beginning(sequences, max(_ROW_POSITIONS, *map(len, sequences)))
    else:
        lengths = enumerate(map(len, sequences))
        clusters = [Cluster(n, {index: torch.arange(n)}) for index, n in lengths]
    most_rows = 1 + 2 * sum(each.length for each in clusters) // _ROW_POSITIONS
    layouts = (_divide(clusters, n_rows) for n_rows in range(1, 1 + most_rows))
    rows = min(layouts, key=lambda rows: _count_operations(rows, spec))
    places = {
        index: (n, place) for n, row in enumerate(rows) for index, place in row.places.items()
    }
    n_rows, length = len(rows), max(each.length for each in rows)
    states = torch.zeros(n_rows, length, sequences[0].shape[1])
    positions = torch.zeros(n_rows, length, dtype=torch.int64)
    filled = torch.zeros(n_rows, length, dtype=torch.bool)
    mask = torch.eye(length, dtype=torch.bool).repeat(n_rows, 1, 1)  # nobody sees nothing
    for index, sequence in enumerate(sequences):
        row, place = places[index]
        order = torch.arange(len(sequence))
        states[row, place] = torch.from_numpy(sequence)
        positions[row, place] = order
        filled[row, place] = True
        mask[row, place[:, None], place] = order[:, None] >= order
    rotary = make_rotary(spec, positions, states.dtype)
    in_order = tuple(places[index] for index in range(len(sequences)))
    return Sequences(states, filled, in_order, rotary, mask[:, None])


@dataclass
class Cluster:
    """Sequences that stand together, the beginnings that they share with the first of them once."""

    length: int
    places: dict[int, Tensor]  # by their numbers


def _divide(clusters: Sequence[Cluster], n_rows: int) -> list[Cluster]:
    """Divides clusters among rows, the longest first, each to the row that is the shortest."""
    rows = [Cluster(0, {}) for _ in range(n_rows)]
    for cluster in sorted(clusters, key=lambda each: -each.length):
        row = min(rows, key=lambda each: each.length)
        row.places |= {index: place + row.length for index, place in cluster.places.items()}
        row.length += cluster.length
    return rows


def _count_operations(rows: Sequence[Cluster], spec: LanguageSpec) -> int:
    """Counts what a layer computes for rows as long as the longest, in multiples of 4·D.

    A position costs 24·D² in matrices, and 4·D for each that stands in its row, seen or not.
    """
    length = max(each.length for each in rows)
    return len(rows) * length * (6 * spec.width + length)


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
