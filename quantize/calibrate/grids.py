"""A matrix's target becomes the numbers that its weights may take: of a CPU's file or of a GPU's.

Both search a scale for each group of weights, the fraction of its range with the least squared
error, each column weighted as it costs; then it is fixed, and columns are rounded one at a time.
"""

from typing import Any

import torch
from torch import Tensor

from quantize.cuda_recipe import NF4_BLOCK
from quantize.groupwise import GroupedCodes, round_matrix
from quantize.recipe import Rounding

_NF4_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
_CHUNK_BLOCKS = 1 << 12


class AffineGrid:
    """Groups of a row with a scale and a zero point each: (code - zero point) · scale.

    Args:
        matrix: (N, K) float32 that the scales are searched for.
        rounding: bits and group.
        weights: (K) float32, what a squared error in each column costs.
        threads: to search with.
    """

    def __init__(self, matrix: Tensor, rounding: Rounding, weights: Tensor, threads: int) -> None:
        found = round_matrix(matrix, rounding, threads, weights)
        self._found = found
        self._group, self._top = found.rounding.group, 2**found.rounding.bits - 1
        self._scales = found.scales.T.contiguous()  # (G, N)
        self._zero_points = found.zero_points.T.float()
        self._codes = found.codes.T.contiguous()  # (K, N)

    def round_column(self, column: int, values: Tensor, rows: slice) -> Tensor:
        """Rounds some rows of a column (`calibrate.rounding.Grid`)."""
        group = column // self._group
        scale, zero_point = self._scales[group, rows], self._zero_points[group, rows]
        codes = (values / scale).round_().add_(zero_point).clamp_(0, self._top)
        self._codes[column, rows] = codes.to(torch.uint8)
        return codes.sub_(zero_point).mul_(scale)

    def to_codes(self) -> GroupedCodes:
        """Returns the codes of all columns."""
        found = self._found
        codes = self._codes.T.contiguous()
        return GroupedCodes(
            codes, found.scales, found.zero_points, found.rounding, found.n_columns
        )


def join_codes(parts: list[GroupedCodes]) -> GroupedCodes:
    """Puts runs of columns, each of whole groups, beside each other."""
    return GroupedCodes(
        torch.cat([each.codes for each in parts], 1),
        torch.cat([each.scales for each in parts], 1),
        torch.cat([each.zero_points for each in parts], 1),
        parts[0].rounding,
        sum(each.n_columns for each in parts),
    )
