"""The names that tensors have in the public files become our names, without opening a file.

A table says of every name in one file which tensor of the merged network it is, or which part of
one. Tables are written out for a given spec, layer by layer, so that a look-up is exact: a name
that is in no table is unknown. Foreign names stand in this file alone.

Source: the published files; see the layouts in `PHI_LAYOUTS` and the writers in `LORA_NAMINGS`.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from tinyv_cli.spec import ModelSpec


class TensorPart(Enum):
    """The part of one of our tensors that a foreign tensor is."""

    WHOLE = auto()  # the tensor itself, rows of qkv ordered [3][head][d]
    FUSED = auto()  # all of qkv, rows ordered [head][3][d]
    QUERY = auto()  # the first third of qkv's rows
    KEY = auto()
    VALUE = auto()
    LORA_A = auto()  # (r, in): W += (alpha / r) · B · A
    LORA_B = auto()  # (out, r), rows in the order of the fused layout


class Target(NamedTuple):
    """The place of a foreign tensor in the merged network."""

    name: str
    part: TensorPart = TensorPart.WHOLE


Names = dict[str, Target]


@dataclass(frozen=True)
class NameTable:
    """All names that one file may hold.

    Attributes:
        targets: foreign name → its place.
        unused: foreign names that are known and not run.
        optional: names of ours that the file need not have.
    """

    targets: Names
    unused: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()


PHI_LAYOUTS = ("fused", "split", "msft")
LORA_NAMINGS = {"plain": "", "default": ".default"}  # peft up to 0.2, and since 0.3
POSITION_IDS = "Qformer.bert.embeddings.position_ids"
LORA_PREFIX = "llama_model.base_model.model."
PLAIN_PREFIX = "llama_model."
DISTRIBUTED_PREFIX = "module."
PROJECTION_WEIGHT = "llama_proj.weight"


def make_vision_table(spec: ModelSpec) -> NameTable:
    """Lists the names in eva_vit_g.pth; its last block, norm and head are not run."""
    targets: Names = {
        "cls_token": Target("vision.embeddings.class_embedding"),
        "pos_embed": Target("vision.embeddings.position_embedding"),
        **_make_pairs("patch_embed.proj", "vision.embeddings.patch_embedding"),
    }
    for i in range(spec.vision.n_layers):
        targets |= _make_vision_block(i)
    unused = {*_make_vision_block(spec.vision.n_layers), *_make_pairs("norm"), *_make_pairs("head")}
    return NameTable(targets, frozenset(unused))


def _make_vision_block(i: int) -> Names:
    foreign, ours = f"blocks.{i}", f"vision.layers.{i}"
    qkv = f"{ours}.self_attn.qkv"
    return {
        **_make_pairs(f"{foreign}.norm1", f"{ours}.layer_norm1"),
        f"{foreign}.attn.q_bias": Target(f"{qkv}.bias", TensorPart.QUERY),
        f"{foreign}.attn.v_bias": Target(f"{qkv}.bias", TensorPart.VALUE),
        f"{foreign}.attn.qkv.weight": Target(f"{qkv}.weight"),
        **_make_pairs(f"{foreign}.attn.proj", f"{ours}.self_attn.projection"),
        **_make_pairs(f"{foreign}.norm2", f"{ours}.layer_norm2"),
        **_make_pairs(f"{foreign}.mlp.fc1", f"{ours}.mlp.fc1"),
        **_make_pairs(f"{foreign}.mlp.fc2", f"{ours}.mlp.fc2"),
    }


def make_qformer_table(spec: ModelSpec) -> NameTable:
    """Lists the names in blip2_pretrained_flant5xxl.pth; its projection to T5 is not run."""
    targets: Names = {
        "query_tokens": Target("qformer.query_tokens"),
        **_make_pairs("ln_vision", "vision.ln_vision"),
        **_make_pairs("Qformer.bert.embeddings.LayerNorm", "qformer.bert.layernorm"),
    }
    for i in range(spec.qformer.n_layers):
        layer = f"bert.encoder.layer.{i}"
        targets |= _make_bert_attention(f"{layer}.attention")
        if spec.qformer.has_cross_attention(i):
            targets |= _make_bert_attention(f"{layer}.crossattention")
        for module in ("intermediate_query.dense", "output_query.dense", "output_query.LayerNorm"):
            targets |= _make_pairs(f"Qformer.{layer}.{module}", f"qformer.{layer}.{module}")
    return NameTable(targets, frozenset({POSITION_IDS, *_make_pairs("t5_proj")}))


def _make_bert_attention(name: str) -> Names:
    names: Names = {}
    for module in ("query", "key", "value"):
        ours = f"qformer.{name}.attention.{module}"
        names |= _make_pairs(f"Qformer.{name}.self.{module}", ours)
    for module in ("output.dense", "output.LayerNorm"):
        names |= _make_pairs(f"Qformer.{name}.{module}", f"qformer.{name}.{module}")
    return names


def make_phi_table(spec: ModelSpec, layout: str) -> NameTable:
    """Lists the names in Phi-2's weights in one of the three layouts.

    Stock Phi-2 has none of the three added norms; a file that has them is understood.
    """
    targets: Names = {}
    added: Names = {}
    for i in range(spec.language.n_layers):
        ours = f"language.layers.{i}"
        qkv = f"{ours}.attention.qkv"
        if layout == "msft":
            foreign, dense = f"transformer.h.{i}", "mixer.out_proj"
            targets |= _make_pairs(f"{foreign}.ln", f"{ours}.input_layernorm")
            targets |= _make_pairs(f"{foreign}.mixer.Wqkv", qkv)
        else:
            foreign, dense = f"model.layers.{i}", "self_attn.dense"
            targets |= _make_pairs(f"{foreign}.input_layernorm", f"{ours}.input_layernorm")
            if layout == "split":
                targets |= _make_pairs(f"{foreign}.self_attn.q_proj", qkv, TensorPart.QUERY)
                targets |= _make_pairs(f"{foreign}.self_attn.k_proj", qkv, TensorPart.KEY)
                targets |= _make_pairs(f"{foreign}.self_attn.v_proj", qkv, TensorPart.VALUE)
            else:
                fused = f"{foreign}.self_attn.query_key_value"
                targets |= _make_pairs(fused, qkv, TensorPart.FUSED)
            added |= _make_added_norms(i)
        targets |= _make_pairs(f"{foreign}.{dense}", f"{ours}.attention.dense")
        targets |= _make_pairs(f"{foreign}.mlp.fc1", f"{ours}.mlp.fc1")
        targets |= _make_pairs(f"{foreign}.mlp.fc2", f"{ours}.mlp.fc2")
    embeddings, norm, head = "model.embed_tokens", "model.final_layernorm", "lm_head"
    if layout == "msft":
        embeddings, norm, head = "transformer.embd.wte", "lm_head.ln", "lm_head.linear"
    targets[f"{embeddings}.weight"] = Target("language.embed_tokens.weight")
    targets |= _make_pairs(norm, "language.final_layernorm")
    targets |= _make_pairs(head, "language.lm_head")
    return NameTable({**targets, **added}, optional=list_optional_names(spec))


def list_optional_names(spec: ModelSpec) -> frozenset[str]:
    """Lists norms of ours that no file need have: weights of one and biases of zero serve."""
    layers = range(spec.language.n_layers)
    return frozenset(target.name for i in layers for target in _make_added_norms(i).values())


def _make_added_norms(i: int) -> Names:
    foreign, ours = f"model.layers.{i}", f"language.layers.{i}"
    return {
        **_make_pairs(f"{foreign}.self_attn.q_layernorm", f"{ours}.attention.q_layernorm"),
        **_make_pairs(f"{foreign}.self_attn.k_layernorm", f"{ours}.attention.k_layernorm"),
        f"{foreign}.post_layernorm.weight": Target(f"{ours}.post_layernorm.weight"),
    }


def make_checkpoint_table(spec: ModelSpec) -> NameTable:
    """Lists the names in a stage checkpoint by any of its known writers, without `module.`.

    Beside what was trained a writer may have saved parts of Phi-2 and of BLIP-2's file. As when a
    state dict is loaded, those replace the numbers of the file they come from; LoRA is then added.
    """
    qformer = make_qformer_table(spec)
    phi = make_phi_table(spec, "fused")
    targets: Names = {
        **_make_pairs("llama_proj", "projection.first"),
        **_make_pairs("llama_proj2", "projection.second"),
        **qformer.targets,
    }
    for prefix in (PLAIN_PREFIX, LORA_PREFIX):
        targets |= {f"{prefix}{foreign}": target for foreign, target in phi.targets.items()}
        for i in range(spec.language.n_layers):
            targets |= make_base_layer_names(prefix, i)
            for naming in LORA_NAMINGS:
                targets |= make_lora_names(prefix, i, naming)
    required = {"projection.first", "projection.second"}
    optional = {t.name for t in targets.values() if t.name.rpartition(".")[0] not in required}
    return NameTable(targets, frozenset({POSITION_IDS}), frozenset(optional))


def make_lora_names(prefix: str, i: int, naming: str) -> Names:
    """Names the four LoRA tensors of a layer; `naming` is a key of `LORA_NAMINGS`."""
    foreign, ours = f"{prefix}model.layers.{i}.self_attn", f"language.layers.{i}.attention"
    adapter = LORA_NAMINGS[naming]
    return {
        f"{foreign}.{module}.lora_{letter}{adapter}.weight": Target(f"{ours}.{name}.weight", part)
        for module, name in (("query_key_value", "qkv"), ("dense", "dense"))
        for letter, part in (("A", TensorPart.LORA_A), ("B", TensorPart.LORA_B))
    }


def make_base_layer_names(prefix: str, i: int) -> Names:
    """Names the matrices beneath LoRA, as peft calls them since 0.7."""
    foreign, ours = f"{prefix}model.layers.{i}.self_attn", f"language.layers.{i}.attention"
    return {
        **_make_pairs(f"{foreign}.query_key_value.base_layer", f"{ours}.qkv", TensorPart.FUSED),
        **_make_pairs(f"{foreign}.dense.base_layer", f"{ours}.dense"),
    }


def _make_pairs(foreign: str, ours: str = "", part: TensorPart = TensorPart.WHOLE) -> Names:
    return {f"{foreign}.{kind}": Target(f"{ours}.{kind}", part) for kind in ("weight", "bias")}
