"""A matrix and the activations that meet it become codes whose product is near the exact one.

Knows activations and a grid of allowed numbers; neither layers nor files. In words:

1. The target. W stands for exact inputs X; the rounded network sends X̂. With both centred by
   their means, W* = argmin ‖X̂·W*ᵀ − Y‖² + ridge · ‖W* − W‖², Y the output wanted; the matrix is
   moved from W towards W* by a share, its strength.
2. The Hessian H = X̂ᵀ·X̂ / P, damped, columns by falling diagonal, and its upper factor, H = V·Vᵀ.
   With errors δ = w − ŵ the loss is ‖δ·V‖²: entry k has those of columns up to k, times V_ik.
3. The grid, searched for the target with column k weighted by V_kk², and fixed from then on.
4. In this order each column is rounded where it makes its entry smallest: near w_k + Σ δ_i·V_ik /
   V_kk over the columns before it.
5. The bias takes what is left on the mean.

Where a row is longer than `_MOST_COLUMNS`, runs of columns are rounded one after the other, each
with a Hessian of its own and a target that also takes over what those before it lost: the whole
Hessian of Phi-2's fc2 would be 420 MB, and its factor a minute of work.

Source: GPTQ, arXiv 2210.17323, section 3 (the order by falling diagonal is its published code's; it
takes the inverse's factor, whose steps are the same: arXiv 2507.18553); targets for inputs that are
rounded already, GPTAQ, arXiv 2504.02692, section 3. Bounds held by the tests: against every other
choice of codes on small matrices, and never worse than the nearest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

_MOST_COLUMNS = 2560
_LEAF_COLUMNS = 8  # these take each other's errors one by one, and all others as products


class Grid(Protocol):
    """The numbers that the weights of one matrix may take, fixed."""

    def round_column(self, column: int, values: Tensor) -> Tensor:
        """Returns the allowed numbers that are nearest to a column's values, (N) float32."""


# A target (N, K) float32, and what a squared error in each column costs, (K) positive → its grid.
MakeGrid: TypeAlias = Callable[[Tensor, Tensor], Grid]


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

    strength: float = 0.5
    ridge: float = 0.05
    damping: float = 0.02


@dataclass(frozen=True)
class Calibrated:
    """A rounded matrix (N, K) float32 as its codes read, and the bias (N) that goes with it."""

    matrix: Tensor
    bias: Tensor


def calibrate_matrix(
    matrix: Tensor, inputs: Tensor, wanted: Tensor, make_grid: MakeGrid, settings: Settings
) -> Calibrated:
    """Rounds a matrix for the inputs that it will meet.

    With another number of torch's threads the last bits of a sum differ, and now and then a code.

    Args:
        matrix: W, (N, K) float32.
        inputs: X̂, (P, K) float32, as the operator multiplies them.
        wanted: Y, (P, N) float32, the outputs that it is to have, bias included.
        make_grid: makes the numbers that it may take.
        settings: how far it goes.

    Returns:
        The matrix and the bias with which inputs · matrixᵀ + bias is near to what is wanted.
    """
    n_columns = matrix.shape[1]
    means, wanted_means = inputs.mean(0), wanted.mean(0)
    centred = inputs - means
    left_over = (wanted - wanted_means).addmm_(centred, matrix.T, alpha=-1)
    n_runs = -(-n_columns // _MOST_COLUMNS)
    runs = [slice(*ends) for ends in pairwise(n_columns * n // n_runs for n in range(n_runs + 1))]
    factors = [factor_hessian(centred[:, run], settings.damping) for run in runs]
    weights = torch.empty(n_columns)
    for run, (order, factor) in zip(runs, factors, strict=True):
        weights[run][order] = factor.diagonal().square()
    rounded = matrix.T.contiguous()  # (K, N): each column in one piece, and a run of them, too
    grid = None
    for run, (order, factor) in zip(runs, factors, strict=True):
        x, part = centred[:, run], rounded[run]
        before = part.clone()
        part += find_shift(x, left_over, settings.ridge).mul_(settings.strength)
        grid = grid or make_grid(rounded.T.contiguous(), weights)
        round_in_order(rounded, order + run.start, factor, grid)
        if run is not runs[-1]:
            left_over.addmm_(x, part - before, alpha=-1)
    return Calibrated(rounded.T.contiguous(), wanted_means - means @ rounded)


def find_shift(inputs: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Finds the change of a matrix that adds what is wanted to its product.

    Args:
        inputs: X, (P, K), centred.
        wanted: R, (P, N), centred.
        ridge: in mean squares of an input.

    Returns:
        argmin over Dᵀ of ‖X·Dᵀ − R‖² / P + ridge · mean(X²) · ‖D‖², (K, N). By the normal equations
        of whichever side is the shorter: (XᵀX + cI)⁻¹·Xᵀ = Xᵀ·(XXᵀ + cI)⁻¹.
    """
    n_positions, n_columns = inputs.shape
    cost = ridge * n_positions * float(inputs.square().mean())
    if cost == 0:  # inputs of zeros need no other matrix
        return torch.zeros(n_columns, wanted.shape[1])
    by_position = n_positions <= n_columns
    gram = inputs @ inputs.T if by_position else inputs.T @ inputs
    gram.diagonal().add_(cost)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return (inverse @ inputs).T @ wanted if by_position else inverse @ (inputs.T @ wanted)


def factor_hessian(inputs: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Orders columns by falling squares, and factors their damped Hessian.

    Args:
        inputs: X, (P, K), centred.
        damping: in shares of each diagonal entry.

    Returns:
        The order (K) int64, and V (K, K), upper, with V·Vᵀ = H for columns in that order.
    """
    order = torch.argsort(inputs.square().sum(0), descending=True, stable=True)
    # The usual factor is lower; of the Hessian in rising order it is V flipped.
    rising = inputs[:, order.flip(0)]
    hessian = (rising.T @ rising).div_(len(inputs))
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1  # a channel that is silent: its column is rounded to the nearest
    diagonal.mul_(1 + damping)
    return order, torch.linalg.cholesky(hessian).flip(0, 1)


def round_in_order(matrix: Tensor, columns: Tensor, factor: Tensor, grid: Grid) -> None:
    """Rounds columns one after the other, and lets those that follow make up for each.

    Args:
        matrix: transposed, (K, N) float32; these columns are rounded in place.
        columns: (k) of it, in the order in which they are rounded.
        factor: V, (k, k), upper, in this order.
        grid: that they are rounded to.
    """
    spread = factor / factor.diagonal()
    wanted = matrix[columns]  # (k, N)
    errors = wanted.clone()  # becomes δ a column after the other
    for k, column in enumerate(columns.tolist()):
        n_done = k & -k  # so many columns before this one have yet to reach as many from here on
        if n_done >= _LEAF_COLUMNS:
            done, reached = slice(k - n_done, k), slice(k, k + n_done)
            wanted[reached].addmm_(spread[done, reached].T, errors[done])
        rounded = grid.round_column(column, wanted[k])
        matrix[column] = rounded
        error = errors[k].sub_(rounded)
        rest = slice(k + 1, (k // _LEAF_COLUMNS + 1) * _LEAF_COLUMNS)
        wanted[rest].addr_(spread[k, rest], error)
