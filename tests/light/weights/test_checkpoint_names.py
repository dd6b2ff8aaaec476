"""The names in the public files, written out as they are published, against the tables."""

import pytest

from tinyv_cli.spec import make_full_spec
from weights.reading.naming import (
    PHI_LAYOUTS,
    Target,
    TensorPart,
    make_checkpoint_table,
    make_phi_table,
    make_qformer_table,
    make_vision_table,
)

SPEC = make_full_spec(4)
LORA_PARTS = (TensorPart.LORA_A, TensorPart.LORA_B)
QUERY, KEY, VALUE = TensorPart.QUERY, TensorPart.KEY, TensorPart.VALUE
LAYER, QFORMER = "language.layers.31", "qformer.bert.encoder.layer"
ATTENTION = f"{LAYER}.attention"

PHI_NAMES = {
    "fused": {
        "model.embed_tokens.weight": Target("language.embed_tokens.weight"),
        "model.layers.31.input_layernorm.bias": Target(f"{LAYER}.input_layernorm.bias"),
        "model.layers.31.self_attn.query_key_value.weight": Target(
            f"{ATTENTION}.qkv.weight", TensorPart.FUSED
        ),
        "model.layers.31.self_attn.query_key_value.bias": Target(
            f"{ATTENTION}.qkv.bias", TensorPart.FUSED
        ),
        "model.layers.31.self_attn.dense.weight": Target(f"{ATTENTION}.dense.weight"),
        "model.layers.31.mlp.fc1.bias": Target(f"{LAYER}.mlp.fc1.bias"),
        "model.layers.31.mlp.fc2.weight": Target(f"{LAYER}.mlp.fc2.weight"),
        "model.final_layernorm.weight": Target("language.final_layernorm.weight"),
        "lm_head.bias": Target("language.lm_head.bias"),
    },
    "split": {
        "model.layers.31.self_attn.q_proj.weight": Target(f"{ATTENTION}.qkv.weight", QUERY),
        "model.layers.31.self_attn.k_proj.bias": Target(f"{ATTENTION}.qkv.bias", KEY),
        "model.layers.31.self_attn.v_proj.weight": Target(f"{ATTENTION}.qkv.weight", VALUE),
        "model.layers.31.self_attn.dense.bias": Target(f"{ATTENTION}.dense.bias"),
    },
    "msft": {
        "transformer.embd.wte.weight": Target("language.embed_tokens.weight"),
        "transformer.h.31.ln.weight": Target(f"{LAYER}.input_layernorm.weight"),
        "transformer.h.31.mixer.Wqkv.weight": Target(f"{ATTENTION}.qkv.weight"),
        "transformer.h.31.mixer.out_proj.bias": Target(f"{ATTENTION}.dense.bias"),
        "transformer.h.31.mlp.fc1.weight": Target(f"{LAYER}.mlp.fc1.weight"),
        "lm_head.ln.bias": Target("language.final_layernorm.bias"),
        "lm_head.linear.weight": Target("language.lm_head.weight"),
    },
}
QKV_A = Target(f"{ATTENTION}.qkv.weight", TensorPart.LORA_A)
DENSE_B = Target(f"{ATTENTION}.dense.weight", TensorPart.LORA_B)
LORA = "llama_model.base_model.model.model.layers.31"
CHECKPOINT_NAMES = {
    f"{LORA}.self_attn.query_key_value.lora_A.weight": QKV_A,
    f"{LORA}.self_attn.query_key_value.lora_A.default.weight": QKV_A,
    f"{LORA}.self_attn.dense.lora_B.weight": DENSE_B,
    f"{LORA}.self_attn.dense.lora_B.default.weight": DENSE_B,
    f"{LORA}.self_attn.query_key_value.base_layer.weight": Target(
        f"{ATTENTION}.qkv.weight", TensorPart.FUSED
    ),
    f"{LORA}.self_attn.q_layernorm.weight": Target(f"{ATTENTION}.q_layernorm.weight"),
    f"{LORA}.post_layernorm.weight": Target(f"{LAYER}.post_layernorm.weight"),
    "llama_model.model.layers.31.input_layernorm.weight": Target(f"{LAYER}.input_layernorm.weight"),
    "llama_model.base_model.model.model.final_layernorm.weight": Target(
        "language.final_layernorm.weight"
    ),
    "llama_proj.weight": Target("projection.first.weight"),
    "llama_proj2.bias": Target("projection.second.bias"),
    "query_tokens": Target("qformer.query_tokens"),
}
QFORMER_NAMES = {
    "query_tokens": Target("qformer.query_tokens"),
    "ln_vision.bias": Target("vision.ln_vision.bias"),
    "Qformer.bert.embeddings.LayerNorm.weight": Target("qformer.bert.layernorm.weight"),
    "Qformer.bert.encoder.layer.11.attention.self.query.weight": Target(
        f"{QFORMER}.11.attention.attention.query.weight"
    ),
    "Qformer.bert.encoder.layer.10.crossattention.self.value.bias": Target(
        f"{QFORMER}.10.crossattention.attention.value.bias"
    ),
    "Qformer.bert.encoder.layer.0.crossattention.output.LayerNorm.weight": Target(
        f"{QFORMER}.0.crossattention.output.LayerNorm.weight"
    ),
    "Qformer.bert.encoder.layer.3.output_query.dense.weight": Target(
        f"{QFORMER}.3.output_query.dense.weight"
    ),
}
VISION_NAMES = {
    "cls_token": Target("vision.embeddings.class_embedding"),
    "pos_embed": Target("vision.embeddings.position_embedding"),
    "patch_embed.proj.weight": Target("vision.embeddings.patch_embedding.weight"),
    "blocks.38.attn.q_bias": Target("vision.layers.38.self_attn.qkv.bias", QUERY),
    "blocks.38.attn.v_bias": Target("vision.layers.38.self_attn.qkv.bias", VALUE),
    "blocks.38.attn.qkv.weight": Target("vision.layers.38.self_attn.qkv.weight"),
    "blocks.38.attn.proj.bias": Target("vision.layers.38.self_attn.projection.bias"),
    "blocks.38.norm2.weight": Target("vision.layers.38.layer_norm2.weight"),
}


