"""What rounding costs on the golden cases, rung by rung: matrix, product, layer, part, logits."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantize.groupwise import round_matrix
from quantize.recipe import RECIPES
from tests.golden import CASES, GOLDEN, needs_golden
from tests.torch.conftest import GoldenCase, read_golden_case
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.variants.manifest import Variant
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources

pytestmark = [needs_golden, pytest.mark.parametrize("case", CASES)]

# Largest ‖rounded − exact‖ / ‖exact‖ of each rung by bits. Measured, the worse case: matrices
# 0.0957 at 4 bits and 0.0059 at 8; the rest stands beside its bound, 4 bits first. The networks are
# random, so errors grow from rung to rung; each bound leaves half as much again.
MATRIX_BOUNDS = {4: 0.105, 8: 0.0065}
DECODER_BOUNDS = {
    "language.layers.0.attention.qkv.out": {4: 0.14, 8: 0.013},  # 0.091, 0.0085
    "language.layers.0.out": {4: 0.20, 8: 0.020},  # 0.129, 0.0128
    "language.layers.2.out": {4: 0.28, 8: 0.026},  # 0.187, 0.0168
    "logits": {4: 0.30, 8: 0.032},  # 0.197, 0.0207
}
VISION_BOUNDS = {  # 8 bits in both recipes
    "vision.layers.0.out": 0.013,  # 0.0084
    "vision.layers.2.out": 0.020,  # 0.0128
    "vision.ln_vision.out": 0.020,  # 0.0132
    "qformer.bert.encoder.layer.0.output_query.LayerNorm.out": 0.015,  # 0.0095
    "qformer.bert.encoder.layer.3.output_query.LayerNorm.out": 0.025,  # 0.0161
    "image_tokens": 0.032,  # 0.0204
}


def relative(out: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(out - expected) / np.linalg.norm(expected))


def compute_values(
    variant: Variant, role: str, names: list[str], feeds: dict[str, np.ndarray], folder: Path
) -> list[np.ndarray]:
    """Runs a graph of the variant and gives values inside it by their names."""
    model = onnx.load(variant.path(role), load_external_data=False)
    outputs = {output.name for output in model.graph.output}
    for name in names:
        if name not in outputs:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    folder.mkdir()
    onnx.save(model, folder / f"{role}.onnx")
    shutil.copy(variant.path(f"{role}-data"), folder)
    session = ort.InferenceSession(folder / f"{role}.onnx", providers=["CPUExecutionProvider"])
    return session.run(names, feeds)


def make_decoder_feeds(golden: GoldenCase, variant: Variant) -> dict[str, np.ndarray]:
    spec, embeddings = variant.manifest.spec.language, golden.tensors["turn0_inputs_embeds"]
    n = embeddings.shape[1]
    cache = np.zeros((1, spec.n_heads, n, spec.head_width), np.float32)
    return {
        "embeddings": embeddings,
        "last_positions": np.array([n - 1], np.int32),
        "total_length": np.array(n, np.int32),
        **{f"past_{k}.{i}": cache for i in range(spec.n_layers) for k in ("key", "value")},
    }


@pytest.mark.parametrize("bits", [8, 4])
def test_every_rounded_matrix_is_as_near_as_the_arithmetic_promises(case, bits):
    n_rounded = 0
    with open_weights(resolve_sources(GOLDEN / case)) as weights:
        for name in weights.names:
            rounding = RECIPES[bits].rounding(name)
            if not rounding.has_codes:
                continue
            matrix = weights.read(name)
            rounded = round_matrix(matrix, rounding).to_matrix()
            assert (rounded - matrix).norm() / matrix.norm() < MATRIX_BOUNDS[rounding.bits], name
            n_rounded += 1
    assert n_rounded == 3 * 4 + 3 * 4 + 4 * 6 + 2 * 4 + 2


@pytest.mark.parametrize("bits", [8, 4])
def test_each_rung_of_the_decoder_stays_within_its_bound(case, bits, golden_variant, tmp_path):
    golden = read_golden_case(case)
    names = list(DECODER_BOUNDS)
    exact, rounded = (
        compute_values(
            golden_variant(case, n),
            "decoder",
            names,
            make_decoder_feeds(golden, golden_variant(case, n)),
            tmp_path / str(n),
        )
        for n in (32, bits)
    )
    for name, before, after in zip(names, exact, rounded, strict=True):
        error, bound = relative(after, before), DECODER_BOUNDS[name][bits]
        assert bound / 10 < error < bound, name


@pytest.mark.parametrize("bits", [8, 4])
def test_each_rung_of_the_vision_side_stays_within_its_bound(case, bits, golden_variant, tmp_path):
    feeds = {"pixels": read_golden_case(case).tensors["pixel_values"]}
    names = list(VISION_BOUNDS)
    exact, rounded = (
        compute_values(golden_variant(case, n), "vision", names, feeds, tmp_path / str(n))
        for n in (32, bits)
    )
    for name, before, after in zip(names, exact, rounded, strict=True):
        assert VISION_BOUNDS[name] / 10 < relative(after, before) < VISION_BOUNDS[name], name
