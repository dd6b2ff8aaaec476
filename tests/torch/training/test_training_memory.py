"""What training is said to take is what it takes."""

import warnings
from dataclasses import replace

import pytest
import torch

from tinyv_cli.model.tinygptv import TinyGptV, make_empty_model
from tinyv_cli.spec import make_full_spec, make_tiny_spec
from weights.training.lora import add_lora, list_adapted, make_pair
from weights.training.memory import (
    count_frozen,
    count_saved_bytes,
    count_trained,
    estimate_training_bytes,
)
from weights.training.network import round_frozen
from weights.training.stages import STAGES, thaw

_TINY = make_tiny_spec(2)
SPEC = replace(
    _TINY, language=replace(_TINY.language, width=320, n_heads=4, mlp_width=1280, n_layers=3)
)
RANK = 8


def make_trained(spec, stage: int) -> tuple[TinyGptV, dict]:
    model = TinyGptV(spec)
    if stage > 1:
        generator = torch.Generator().manual_seed(0)
        pairs = {n: make_pair(m, RANK, generator) for n, m in list_adapted(model.language).items()}
        add_lora(model.language, pairs, 16.0)
    return model, thaw(model, STAGES[stage])


@pytest.mark.parametrize("stage", [1, 2])
def test_trained_weights_are_counted(stage):
    trained = make_trained(SPEC, stage)[1]
    rank = RANK if stage > 1 else 0
    assert count_trained(SPEC, rank) == sum(each.numel() for each in trained.values())


@pytest.mark.parametrize("spec", [SPEC, make_full_spec(4)], ids=["tiny", "full"])
def test_frozen_weights_are_counted_but_for_small_ones(spec):
    exact = sum(each.numel() for each in make_empty_model(spec).parameters())
    counted = count_frozen(spec) + count_trained(spec, 0)
    assert counted == pytest.approx(exact, rel=0.02 if spec is not SPEC else 0.12)


@pytest.mark.parametrize("stage", [1, 2])
def test_what_a_position_leaves_behind_is_counted(stage):
    model, trained = make_trained(SPEC, stage)
    round_frozen(model, trained)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    n_positions = 2 * 96
    embeddings = torch.randn(2, 96, SPEC.language.width, requires_grad=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16), hooks:
        warnings.filterwarnings("ignore", "Mismatch dtype")
        hidden = embeddings
        model.language.compute_hidden(hidden)
    counted = count_saved_bytes(SPEC.language, RANK if stage > 1 else 0)
    assert counted == pytest.approx(sum(saved.values()) / n_positions, rel=0.15)


def test_a_24_gb_card_holds_a_step_of_every_published_stage():
    spec = make_full_spec(4)
    for rank in (0, 64):
        assert estimate_training_bytes(spec, rank, positions=400) < 12 * 2**30
    assert estimate_training_bytes(spec, 64, positions=400, weight_bytes=4) > 16 * 2**30


def test_rounding_what_is_frozen_changes_nothing_that_bfloat16_would_not_change():
    exact, _ = make_trained(SPEC, 2)
    rounded, trained = make_trained(SPEC, 2)
    rounded.load_state_dict(exact.state_dict())
    round_frozen(rounded, trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert rounded.language.layers[0].attention.qkv.base.weight.dtype == torch.bfloat16
    embeddings = torch.randn(1, 9, SPEC.language.width)
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        warnings.filterwarnings("ignore", "Mismatch dtype")
        assert torch.equal(rounded.language(embeddings), exact.language(embeddings))
