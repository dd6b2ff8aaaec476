"""The arithmetic of calibrated rounding, against brute force on small matrices."""

import itertools

import pytest
import torch
from torch import Tensor

from quantize import groupwise
from quantize.calibrate import rounding
from quantize.calibrate.grids import AffineGrid, Nf4Grid, to_grouped_codes
from quantize.calibrate.rounding import (
    Settings,
    calibrate_matrix,
    factor_hessian,
    find_shift,
    round_in_order,
)
from quantize.groupwise import round_matrix
from quantize.recipe import INT4, Rounding


def make_inputs(n_positions: int, n_columns: int, seed: int = 0) -> Tensor:
    """Channels that are correlated, of different sizes, around means of their own."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n_columns // 3, n_columns, generator=generator)
    sizes = torch.rand(n_columns, generator=generator) * 2 + 0.1
    means = torch.randn(n_columns, generator=generator)
    latent = torch.randn(n_positions, n_columns // 3, generator=generator)
    noise = torch.randn(n_positions, n_columns, generator=generator)
    return (latent @ mixed + noise) * sizes + means


def make_matrix(n_rows: int, n_columns: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, n_columns, generator=generator) * 0.05


def make_affine(rounding: Rounding, kept: list[AffineGrid] | None = None):
    def make_grid(matrix: Tensor, weights: Tensor) -> AffineGrid:
        grid = AffineGrid(matrix, weights, rounding, 1)
        if kept is not None:
            kept.append(grid)
        return grid

    return make_grid


def make_nf4(matrix: Tensor, weights: Tensor) -> Nf4Grid:
    return Nf4Grid(matrix, weights)


def relative(out: Tensor, wanted: Tensor) -> float:
    return float((out - wanted).norm() / (wanted - wanted.mean(0)).norm())


@pytest.mark.parametrize("shape", [(40, 9), (9, 40), (25, 25)])
def test_a_shift_is_the_least_squares_one_by_either_side(shape):
    x, wanted = make_inputs(*shape), make_matrix(shape[0], 7)
    cost = 0.05 * shape[0] * float(x.square().mean())
    stacked = torch.cat([x, torch.eye(shape[1]) * cost**0.5]).double()
    expected = torch.linalg.lstsq(stacked, torch.cat([wanted, torch.zeros(shape[1], 7)]).double())
    found = find_shift(x, wanted, 0.05)
    assert torch.allclose(found.double(), expected.solution, atol=1e-4)


def test_the_factor_is_that_of_the_hessian_in_falling_order():
    x = make_inputs(50, 12)
    order, factor = factor_hessian(x, 0.1)
    hessian = x.T @ x / 50
    assert (hessian.diagonal()[order].diff() <= 0).all()
    hessian = hessian + 0.1 * torch.diag(hessian.diagonal())
    assert torch.allclose(factor @ factor.T, hessian[order][:, order], rtol=1e-4, atol=1e-5)
    assert torch.equal(factor, factor.triu())


class Steps:
    """All multiples of a step."""

    def __init__(self, step: float) -> None:
        self.step = step

    def round_column(self, column: int, values: Tensor) -> Tensor:
        return (values / self.step).round() * self.step


@pytest.mark.parametrize("seed", range(6))
def test_rounded_in_order_a_row_is_within_the_bound_and_near_the_best_of_all_choices(seed):
    step, n_columns = 0.04, 5
    x, matrix = make_inputs(30, n_columns, seed), make_matrix(50, n_columns, seed)
    order, factor = factor_hessian(x, 1e-6)
    rounded = matrix.clone()
    round_in_order(rounded.T, order, factor, Steps(step))
    assert torch.allclose(rounded / step, (rounded / step).round(), atol=1e-3)
    # Each column costs its error's square times V's, and no error is above half a step (Babai).
    bound = len(x) * float((step**2 / 4 * factor.diagonal().square()).sum())
    below = (matrix / step).floor() * step
    choices = torch.tensor(list(itertools.product(range(-3, 5), repeat=n_columns))) * step
    found = ((rounded - matrix) @ x.T).square().sum(1)
    tried = ((below[:, None] + choices - matrix[:, None]) @ x.T).square().sum(2)
    best = tried.amin(1)
    nearest = (((matrix / step).round() * step - matrix) @ x.T).square().sum(1)
    assert (best <= found * 1.0001).all()
    assert (found <= bound * 1.001).all()
    assert found.sum() <= 1.6 * best.sum()
    assert found.sum() < nearest.sum()


@pytest.mark.parametrize("make_grid", [make_affine(INT4), make_nf4])
@pytest.mark.parametrize(("n_positions", "n_columns"), [(600, 128), (90, 128), (400, 160)])
def test_a_product_is_much_nearer_than_with_the_nearest_codes(make_grid, n_positions, n_columns):
    x, matrix = make_inputs(n_positions, n_columns), make_matrix(48, n_columns)
    bias = make_matrix(1, 48)[0]
    wanted = x @ matrix.T + bias
    ordinary = make_grid(matrix, torch.ones(n_columns))
    nearest = [ordinary.round_column(k, matrix[:, k]) for k in range(n_columns)]
    found = calibrate_matrix(matrix, x, wanted, make_grid, Settings())
    error = relative(x @ found.matrix.T + found.bias, wanted)
    assert error < 0.8 * relative(x @ torch.stack(nearest) + bias, wanted)
    # and on other inputs of the same kind, too
    other = make_inputs(n_positions + 300, n_columns)[n_positions:]
    wanted = other @ matrix.T + bias
    error = relative(other @ found.matrix.T + found.bias, wanted)
    assert error < relative(other @ torch.stack(nearest) + bias, wanted)


def test_the_mean_of_the_outputs_is_exact():
    x, matrix = make_inputs(300, 64), make_matrix(20, 64)
    wanted = x @ matrix.T + 3
    found = calibrate_matrix(matrix, x, wanted, make_affine(INT4), Settings())
    means = (x @ found.matrix.T + found.bias).mean(0)
    assert torch.allclose(means, wanted.mean(0), atol=1e-4)


def test_a_matrix_makes_up_for_inputs_that_are_rounded_already():
    exact, matrix = make_inputs(600, 64), make_matrix(20, 64)
    # what came in is off in a direction that other channels can make up for
    x = exact.clone()
    x[:, :8] = 0.8 * exact[:, :8] + 0.1 * exact[:, 8:16]
    wanted = exact @ matrix.T
    errors = []
    for strength in (0.0, 0.5, 1.0):
        settings = Settings(strength=strength)
        found = calibrate_matrix(matrix, x, wanted, make_affine(INT4), settings)
        errors.append(relative(x @ found.matrix.T + found.bias, wanted))
    assert errors[2] < errors[1] < errors[0]


@pytest.fixture
def _threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_restored")
def test_with_another_number_of_threads_it_comes_out_the_same():
    x, matrix = make_inputs(200, 96), make_matrix(64, 96)
    rounded = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        make_grid = make_affine(INT4)
        rounded.append(calibrate_matrix(matrix, x, x @ matrix.T, make_grid, Settings()))
    alone, divided = rounded
    assert (divided.matrix != alone.matrix).float().mean() < 0.01  # a last bit, now and then
    error, other = (relative(x @ each.matrix.T + each.bias, x @ matrix.T) for each in rounded)
    assert error == pytest.approx(other, rel=0.02)


@pytest.mark.parametrize("most", [128, 50])
def test_long_rows_are_rounded_in_runs_that_take_over_what_was_lost(most, monkeypatch):
    x, matrix = make_inputs(900, 384), make_matrix(32, 384)
    wanted = x @ matrix.T
    nearest = relative(x @ round_matrix(matrix, INT4).to_matrix().T, wanted)
    whole = calibrate_matrix(matrix, x, wanted, make_affine(INT4), Settings())
    monkeypatch.setattr(rounding, "_MOST_COLUMNS", most)
    runs = calibrate_matrix(matrix, x, wanted, make_affine(INT4), Settings())
    errors = [relative(x @ each.matrix.T + each.bias, wanted) for each in (whole, runs)]
    assert errors[0] < 0.6 * nearest
    assert errors[1] < 0.6 * nearest


def test_channels_that_are_silent_get_the_nearest_codes():
    matrix, x = make_matrix(8, 64), torch.zeros(50, 64)
    kept: list[AffineGrid] = []
    found = calibrate_matrix(matrix, x, x @ matrix.T + 1, make_affine(INT4, kept), Settings())
    nearest = round_matrix(matrix, INT4, weights=torch.ones(64)).to_matrix()
    assert torch.allclose(found.matrix, nearest)
    assert torch.equal(found.bias, torch.ones(8))


def test_channels_a_thousand_times_as_large_leave_the_others_their_gain():
    x, matrix = make_inputs(600, 128), make_matrix(48, 128)
    planted = x.clone()
    planted[:, [3, 40]] *= 1000
    shrunk = matrix.clone()
    shrunk[:, [3, 40]] /= 1000
    wanted = x @ matrix.T
    found = calibrate_matrix(shrunk, planted, wanted, make_affine(INT4), Settings())
    error = relative(planted @ found.matrix.T + found.bias, wanted)
    nearest = relative(planted @ round_matrix(shrunk, INT4).to_matrix().T, wanted)
    assert error < 0.4 * nearest


@pytest.mark.parametrize("n_columns", [128, 160, 300])
def test_an_affine_grids_arrays_are_what_was_computed_with(n_columns):
    x, matrix = make_inputs(300, n_columns), make_matrix(16, n_columns)
    kept: list[AffineGrid] = []
    found = calibrate_matrix(matrix, x, x @ matrix.T, make_affine(INT4, kept), Settings())
    codes = to_grouped_codes(kept[0].to_arrays(found.matrix), INT4)
    assert torch.equal(codes.to_matrix(), found.matrix)
    assert codes.codes.max() <= 15


def test_a_search_with_weights_is_better_where_they_are_large(monkeypatch):
    matrix = make_matrix(64, 256)
    weights = torch.ones(256)
    weights[::8] = 100
    plain, weighted = (round_matrix(matrix, INT4, weights=each) for each in (None, weights))
    errors = [((each.to_matrix() - matrix).square() * weights).sum() for each in (plain, weighted)]
    assert errors[1] < errors[0]
    # where they are all the same, it is as good as without them, and the same by the same fractions
    ones = torch.ones(256)
    even = round_matrix(matrix, INT4, weights=ones)
    squares = [(each.to_matrix() - matrix).square().sum() for each in (plain, even)]
    assert squares[1] < 1.01 * squares[0]
    monkeypatch.setattr(groupwise, "_WEIGHTED_SHRINKS", groupwise._SHRINKS)
    assert torch.equal(round_matrix(matrix, INT4, weights=ones).codes, plain.codes)
