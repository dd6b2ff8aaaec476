"""A matrix's target becomes the numbers that its weights may take: of a CPU's file or of a GPU's.

Both search a scale for each group of weights, the fraction of its range with the least squared
error, each column weighted by what an error in it costs. Then the scales are fixed, and columns are
rounded one at a time; each weight is off by half a step at most where it lies within its range.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantize.cuda_recipe import DOUBLE_QUANTISATION, NF4_BLOCK
from quantize.groupwise import GroupedCodes, round_matrix
from quantize.recipe import Rounding

_NF4_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
_CHUNK_BLOCKS = 1 << 12
_CHUNK_ROWS = 256
_TWO_ONES = 0xFF  # two codes of level 1 in a byte

if TYPE_CHECKING:
    from tinyv_cli.devices.quiet_bitsandbytes import QuantState


class AffineGrid:
    """Groups of a row with a scale and a zero point each: (code - zero point) · scale.

    Args:
        matrix: (N, K) float32 that the scales are searched for.
        weights: (K) float32, what a squared error in each column costs.
        rounding: bits and group.
        threads: to search with.
    """

    def __init__(self, matrix: Tensor, weights: Tensor, rounding: Rounding, threads: int) -> None:
        found = round_matrix(matrix, rounding, threads, weights)
        self._found = found
        self._group, top = found.rounding.group, 2**found.rounding.bits - 1
        scales = found.scales.T.contiguous()  # (G, N)
        lowest = -found.zero_points.T.float().contiguous()  # in steps from the zero point
        by_group = (scales, lowest, lowest + top)
        self._of_groups = list(zip(*(each.unbind() for each in by_group), strict=True))

    def round_column(self, column: int, values: Tensor) -> Tensor:
        """As `calibrate.rounding.Grid`."""
        scale, lowest, highest = self._of_groups[column // self._group]
        steps: Tensor = (values / scale).round_().clamp_(lowest, highest)
        return steps.mul_(scale)

    def to_arrays(self, matrix: Tensor) -> dict[str, Tensor]:
        """Returns what `to_grouped_codes` makes codes of again.

        Args:
            matrix: (N, K) float32, all of it rounded to this grid.
        """
        found = self._found
        codes, padding = [], found.codes.shape[1] - found.n_columns
        for start in range(0, len(matrix), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            scales, zero_points = found.scales[part, :, None], found.zero_points[part, :, None]
            padded = torch.nn.functional.pad(matrix[part], (0, padding))
            steps = (padded.view(len(padded), scales.shape[1], -1) / scales).round_()
            codes.append(steps.add_(zero_points).flatten(1).to(torch.uint8))
        return {
            "codes": torch.cat(codes),
            "scales": found.scales,
            "zero_points": found.zero_points,
            "n_columns": torch.tensor(found.n_columns),
        }


def to_grouped_codes(arrays: dict[str, Tensor], rounding: Rounding) -> GroupedCodes:
    """Makes codes of an affine grid's arrays."""
    n_columns = int(arrays["n_columns"])
    return GroupedCodes(
        arrays["codes"],
        arrays["scales"],
        arrays["zero_points"],
        rounding.fit(n_columns),
        n_columns,
    )


