"""Two streams through a block, and what the CPU's operator does to activations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from quantize.calibrate.grids import AffineGrid
from quantize.calibrate.layer import MATRICES, bears_8_bits, round_activations, round_layer
from quantize.calibrate.packing import pack
from quantize.calibrate.rounding import Settings, calibrate_matrix
from quantize.cpu.graph import DataFile, GraphWriter
from quantize.groupwise import round_matrix
from quantize.recipe import INT4, INT8, Recipe
from tests.torch.weights.random_weights import make_read
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.model.phi import PhiBlock, make_rotary
from tinyv_cli.spec import make_tiny_spec

SPEC = make_tiny_spec(3)
LANGUAGE = SPEC.language


def make_sequences(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.standard_normal((n, LANGUAGE.width), np.float32) for n in lengths]


def make_block() -> PhiBlock:
    block = PhiBlock(LANGUAGE, 0)
    read = make_read(SPEC)
    block.load_state_dict({key: read(f"language.layers.0.{key}") for key in block.state_dict()})
    return block


@torch.no_grad()
def test_packed_sequences_do_not_see_each_other():
    sequences, block = make_sequences(5, 600, 90, 1, 330), make_block()
    packed = pack(sequences, LANGUAGE)
    assert packed.states.shape[0] < len(sequences)
    assert packed.filled.sum() == sum(map(len, sequences))
    together = packed.run(block)
    check_each_is_as_alone(sequences, packed, block, together)


def check_each_is_as_alone(sequences, packed, block, together):
    for sequence, (row, place) in zip(sequences, packed.places, strict=True):
        rotary = make_rotary(LANGUAGE, torch.arange(len(sequence))[None], torch.float32)
        alone = block(torch.from_numpy(sequence)[None], rotary)[0]
        assert torch.allclose(together[row, place], alone, atol=1e-4)


@torch.no_grad()
def test_neighbours_share_the_beginnings_that_they_have_in_common():
    beginning, *rests = make_sequences(45, 20, 33, 1, 40, 600, 7)
    alike = [np.concatenate([beginning, each]) for each in rests[:4]]
    longer = np.concatenate([beginning[:30], rests[4]])  # has no room beside the others
    sequences = [*alike, beginning, longer, rests[5]]
    packed, block = pack(sequences, LANGUAGE, share_beginnings=True), make_block()
    assert packed.filled.sum() == 45 + 20 + 33 + 1 + 40 + 630 + 7
    check_each_is_as_alone(sequences, packed, block, packed.run(block))


def round_all(calibrated: bool):
    def round_linear(name: str, linear: nn.Linear, x: torch.Tensor, wanted: torch.Tensor):
        x = round_activations(x, INT4.fit(x.shape[1]).group)
        if not calibrated:
            linear.weight.copy_(round_matrix(linear.weight, INT4).to_matrix())
            return x

        def make_grid(matrix: torch.Tensor, weights: torch.Tensor) -> AffineGrid:
            return AffineGrid(matrix, weights, INT4, 1)

        found = calibrate_matrix(linear.weight, x, wanted, make_grid, Settings())
        linear.weight.copy_(found.matrix)
        linear.bias.copy_(found.bias)
        return x

    return round_linear


@torch.no_grad()
def test_the_streams_are_the_exact_blocks_output_and_that_of_the_rounded_one():
    packed, block = pack(make_sequences(*[60] * 30), LANGUAGE), make_block()
    exact = packed.run(block)
    errors = []
    for calibrated in (False, True):
        block = make_block()
        exact_out, rounded = round_layer(block, packed, packed, round_all(calibrated))
        assert torch.equal(exact_out, exact)
        hooks = [
            block.get_submodule(name).register_forward_pre_hook(
                lambda linear, x: (round_activations(x[0], INT4.fit(x[0].shape[-1]).group),)
            )
            for name in MATRICES
        ]
        again = replace(packed).run(block)
        assert torch.allclose(again[packed.filled], rounded[packed.filled], atol=1e-4)
        errors.append(float((rounded - exact)[packed.filled].norm()))
        assert all(hooks)
    assert errors[1] < 0.85 * errors[0]  # of activations without structure; 0.3 on the miniature


@pytest.mark.parametrize("n_columns", [128, 160, 300])
@pytest.mark.parametrize("rounding", [INT4, INT8])
def test_activations_are_rounded_as_the_operator_rounds_them(rounding, n_columns, tmp_path):
    tensors = {"m.weight": torch.randn(48, n_columns), "m.bias": torch.randn(48)}
    x = torch.randn(33, n_columns) * torch.rand(33, 1) * 10
    out = run_linear(tensors, Recipe(4, (("m.weight", rounding),)), x, tmp_path)
    group = rounding.fit(n_columns).group
    matrix = round_matrix(tensors["m.weight"], rounding).to_matrix()
    simulated = round_activations(x, group) @ matrix.T + tensors["m.bias"]
    plain = x @ matrix.T + tensors["m.bias"]
    # One position and many take different kernels; some keep more of the activations.
    assert (out - simulated).norm() < 0.35 * (out - plain).norm() + 1e-5 * plain.norm()


def run_linear(tensors, recipe, x, folder, find_codes=None) -> torch.Tensor:
    with DataFile(folder / "m.data") as data:
        graph = GraphWriter(
            folder / "m.onnx", data, recipe, tensors.__getitem__, find_codes=find_codes
        )
        graph.linear("x", "m")
        infos = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", width])
            for name, width in (("x", x.shape[1]), ("m.out", 48))
        ]
        graph.save(infos[:1], infos[1:])
    session = ort.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("rounding", [INT4, INT8])
@pytest.mark.parametrize("factor", [100, 1000])
def test_with_float_activations_huge_channels_cost_the_others_nothing(rounding, factor, tmp_path):
    matrix, x = torch.randn(48, 256), torch.randn(20, 256)
    x[:, [5, 130]] *= factor
    matrix[:, [5, 130]] /= factor
    tensors = {"m.weight": matrix, "m.bias": torch.zeros(48)}
    rounded = round_matrix(matrix, rounding)
    expected = x @ rounded.to_matrix().T
    errors = []
    for is_float in (False, True):
        folder = tmp_path / str(is_float)
        folder.mkdir()
        kept = replace(rounding, float_activations=is_float)
        codes = replace(rounded, rounding=kept)
        out = run_linear(tensors, Recipe(4, (("m.weight", kept),)), x, folder, lambda _, c=codes: c)
        errors.append(float((out - expected).norm() / expected.norm()))
    assert errors[0] > 0.1
    assert errors[1] < 1e-5


@pytest.mark.parametrize(
    ("factor", "rows", "is_borne"),
    [(1, slice(None), True), (100, slice(None), False), (1000, slice(None), False)],
)
def test_it_is_measured_whether_a_product_bears_8_bits(factor, rows, is_borne):
    linear, x = nn.Linear(256, 48), torch.randn(500, 256)
    nn.init.normal_(linear.weight)
    x[rows, 5] *= factor
    with torch.no_grad():
        linear.weight[:, 5] /= factor
        assert bears_8_bits(linear, x, linear(x), 128) == is_borne
