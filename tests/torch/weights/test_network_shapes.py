"""The network's tensors are those that the public files hold, in the order of computation."""

import math

import pytest

from tinyv_cli.spec import ModelSpec, make_full_spec, make_tiny_spec
from weights.reading.accounting import expected_shapes
from weights.reading.naming import (
    PHI_LAYOUTS,
    make_phi_table,
    make_qformer_table,
    make_vision_table,
)

SPEC = ModelSpec()
PUBLISHED_SHAPES = {
    "vision.embeddings.position_embedding": (1, 257, 1408),
    "vision.embeddings.patch_embedding.weight": (1408, 3, 14, 14),
    "vision.layers.38.self_attn.qkv.weight": (3 * 1408, 1408),
    "vision.layers.38.self_attn.qkv.bias": (3 * 1408,),
    "vision.layers.38.mlp.fc1.weight": (6144, 1408),
    "qformer.query_tokens": (1, 32, 768),
    "qformer.bert.encoder.layer.10.crossattention.attention.key.weight": (768, 1408),
    "qformer.bert.encoder.layer.11.intermediate_query.dense.weight": (3072, 768),
    "projection.first.weight": (4096, 768),
    "projection.second.weight": (2560, 4096),
    "language.embed_tokens.weight": (51200, 2560),
    "language.layers.31.attention.qkv.weight": (3 * 2560, 2560),
    "language.layers.31.attention.q_layernorm.weight": (80,),
    "language.layers.31.post_layernorm.weight": (2560,),
    "language.layers.31.mlp.fc2.weight": (2560, 10240),
    "language.lm_head.weight": (51200, 2560),
}
VISION_LAYER = (
    "layer_norm1.weight",
    "layer_norm1.bias",
    "self_attn.qkv.weight",
    "self_attn.qkv.bias",
    "self_attn.projection.weight",
    "self_attn.projection.bias",
    "layer_norm2.weight",
    "layer_norm2.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
)


@pytest.mark.parametrize("layout", PHI_LAYOUTS)
@pytest.mark.parametrize(
    "spec",
    [make_full_spec(3), make_full_spec(4), make_tiny_spec(3), make_tiny_spec(4)],
    ids=["full-3", "full-4", "tiny-3", "tiny-4"],
)
def test_the_tables_name_every_tensor_of_the_network_and_no_other(spec, layout):
    tables = [make_vision_table(spec), make_qformer_table(spec), make_phi_table(spec, layout)]
    named = {target.name for table in tables for target in table.targets.values()}
    named |= make_phi_table(spec, layout).optional
    named |= {f"projection.{n}.{kind}" for n in ("first", "second") for kind in ("weight", "bias")}
    assert named == set(expected_shapes(spec))


def test_the_published_sizes_have_the_published_shapes_and_number_of_weights():
    shapes = expected_shapes(make_full_spec(3))
    assert PUBLISHED_SHAPES.items() <= shapes.items()

    def count(start):
        return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(start))

    assert count("language.") / 1e9 == pytest.approx(2.78, abs=0.01)
    assert count("vision.") / 1e9 == pytest.approx(0.985, abs=0.005)
    assert count("qformer.") / 1e6 == pytest.approx(105, abs=1)
    assert count("projection.") / 1e6 == pytest.approx(13.6, abs=0.1)


def test_the_order_is_that_of_computation_and_not_of_registration():
    names = list(expected_shapes(make_tiny_spec(4)))
    parts = [name.partition(".")[0] for name in names]
    assert list(dict.fromkeys(parts)) == ["vision", "qformer", "projection", "language"]
    assert parts == sorted(parts, key=list(dict.fromkeys(parts)).index)
    first = names.index("vision.layers.0.layer_norm1.weight")
    for i in (0, 1):
        layer = [f"vision.layers.{i}.{name}" for name in VISION_LAYER]
        assert names[first + i * len(layer) :][: len(layer)] == layer
