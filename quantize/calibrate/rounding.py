"""A matrix and the activations that meet it become codes whose product is near the exact one.

Knows activations and a grid of allowed numbers; neither layers nor files. In words:

1. The target. W stands for exact inputs X; the rounded network sends X̂. With both centred by their
   means, W* = argmin ‖X̂·W*ᵀ − Y‖² + ridge · ‖W* − W‖², Y the output wanted; the matrix is moved from
   W towards W* by a share, its strength.
2. The Hessian H = X̂ᵀ·X̂ / P, damped, and U, the upper factor of H⁻¹ = Uᵀ·U.
3. The grid, searched for the target with column k weighted by 1 / U_kk², and fixed from then on.
4. Columns by falling diagonal of H: each is rounded, and its error (w − ŵ) / U_kk times the rest of
   U's row taken off the columns that follow.
5. The bias takes what is left on the mean.

Where a row is longer than `_MOST_COLUMNS`, runs of columns are rounded one after the other, each
with a target that also takes over what those before it lost: H as a whole would be 420 MB for
Phi-2's fc2, and its factor a minute of work.

Source: GPTQ, arXiv 2210.17323, section 3 (the order by falling diagonal is its published code's);
targets for inputs that are rounded already, GPTAQ, arXiv 2504.02692, section 3. Bounds held by the
tests: against every other choice of codes on small matrices, and never worse than the nearest.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quantize.groupwise import divided_among

_MOST_COLUMNS = 2560
_LEAF_COLUMNS = 8  # rounded one by one; what follows takes their errors as one product
_ROWS_AT_ONCE = 1280  # of the matrix, by one thread


class Grid(Protocol):
    """The numbers that the weights of one matrix may take, fixed."""

    def round_column(self, column: int, values: Tensor, rows: slice) -> Tensor:
        """Rounds weights to the nearest allowed ones, and remembers their codes.

        Args:
            column: of the matrix.
            values: (rows) float32, these rows' weights in it.
            rows: which; other threads may round other rows at the same time.

        Returns:
            (rows) float32.
        """


class MakeGrid(Protocol):
    """Searches the grid of a run of columns."""

    def __call__(self, matrix: Tensor, first_column: int, weights: Tensor) -> Grid:
        """Makes a grid.

        Args:
            matrix: (N, k) float32, the targets of these columns.
            first_column: of the run; the grid counts columns from there.
            weights: (k) float32, positive: how much a squared error in each column costs.
        """


@dataclass(frozen=True)
class Settings:
    """How far the recipe goes.

    Attributes:
        strength: share of the way from W to the W* that makes up for rounded inputs, 0 to 1.
        ridge: what moving costs, in mean squares of an input.
        damping: added to the Hessian's diagonal, in shares of each entry: as if inputs held so much
            noise of their own. In shares of the mean, a channel 1,000 times as large as the others
            would drown them.
    """

    strength: float = 0.75
    ridge: float = 0.05
    damping: float = 0.02


@dataclass(frozen=True)
class Calibrated:
    """A rounded matrix (N, K) float32 as its codes read, and the bias (N) that goes with it."""

    matrix: Tensor
    bias: Tensor


def calibrate_matrix(
    matrix: Tensor,
    inputs: Tensor,
    wanted: Tensor,
    make_grid: MakeGrid,
    multiple: int,
    settings: Settings,
    threads: int = 1,
) -> Calibrated:
    """Rounds a matrix for the inputs that it will meet.

    Args:
        matrix: W, (N, K) float32.
        inputs: X̂, (P, K) float32, as the operator multiplies them.
        wanted: Y, (P, N) float32, the outputs that it is to have, bias included.
        make_grid: makes the numbers that it may take; called once for each run of columns, from
            left to right.
        multiple: a run of columns begins at multiples of it.
        settings: how far it goes.
        threads: runs of rows that are rounded at once; the result does not depend on it.

    Returns:
        The matrix and the bias with which inputs · matrixᵀ + bias is near to what is wanted.
    """
    means, wanted_means = inputs.mean(0), wanted.mean(0)
    centred = inputs - means
    left_over = (wanted - wanted_means).addmm_(centred, matrix.T, alpha=-1)
    n_columns = matrix.shape[1]
    n_units = -(-n_columns // multiple)
    n_runs = -(-n_columns // _MOST_COLUMNS)
    rounded = torch.empty_like(matrix)
    for run in range(n_runs):
        first, last = (multiple * (n_units * edge // n_runs) for edge in (run, run + 1))
        columns = slice(first, min(last, n_columns))
        x, w = centred[:, columns], matrix[:, columns]
        target = w + settings.strength * find_shift(x, left_over, settings.ridge)
        order, factor = factor_inverse(x, settings.damping)
        weights = torch.empty(len(order))
        weights[order] = factor.diagonal() ** -2
        grid = make_grid(target, first, weights)
        rounded[:, columns] = round_in_order(target, order, factor, grid, threads)
        left_over.addmm_(x, (rounded[:, columns] - w).T, alpha=-1)
    return Calibrated(rounded, wanted_means - rounded @ means)


def find_shift(inputs: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Finds the change of a matrix that adds what is wanted to its product.

    Args:
        inputs: X, (P, K), centred.
        wanted: R, (P, N), centred.
        ridge: in mean squares of an input.

    Returns:
        argmin over D of ‖X·Dᵀ − R‖² / P + ridge · mean(X²) · ‖D‖², (N, K). By the normal equations
        of whichever side is the shorter: (XᵀX + cI)⁻¹·Xᵀ = Xᵀ·(XXᵀ + cI)⁻¹.
    """
    n_positions, n_columns = inputs.shape
    cost = ridge * n_positions * float(inputs.square().mean())
    if cost == 0:  # inputs of zeros need no other matrix
        return torch.zeros(wanted.shape[1], n_columns)
    if n_positions <= n_columns:
        kernel = inputs @ inputs.T
        kernel.diagonal().add_(cost)
        return torch.cholesky_solve(wanted, torch.linalg.cholesky(kernel)).T @ inputs
    gram = inputs.T @ inputs
    gram.diagonal().add_(cost)
    return torch.cholesky_solve(inputs.T @ wanted, torch.linalg.cholesky(gram)).T


