"""Channels a hundred and a thousand times the rest: their matrices keep float activations.

A channel of a norm is made huge and the columns that meet it as much smaller: the network computes
what it did before, and activations in 8 bits have nothing left for the other channels of its group.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from quantize.calibrate.kept import KeptLayers
from quantize.calibrate.language import Calibration, CpuTarget, LanguagePass
from quantize.calibrate.packing import pack
from quantize.cpu.parts import PartWriter
from quantize.language_side import find_codes
from quantize.measure.reference import compute_logits
from quantize.plan import make_plan
from quantize.recipe import RECIPES
from tests.torch.weights.random_weights import make_read
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.progress import show_nothing
from tinyv_cli.spec import make_tiny_spec

SPEC = make_tiny_spec(3)
LANGUAGE = SPEC.language
CHANNELS = [3, 40, 77]
PLANTED_LAYER = 1
MEETING = {
    f"language.layers.{PLANTED_LAYER}.{matrix}.weight" for matrix in ("attention.qkv", "mlp.fc1")
}


def make_planted_read(factor: float):
    plain = make_read(SPEC)

    def read(name: str) -> torch.Tensor:
        tensor = plain(name)
        if name.startswith(f"language.layers.{PLANTED_LAYER}.input_layernorm"):
            tensor[CHANNELS] *= factor
        elif name in MEETING:
            tensor[:, CHANNELS] /= factor
        return tensor

    return read


def make_sequences(n: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((40, LANGUAGE.width), np.float32) for _ in range(n)]


def write(
    read, folder: Path, bits: int, is_calibrated: bool, is_measured: bool
) -> tuple[Path, set[str]]:
    """Writes the decoder; returns its graph and the matrices that keep float activations."""
    shapes = {n: tuple(t.shape) for n, t in make_empty_model(SPEC).state_dict().items()}
    recipe = RECIPES[bits]
    plan = make_plan(SPEC, shapes, recipe)
    measured = pack(make_sequences(6, 1), LANGUAGE)
    calibration = None
    if is_calibrated:
        streams = pack(make_sequences(30, 2), LANGUAGE)
        kept = KeptLayers(folder / "kept", "key")
        calibration = Calibration(streams, streams, CpuTarget(recipe, 1), kept)
    passed = LanguagePass(LANGUAGE, read, measured, calibration, recipe if is_measured else None)
    codes = find_codes(passed, recipe, 1)
    PartWriter(folder, plan, recipe, passed.read, 1, show_nothing, codes).write_decoder()
    [name] = plan.graphs("decoder")
    return folder / name, passed.unfit


def compute_error(graph: Path, read) -> float:
    """Returns how far the last position's logits are from full precision's, by their norm."""
    [prompt] = make_sequences(1, 3)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    cache = np.zeros((1, LANGUAGE.n_heads, len(prompt), LANGUAGE.head_width), np.float32)
    feeds = {each.name: cache for each in session.get_inputs()}
    feeds["embeddings"] = prompt[None]
    feeds["last_positions"] = np.array([len(prompt) - 1], np.int32)
    feeds["total_length"] = np.array(len(prompt), np.int32)
    logits = session.run(["logits"], feeds)[0][0]
    exact = compute_logits(SPEC, read, [prompt])[0][-1]
    return float(np.linalg.norm(logits - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize(("bits", "is_calibrated"), [(8, False), (4, False), (4, True)])
@pytest.mark.parametrize("factor", [100, 1000])
def test_matrices_that_meet_huge_channels_keep_float_activations(
    factor, bits, is_calibrated, tmp_path
):
    errors = {}
    for name, planted, is_measured in (
        ("plain", 1, True),
        ("measured", factor, True),
        ("trusted", factor, False),
    ):
        folder = tmp_path / name
        folder.mkdir()
        read = make_planted_read(planted)
        graph, unfit = write(read, folder, bits, is_calibrated, is_measured)
        assert unfit == (MEETING if name == "measured" else set())
        errors[name] = compute_error(graph, read)
    assert errors["measured"] < (0.9 if bits == 8 else 1.0) * errors["trusted"]
    if bits == 4:
        # At 8 bits it is the weights that planting costs most: columns a hundred times as small as
        # the others of their group.
        assert errors["measured"] < 1.6 * errors["plain"]


def test_one_position_with_huge_channels_does_not_take_the_fast_kernels_from_the_others(tmp_path):
    """A first token's are normed away: the other channels count little there in full precision."""
    read = make_planted_read(1)
    sequences = make_sequences(6, 1)
    for each in sequences:
        each[0, CHANNELS] *= 1000
    passed = LanguagePass(LANGUAGE, read, pack(sequences, LANGUAGE), None, RECIPES[4])
    for layer in range(LANGUAGE.n_layers):
        passed.read(f"language.layers.{layer}.mlp.fc2.bias")
    assert passed.unfit == set()