@pytest.mark.parametrize("layout", PHI_LAYOUTS)
def test_phi_names_are_those_of_its_three_layouts(layout):
    assert PHI_NAMES[layout].items() <= make_phi_table(SPEC, layout).targets.items()


def test_checkpoint_names_are_those_of_every_known_writer():
    assert CHECKPOINT_NAMES.items() <= make_checkpoint_table(SPEC).targets.items()


def test_qformer_names_are_the_published_ones():
    table = make_qformer_table(SPEC)
    assert QFORMER_NAMES.items() <= table.targets.items()
    assert "Qformer.bert.encoder.layer.1.crossattention.self.key.weight" not in table.targets
    assert {"t5_proj.weight", "Qformer.bert.embeddings.position_ids"} <= table.unused


def test_vision_names_are_the_published_ones_and_the_40th_block_is_unused():
    table = make_vision_table(SPEC)
    assert VISION_NAMES.items() <= table.targets.items()
    assert {"blocks.39.mlp.fc1.weight", "norm.bias", "head.weight"} <= table.unused
    assert not any(name.startswith("blocks.40.") for name in {*table.targets, *table.unused})


def test_a_trained_checkpoint_of_the_published_size_has_262_entries():
    fused = make_phi_table(SPEC, "fused").targets.values()
    norms = {target.name for target in fused if target.name.endswith("layernorm.weight")}
    lora = {t for t in make_checkpoint_table(SPEC).targets.values() if t.part in LORA_PARTS}
    projections, position_ids = 4, 1
    assert len(norms) + len(lora) + projections + position_ids == 262