def factor_inverse(inputs: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Orders columns by falling squares, and factors the inverse of their damped Hessian.

    Args:
        inputs: X, (P, K), centred.
        damping: in shares of each diagonal entry.

    Returns:
        The order (K) int64, and U (K, K), upper, with Uᵀ·U = H⁻¹ for columns in that order.
    """
    hessian = (inputs.T @ inputs) / len(inputs)
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1  # a channel that is silent: its column is rounded to the nearest
    order = torch.argsort(diagonal, descending=True, stable=True)
    hessian = hessian[order][:, order]
    hessian.diagonal().mul_(1 + damping)
    # H = V·Vᵀ with V upper is the usual factor of the flipped matrix, and U = V⁻¹.
    upper = torch.linalg.cholesky(hessian.flip(0, 1)).flip(0, 1)
    identity = torch.eye(len(upper))
    return order, torch.linalg.solve_triangular(upper, identity, upper=True)


def round_in_order(
    matrix: Tensor, order: Tensor, factor: Tensor, grid: Grid, threads: int = 1
) -> Tensor:
    """Rounds column by column, and lets those that follow make up for each.

    Args:
        matrix: (N, K) float32.
        order: (K) in which columns are rounded.
        factor: U, (K, K), upper, in this order.
        grid: that they are rounded to.
        threads: runs of rows at once.

    Returns:
        (N, K) float32 on the grid.
    """
    rounded = torch.empty_like(matrix)
    columns: list[int] = order.tolist()
    diagonal: list[float] = factor.diagonal().tolist()

    def round_rows(start: int) -> None:
        rows = slice(start, start + _ROWS_AT_ONCE)
        left = matrix[rows].T[order]  # (K, n), a column of the matrix lies in one piece
        errors = torch.empty_like(left)

        def walk(first: int, last: int) -> None:
            if last - first > _LEAF_COLUMNS:
                middle = (first + last) // 2
                walk(first, middle)
                left[middle:last].addmm_(
                    factor[first:middle, middle:last].T, errors[first:middle], alpha=-1
                )
                walk(middle, last)
                return
            for k in range(first, last):
                nearest = grid.round_column(columns[k], left[k], rows)
                errors[k] = (left[k] - nearest) / diagonal[k]
                left[k] = nearest
                if k + 1 < last:
                    left[k + 1 : last].addr_(factor[k, k + 1 : last], errors[k], alpha=-1)

        walk(0, len(columns))
        rounded[rows, order] = left.T

    with divided_among(threads) as pool:
        list(pool.map(round_rows, range(0, len(matrix), _ROWS_AT_ONCE)))
    return rounded
