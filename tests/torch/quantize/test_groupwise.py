"""Rung one of the ladder: what rounding a matrix may cost, from the arithmetic alone."""

import pytest
import torch

from quantize.groupwise import GroupedCodes, round_matrix
from quantize.recipe import Rounding

BITS = (4, 8)


def make_matrix(kind: str, n_rows: int = 64, n_columns: int = 384) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    matrix = torch.randn(n_rows, n_columns, generator=generator) * 0.02
    if kind == "heavy tails":
        return matrix / torch.rand(n_rows, n_columns, generator=generator).sqrt()
    if kind == "shifted":
        return matrix + 0.05
    return matrix


def round_plainly(matrix: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """The usual rounding: the scale is the range divided by the number of steps."""
    groups = matrix.view(-1, rounding.group)
    top = 2**rounding.bits - 1
    low = groups.amin(1, keepdim=True).clamp(max=0)
    high = groups.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / top
    zero = (-low / scale).round()
    codes = ((groups / scale).round() + zero).clamp(0, top)
    return ((codes - zero) * scale).view_as(matrix)


def squared_error(rounded: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return (rounded - matrix).square().view(-1, 128).sum(1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "shifted"])
def test_the_searched_scale_is_never_worse_than_the_plain_one(kind: str, bits: int):
    matrix, rounding = make_matrix(kind), Rounding(bits)
    searched = squared_error(round_matrix(matrix, rounding).to_matrix(), matrix)
    plain = squared_error(round_plainly(matrix, rounding), matrix)
    assert (searched <= plain * 1.00001).all()


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
def test_the_search_gains_a_tenth_of_the_squared_error_at_4_bits(kind: str):
    matrix, rounding = make_matrix(kind), Rounding(4)
    searched = squared_error(round_matrix(matrix, rounding).to_matrix(), matrix).sum()
    plain = squared_error(round_plainly(matrix, rounding), matrix).sum()
    assert searched < 0.95 * plain


@pytest.mark.parametrize("bits", BITS)
def test_every_weight_is_within_a_step_of_its_groups_plain_range(bits: int):
    # Half a step of rounding, half a step by which the rounded zero point moves the range, and what
    # the search may clip away at the ends in exchange for a smaller sum of squares.
    matrix = make_matrix("normal")
    plain_step = (matrix.view(-1, 128).amax(1) - matrix.view(-1, 128).amin(1)) / (2**bits - 1)
    shrunk = {4: 0.25 * 7.5, 8: 0.02 * 128}[bits]
    error = (round_matrix(matrix, Rounding(bits)).to_matrix() - matrix).abs().view(-1, 128).amax(1)
    assert (error <= plain_step * (1 + shrunk)).all()


@pytest.mark.parametrize(("bits", "largest"), [(4, 0.105), (8, 0.0065)])
def test_relative_error_of_normal_weights_is_as_stated(bits: int, largest: float):
    matrix = make_matrix("normal", 256, 1280)
    rounded = round_matrix(matrix, Rounding(bits)).to_matrix()
    assert (rounded - matrix).norm() / matrix.norm() < largest


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [0.0, 1.5, -3e-5, 1e20])
def test_a_constant_matrix_is_kept(value: float, bits: int):
    matrix = torch.full((3, 256), value)
    rounded = round_matrix(matrix, Rounding(bits)).to_matrix()
    torch.testing.assert_close(rounded, matrix, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", BITS)
def test_columns_that_fill_no_whole_group_are_rounded_like_the_others(bits: int):
    matrix = make_matrix("normal", 5, 384)[:, :300]
    rounded = round_matrix(matrix, Rounding(bits))
    assert rounded.to_matrix().shape == (5, 300)
    whole = round_matrix(matrix[:, :256], Rounding(bits)).to_matrix()
    assert torch.equal(rounded.to_matrix()[:, :256], whole)


def test_rows_do_not_depend_on_the_rows_around_them():
    matrix = make_matrix("normal", 9000, 128)  # more than one chunk of the search
    together = round_matrix(matrix, Rounding(4))
    alone = round_matrix(matrix[8190:8200], Rounding(4))
    assert torch.equal(together.codes[8190:8200], alone.codes)
    assert torch.equal(together.scales[8190:8200], alone.scales)


def test_zero_points_help_matrices_that_are_not_centred():
    matrix = make_matrix("shifted")
    groups = matrix.view(-1, 128)
    scale = groups.abs().amax(1, keepdim=True) / 7
    symmetric = ((groups / scale).round().clamp(-8, 7) * scale).view_as(matrix)
    asymmetric = round_matrix(matrix, Rounding(4)).to_matrix()
    assert (asymmetric - matrix).norm() < 0.8 * (symmetric - matrix).norm()


def test_codes_of_the_padding_mean_zero():
    rounded: GroupedCodes = round_matrix(make_matrix("shifted", 4, 384)[:, :200], Rounding(4))
    padding = rounded.codes.view(4, 2, 128)[:, 1, 72:]
    assert torch.equal(padding, rounded.zero_points[:, 1:].expand_as(padding))
