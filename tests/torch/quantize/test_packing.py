"""Packed bytes mean to onnxruntime what the codes mean here."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from quantize.cpu.graph import DataFile, GraphWriter, to_matmul_nbits
from quantize.groupwise import round_matrix
from quantize.recipe import RECIPES, Recipe, Rounding
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort


def from_nibbles(packed: np.ndarray) -> np.ndarray:
    """Unpacks bytes (…, n) into their 4-bit codes (…, 2n), the lower nibble first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def test_nibbles_are_packed_the_lower_one_first():
    rounded = round_matrix(torch.randn(3, 256), Rounding(4))
    packed, _, zero_points = to_matmul_nbits(rounded)
    assert packed.shape == (3, 2, 64)
    assert np.array_equal(from_nibbles(packed).reshape(3, 256), rounded.codes.numpy())
    assert np.array_equal(from_nibbles(zero_points.reshape(3, 1)), rounded.zero_points.numpy())


@pytest.mark.parametrize(
    ("n_columns", "group"), [(2560, 128), (1408, 128), (192, 64), (160, 32), (300, 128), (16, 128)]
)
def test_a_group_leaves_no_column_over_where_it_can(n_columns, group):
    assert Rounding(4).fit(n_columns) == Rounding(4, group)


@pytest.mark.parametrize("n_columns", [128, 160, 384, 300])
@pytest.mark.parametrize("bits", [4, 8, 32])
def test_a_linear_of_the_graph_is_the_rounded_matrix_times_its_input(tmp_path, bits, n_columns):
    tensors = {"m.weight": torch.randn(48, n_columns), "m.bias": torch.randn(48)}
    recipe = Recipe(bits, (("m.weight", Rounding(bits)),) if bits < 32 else ())
    with DataFile(tmp_path / "m.data") as data:
        graph = GraphWriter(tmp_path / "m.onnx", data, recipe, tensors.__getitem__)
        graph.linear("x", "m")
        shapes = {"x": n_columns, "m.out": 48}
        infos = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", width])
            for name, width in shapes.items()
        ]
        graph.save(infos[:1], infos[1:])
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(7, n_columns)
    out = session.run(None, {"x": x.numpy()})[0]
    matrix = tensors["m.weight"]
    if bits < 32:
        matrix = round_matrix(matrix, Rounding(bits)).to_matrix()
    expected = (x @ matrix.T + tensors["m.bias"]).numpy()
    # The kernel rounds activations to 8 bits by group: 0.6 % of their norm, measured.
    limit = 1e-6 if bits == 32 else 0.01
    assert np.linalg.norm(out - expected) <= limit * np.linalg.norm(expected)


def test_every_recipe_keeps_norms_and_biases_in_float32():
    for recipe in RECIPES.values():
        for name in (
            "language.layers.3.input_layernorm.weight",
            "language.layers.3.attention.qkv.bias",
            "language.layers.3.attention.q_layernorm.weight",
            "vision.layers.0.layer_norm1.weight",
            "qformer.bert.encoder.layer.0.attention.output.LayerNorm.weight",
            "vision.ln_vision.bias",
        ):
            assert recipe.rounding(name).bits == 32, name


def test_the_4_bit_recipe_rounds_only_language_matrices_to_4_bits():
    recipe = RECIPES[4]
    assert recipe.rounding("language.layers.31.mlp.fc2.weight").bits == 4
    for name in (
        "language.lm_head.weight",
        "language.embed_tokens.weight",
        "vision.layers.38.mlp.fc1.weight",
        "qformer.bert.encoder.layer.2.crossattention.attention.key.weight",
        "qformer.bert.encoder.layer.11.output_query.dense.weight",
        "projection.weight",
    ):
        assert recipe.rounding(name).bits == 8, name
