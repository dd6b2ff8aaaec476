"""A float32 matrix becomes codes, scales and zero points by group, in torch's own tensors.

Asymmetric: a weight is (code - zero_point) · scale. Groups are runs of columns within a row; the
last one may be shorter. Codes are 0 … 2^bits - 1, scales float32 and positive, zero points
codes themselves, rounding is to the nearest (ties to even). Zero points cost 0.03 or 0.06 bits a
weight and win 3 to 18 % of the squared error of symmetric codes (DESIGN.md).

Bound held by the tests: with the plain range (`shrink` 1) every weight is off by at most half a
scale, plus half a scale where the zero point was rounded; the searched scale never has a larger
squared error than the plain one.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from quantize.recipe import Rounding

# Fractions of a group's range that are tried, at 4 bits: 9.07e-3 of the squares of normal weights
# is left as error. 20 fractions and 3 refinements leave 9.03e-3 and take seven times as long.
_SHRINKS = {4: (1.0, 0.95, 0.90, 0.85, 0.80, 0.75), 8: (1.0, 0.98)}
# Where columns have weights, 0.4 % more error is left than by the six, in two thirds of the time.
_WEIGHTED_SHRINKS = _SHRINKS | {4: (1.0, 0.93, 0.86, 0.79)}
_REFINEMENTS = 1
_CHUNK_WEIGHTS = 1 << 17  # 512 KiB of float32: the search stays in a core's cache


@dataclass(frozen=True)
class GroupedCodes:
    """A rounded matrix of N rows and K columns in G groups.

    Attributes:
        codes: (N, G · group) uint8; columns past K hold the zero point of their group.
        scales: (N, G) float32.
        zero_points: (N, G) uint8.
        rounding: as asked for, the group fitted.
        n_columns: K.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor
    rounding: Rounding
    n_columns: int

    def to_matrix(self) -> torch.Tensor:
        """Returns the rounded matrix in float32, (N, K)."""
        grouped = self.codes.view(*self.scales.shape, self.rounding.group).float()
        matrix = (grouped - self.zero_points.unsqueeze(-1).float()) * self.scales.unsqueeze(-1)
        return matrix.flatten(1)[:, : self.n_columns]


def round_matrix(
    matrix: torch.Tensor,
    rounding: Rounding,
    threads: int = 1,
    weights: torch.Tensor | None = None,
) -> GroupedCodes:
    """Rounds a matrix with the scales and zero points of least squared error among those tried.

    Args:
        matrix: (N, K) float32, finite.
        rounding: 2 to 8 bits; the group is fitted to K.
        threads: how many runs of rows are searched at once; the result does not depend on it.
        weights: (K) float32, positive: how much a squared error in each column costs; None: all the
            same.

    Returns:
        Codes whose `to_matrix` is near the matrix.
    """
    n_rows, n_columns = matrix.shape
    rounding = rounding.fit(n_columns)
    n_groups = -(-n_columns // rounding.group)
    padding = n_groups * rounding.group - n_columns
    codes = torch.empty(n_rows, n_groups, rounding.group, dtype=torch.uint8)
    scales = torch.empty(n_rows, n_groups)
    zero_points = torch.empty(n_rows, n_groups, dtype=torch.uint8)
    step = max(1, _CHUNK_WEIGHTS // (n_groups * rounding.group))
    if weights is not None:
        weights = torch.nn.functional.pad(weights, (0, padding)).view(n_groups, -1)

    def round_rows(start: int) -> None:
        part = slice(start, start + step)
        rows = torch.nn.functional.pad(matrix[part], (0, padding))
        found = _search_groups(rows.view(-1, n_groups, rounding.group), rounding.bits, weights)
        codes[part] = found[0].to(torch.uint8)
        scales[part] = found[1].squeeze(-1)
        zero_points[part] = found[2].squeeze(-1).to(torch.uint8)

    with divided_among(threads) as pool:
        list(pool.map(round_rows, range(0, n_rows, step)))
    return GroupedCodes(codes.flatten(1), scales, zero_points, rounding, n_columns)


@contextmanager
def divided_among(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Yields a pool of threads in which torch computes without further ones.

    Runs of rows are divided among threads, not each small operator.
    """
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(torch_threads)


def _search_groups(
    groups: torch.Tensor, bits: int, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Finds codes, scale and zero point for each group of `groups` (R, G, group)."""
    top = 2**bits - 1
    low = groups.amin(-1, keepdim=True).clamp_(max=0)
    high = groups.amax(-1, keepdim=True).clamp_(min=0)
    span = (high - low) / top
    span = torch.where(span > 0, span, torch.ones_like(span))
    best_scale, best_zero = span, torch.zeros_like(span)
    best_error = torch.full_like(span, torch.inf, dtype=torch.float64)
    shrinks = _SHRINKS if weights is None else _WEIGHTED_SHRINKS
    for shrink in shrinks.get(bits, (1.0,)):
        scale = span * shrink
        zero = (-low * shrink / scale).round_().clamp_(0, top)
        for refinement in range(1 + _REFINEMENTS):
            steps = _round_groups(groups, scale, zero, top)
            fitted = scale
            if refinement < _REFINEMENTS:
                # The scale of least squared error for these steps: Σw·n / Σn².
                power = _add_up(steps.square(), weights)
                fitted = (_add_up(groups * steps, weights) / power).float()
                fitted = torch.where((power > 0) & (fitted > 0), fitted, scale)
            error = _add_up(steps.mul_(scale).sub_(groups).square_(), weights)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_zero = torch.where(better, zero, best_zero)
            scale = fitted
    codes = _round_groups(groups, best_scale, best_zero, top).add_(best_zero)
    return codes, best_scale, best_zero


def _round_groups(
    groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, top: int
) -> torch.Tensor:
    """Rounds to steps from the zero point (R, G, group), by scale and zero point (R, G, 1)."""
    return (groups / scale).round_().add_(zero).clamp_(0, top).sub_(zero)


def _add_up(groups: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Sums (R, G, group), times the weights (G, group) of its columns, → (R, G, 1).

    Processors add in different orders, and the last bit of a float32 sum would make another variant
    of the same sources; in float64 that no longer reaches the bits of a scale. Weights come of such
    sums themselves, so that with them a third of the time is saved instead.
    """
    if weights is not None:
        return (groups * weights).sum(-1, keepdim=True)
    return groups.sum(-1, keepdim=True, dtype=torch.float64)