class Nf4Grid:
    """Blocks of 64 weights, row by row, with a scale each: one of 16 levels times the scale.

    The scales are kept in 8 bits, as bitsandbytes keeps them, before a column is rounded: what that
    costs, the columns make up for.

    Args:
        matrix: (N, K) float32 that the scales are searched for.
        weights: (K) float32, what a squared error in each column costs.
    """

    def __init__(self, matrix: Tensor, weights: Tensor) -> None:
        from tinyv_cli.backends.cuda.torch_modules import read_nf4
        from tinyv_cli.devices.quiet_bitsandbytes import quantize_4bit

        self._begins = torch.arange(len(matrix)) * matrix.shape[1]  # of rows
        n_weights, n_columns = matrix.numel(), matrix.shape[1]
        blocks = _to_blocks(matrix)
        self._levels = quantize_4bit(blocks[0], quant_type="nf4")[1].code  # (16), rising
        self._edges = (self._levels[1:] + self._levels[:-1]) / 2
        scales = blocks.abs().amax(1)
        for start in range(0, len(blocks), _CHUNK_BLOCKS):
            part = slice(start, start + _CHUNK_BLOCKS)
            places = torch.arange(start * NF4_BLOCK, start * NF4_BLOCK + blocks[part].numel())
            costs = weights[places % n_columns].view(-1, NF4_BLOCK)
            scales[part] = self._search(blocks[part], scales[part], costs)
        # Blocks of nothing but their scales: the library rounds these, and reads them back where
        # every code is that of level 1.
        marks = torch.zeros_like(blocks)
        marks[:, 0] = scales
        packed, self._state = quantize_4bit(
            marks.view(-1)[:n_weights].view(matrix.shape),
            blocksize=NF4_BLOCK,
            quant_type="nf4",
            compress_statistics=DOUBLE_QUANTISATION,
        )
        ones = read_nf4(packed.fill_(_TWO_ONES), self._state, torch.float32)
        self._scales = ones.flatten()[::NF4_BLOCK].clone()

    def _search(self, blocks: Tensor, largest: Tensor, costs: Tensor) -> Tensor:
        """Returns the scale (n) of least weighted squared error for blocks (n, 64)."""
        best, least = largest, torch.full_like(largest, torch.inf)
        for shrink in _NF4_SHRINKS:
            scale = largest * shrink
            nearest = self._round(blocks, scale[:, None])[1]
            error = ((nearest - blocks).square_() * costs).sum(1)
            best = torch.where(error < least, scale, best)
            least = torch.minimum(error, least)
        return best

    def _round(self, values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Rounds to codes and numbers."""
        safe = torch.where(scales != 0, scales, 1)
        codes = torch.bucketize(values / safe, self._edges)
        return codes, self._levels[codes] * scales

    def round_column(self, column: int, values: Tensor) -> Tensor:
        """As `calibrate.rounding.Grid`."""
        return self._round(values, self._scales[(self._begins + column) // NF4_BLOCK])[1]

    def to_arrays(self, matrix: Tensor) -> dict[str, Tensor]:
        """Returns the file's arrays, by the ends of their names (`cuda_recipe.list_arrays`).

        Args:
            matrix: (N, K) float32, all of it rounded to this grid.
        """
        blocks = _to_blocks(matrix)
        codes = torch.empty(blocks.shape, dtype=torch.uint8)
        for start in range(0, len(blocks), _CHUNK_BLOCKS):
            part = slice(start, start + _CHUNK_BLOCKS)
            codes[part] = self._round(blocks[part], self._scales[part, None])[0]
        n_even = -(-matrix.numel() // 2) * 2
        in_order = codes.view(-1)[:n_even]
        packed = (in_order[::2] << 4) | in_order[1::2]
        return name_nf4_arrays(packed[:, None], self._state)


def _to_blocks(matrix: Tensor) -> Tensor:
    """Returns a matrix's weights (N, K) row by row as (n, 64), the last filled with zeros."""
    flat = matrix.flatten()
    return torch.nn.functional.pad(flat, (0, -len(flat) % NF4_BLOCK)).view(-1, NF4_BLOCK)


def name_nf4_arrays(packed: Tensor, state: "QuantState") -> dict[str, Tensor]:
    """Returns a matrix's arrays by the ends of their names in a file (`cuda_recipe.list_arrays`).

    Args:
        packed: two codes a byte, (N · K / 2, 1) uint8.
        state: bitsandbytes' scales and levels.
    """
    state.dtype = torch.float16  # of the products; the scales come from float32
    return {"": packed} | {f".{key}": each for key, each in state.as_dict(packed=True).items()}
