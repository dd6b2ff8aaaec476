"""Products of bytes are exact, also where a processor's fast instructions would cut them off."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from quantize.cpu.graph import DataFile, GraphWriter
from quantize.recipe import INT8_PER_CHANNEL, Recipe
from tinyv_cli.backends.cpu import onnx_sessions
from tinyv_cli.backends.cpu.onnx_sessions import adds_wrongly, open_graph

PROBE = Path(onnx_sessions.__file__).with_name("saturation.onnx")
N_PRODUCTS, N_SUMS = 64, 16


def make_probe() -> onnx.ModelProto:
    """One product of bytes with weights of 127; `TINYV_WRITE_PROBE=1` writes it anew."""
    weights = numpy_helper.from_array(np.full((N_PRODUCTS, N_SUMS), 127, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["activations", "weights"], ["sums"])],
        "saturation",
        [helper.make_tensor_value_info("activations", TensorProto.UINT8, [1, N_PRODUCTS])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [1, N_SUMS])],
        [weights],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="tinyv")


def test_the_probe_is_one_product_that_would_be_cut_off():
    if os.environ.get("TINYV_WRITE_PROBE"):
        onnx.save(make_probe(), PROBE)
    assert onnx.load(PROBE) == make_probe()


def write_linear(path: Path) -> torch.Tensor:
    """Writes a per-channel linear whose codes are as large as can be; returns its matrix."""
    matrix = torch.randn(96, 256).sign()
    tensors = {"m.weight": matrix, "m.bias": torch.zeros(96)}
    recipe = Recipe(8, (("m.weight", INT8_PER_CHANNEL),))
    with DataFile(path.with_suffix(".data")) as data:
        graph = GraphWriter(path, data, recipe, tensors.__getitem__)
        graph.linear("x", "m")
        infos = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", width])
            for name, width in (("x", 256), ("m.out", 96))
        ]
        graph.save(infos[:1], infos[1:])
    return matrix


@pytest.mark.parametrize("wrongly", [None, True])
def test_per_channel_products_are_exact_where_every_sum_is_as_large_as_can_be(
    wrongly, tmp_path, monkeypatch
):
    if wrongly is not None:  # as on a processor without VNNI: the runtime takes other instructions
        monkeypatch.setattr(onnx_sessions, "adds_wrongly", lambda: wrongly)
    matrix = write_linear(tmp_path / "m.onnx")
    x = matrix[:40].clamp(min=0) * 255  # rows that meet their own signs: nothing cancels
    out = open_graph(tmp_path / "m.onnx", 1).run(None, {"x": x.numpy()})[0]
    assert np.array_equal(out, (x @ matrix.T).numpy())
    assert np.abs(out).max() > 2**14


@pytest.mark.parametrize("sums", [2072640, 1048544])
def test_a_processor_that_cuts_sums_off_is_noticed(sums, monkeypatch):
    class Session:
        def __init__(self, *_, **__):
            self.shape = [1, N_PRODUCTS]

        def get_inputs(self):
            return [self]

        def run(self, _, feeds):
            assert (feeds["activations"] == 255).all()
            return [np.full((1, N_SUMS), sums, np.int32)]

    monkeypatch.setattr(onnx_sessions.ort, "InferenceSession", Session)
    adds_wrongly.cache_clear()
    try:
        assert adds_wrongly() == (sums != 2072640)
    finally:
        adds_wrongly.cache_clear()
