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

    def to_arrays(self) -> dict[str, Tensor]:
        """Returns what `to_grouped_codes` makes codes of again."""
        found = self._found
        codes = self._codes.T.contiguous()
        arrays = {"codes": codes, "scales": found.scales, "zero_points": found.zero_points}
        return arrays | {"n_columns": torch.tensor(found.n_columns)}


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

        self.shape = matrix.shape
        n_weights, n_columns = matrix.numel(), matrix.shape[1]
        flat = torch.nn.functional.pad(matrix.flatten(), (0, -n_weights % NF4_BLOCK))
        blocks = flat.view(-1, NF4_BLOCK)
        self._levels = quantize_4bit(flat[:NF4_BLOCK], quant_type="nf4")[1].code  # (16), rising
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
        self._codes = torch.zeros(flat.numel(), dtype=torch.uint8)

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

    def round_column(self, column: int, values: Tensor, rows: slice) -> Tensor:
        """Rounds some rows of a column (`calibrate.rounding.Grid`)."""
        n_rows, n_columns = self.shape
        places = torch.arange(*rows.indices(n_rows)) * n_columns + column
        codes, rounded = self._round(values, self._scales[places // NF4_BLOCK])
        self._codes[places] = codes.to(torch.uint8)
        return rounded

    def to_arrays(self) -> dict[str, Tensor]:
        """Returns the file's arrays, by the ends of their names (`cuda_recipe.list_arrays`)."""
        codes = self._codes[: self.shape.numel()]
        codes = torch.nn.functional.pad(codes, (0, len(codes) % 2))
        packed = (codes[::2] << 4) | codes[1::2]
        return name_nf4_arrays(packed[:, None], self._state)


def name_nf4_arrays(packed: Tensor, state: "QuantState") -> dict[str, Tensor]:
    """Returns a matrix's arrays by the ends of their names in a file (`cuda_recipe.list_arrays`).

    Args:
        packed: two codes a byte, (N · K / 2, 1) uint8.
        state: bitsandbytes' scales and levels.
    """
    state.dtype = torch.float16  # of the products; the scales come from float32
    return {"": packed} | {f".{key}": each for key, each in state.as_dict(packed=True).items()}
