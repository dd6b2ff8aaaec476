"""Per-channel int8 goes where the image tokens bear it: shown with channels planted to break it.

A channel of a norm is made huge and the columns that meet it as much smaller: the network computes
what it did before, and a scale for all activations has nothing left for the other channels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from quantize.channelwise import round_activations, round_channels
from quantize.cpu import vision_side
from quantize.cpu.parts import PartWriter
from quantize.cpu.vision_side import (
    LARGEST_ERROR,
    LEAST_COSINE,
    PerChannelMeter,
    choose_per_channel,
    write_vision_side,
)
from quantize.measure.probes import EncodedProbes
from quantize.measure.reference import compute_image_tokens
from quantize.plan import Shapes, make_plan
from quantize.recipe import INT8_PER_CHANNEL, RECIPES, Recipe
from tests.torch.weights.random_weights import make_read
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.progress import show_nothing
from tinyv_cli.spec import ModelSpec, make_tiny_spec

SPEC = make_tiny_spec(3)
PLANTED = {  # norm → the matrix that meets it
    f"vision.layers.{layer}.{norm}": f"vision.layers.{layer}.{matrix}.weight"
    for layer in range(SPEC.vision.n_layers)
    for norm, matrix in (("layer_norm1", "self_attn.qkv"), ("layer_norm2", "mlp.fc1"))
}
CHANNELS, HUGE = [3, 40, 77], 75


@dataclass(frozen=True)
class PlantedWeights:
    """Random weights whose ViT norms have channels `factor` times as large as they were."""

    factor: float
    spec: ModelSpec = SPEC

    @property
    def shapes(self) -> Shapes:
        return {n: tuple(t.shape) for n, t in make_empty_model(SPEC).state_dict().items()}

    def read(self, name: str) -> torch.Tensor:
        tensor = make_read(SPEC)(name)
        if name.rpartition(".")[0] in PLANTED:
            tensor[CHANNELS] *= self.factor
        elif name in PLANTED.values():
            tensor[:, CHANNELS] /= self.factor
        return tensor


def write(weights: PlantedWeights, folder: Path) -> tuple[Recipe, EncodedProbes]:
    plan = make_plan(SPEC, weights.shapes, RECIPES[4])
    writer = PartWriter(folder, plan, plan.recipe, weights.read, 1, show_nothing)
    return write_vision_side(writer, weights, least_weights=0)


def list_per_channel(recipe: Recipe) -> set[str]:
    return {name for name in PlantedWeights(1).shapes if recipe.rounding(name).per_channel}


CANDIDATES = set(PerChannelMeter(PlantedWeights(1).shapes, 0).errors)


def test_planting_channels_leaves_the_network_as_it_was():
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    plain, planted = (
        compute_image_tokens(SPEC, PlantedWeights(factor).read, pixels) for factor in (1, HUGE)
    )
    assert np.abs(plain - planted).max() < 1e-4 * np.abs(plain).max()


def test_a_network_without_huge_channels_is_rounded_per_channel_throughout(tmp_path):
    recipe, probes = write(PlantedWeights(1), tmp_path)
    assert list_per_channel(recipe) == CANDIDATES
    assert len(CANDIDATES) == 4 * SPEC.vision.n_layers + 2
    assert probes.cosines.min() >= LEAST_COSINE


def test_a_matrix_that_meets_huge_channels_keeps_its_groups(tmp_path):
    recipe, probes = write(PlantedWeights(HUGE), tmp_path)
    assert list_per_channel(recipe) == CANDIDATES - set(PLANTED.values())
    assert not any(recipe.rounding(name).per_channel for name in PLANTED.values())
    assert probes.cosines.min() >= LEAST_COSINE


def test_rounded_per_channel_everywhere_the_same_network_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(vision_side, "choose_per_channel", choose_all)
    monkeypatch.setattr(vision_side, "LEAST_COSINE", -1.0)
    recipe, probes = write(PlantedWeights(HUGE), tmp_path)
    assert list_per_channel(recipe) == CANDIDATES
    assert probes.cosines.min() < LEAST_COSINE


def test_image_tokens_that_turned_too_far_leave_fewer_matrices_per_channel(tmp_path, monkeypatch):
    monkeypatch.setattr(vision_side, "choose_per_channel", choose_all)
    recipe, probes = write(PlantedWeights(HUGE), tmp_path)
    chosen = list_per_channel(recipe)
    assert len(chosen) == len(CANDIDATES) // 4
    assert chosen.isdisjoint(PLANTED.values())
    assert probes.cosines.min() >= LEAST_COSINE


def choose_all(errors: dict[str, float]) -> list[str]:
    return choose_per_channel(errors, limit=float("inf"))


def test_small_matrices_and_unrounded_ones_are_left_alone(tmp_path):
    weights = PlantedWeights(1)
    for bits, least_weights in ((4, 10**9), (32, 0)):
        plan = make_plan(SPEC, weights.shapes, RECIPES[bits])
        writer = PartWriter(tmp_path, plan, plan.recipe, weights.read, 1, show_nothing)
        recipe, _ = write_vision_side(writer, weights, least_weights)
        assert recipe == RECIPES[bits]


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_meter_measures_the_operators_error(spread):
    """Its error is that of activations and weights, both rounded: here from the codes alone."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1, 64, 96, generator=generator)
    x[..., 5] *= spread
    linear = torch.nn.Linear(96, 80)
    matrix = linear.weight.data = torch.randn(80, 96, generator=generator)
    name = "vision.layers.0.mlp.fc1.weight"
    meter = PerChannelMeter({name: (80, 96)}, 0)
    with torch.no_grad():
        meter.watch(name, linear, x, linear(x))
    rounded = round_activations(x[0], float(x.min()), float(x.max()))
    product = rounded @ round_channels(matrix).to_matrix().T
    exact = x[0] @ matrix.T
    errors = (product - exact).norm(dim=1) / exact.norm(dim=1)
    assert meter.errors[name] == pytest.approx(float(errors.mean()), rel=1e-5)
    assert (meter.errors[name] < LARGEST_ERROR) == (spread == 1)


def test_a_row_of_codes_is_symmetric_and_off_by_half_a_scale_at_most():
    matrix = torch.randn(50, 130, generator=torch.Generator().manual_seed(5))
    matrix[7] = 0
    rounded = round_channels(matrix)
    assert rounded.codes.abs().amax() == 127
    assert (rounded.codes[7] == 0).all()
    assert ((rounded.to_matrix() - matrix).abs() <= rounded.scales[:, None] * 0.5001).all()


def test_the_recipe_says_what_was_chosen():
    name = "vision.layers.1.mlp.fc1.weight"
    recipe = RECIPES[4].replace_rounding([name], INT8_PER_CHANNEL)
    assert recipe.to_dict()["rules"][0] == {"tensors": name, "bits": 8, "group": "channel"}
