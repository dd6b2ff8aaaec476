"""A spec becomes the names and shapes of the merged network's tensors; knows no file and no torch.

The names are the keys of `tinyv_cli.model.tinygptv.TinyGptV`. Linear weights are (out, in); the
rows of both `qkv` matrices are ordered [3][head][d].
"""

from tinyv_cli.spec import LanguageSpec, ModelSpec, QFormerSpec, VisionSpec

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def expected_shapes(spec: ModelSpec) -> Shapes:
    """Every tensor of the merged network, in the order in which a picture meets them.

    Returns:
        name → shape, ordered vision, Q-Former, projection, language.
    """
    return {
        **_make_vision_shapes(spec.vision),
        **_make_qformer_shapes(spec.qformer, spec.vision.width),
        **_make_linear("projection.first", spec.projection_width, spec.qformer.width),
        **_make_linear("projection.second", spec.language.width, spec.projection_width),
        **_make_language_shapes(spec.language),
    }


def _make_linear(name: str, n_out: int, n_in: int) -> Shapes:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def _make_norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _make_vision_shapes(vision: VisionSpec) -> Shapes:
    width, patch = vision.width, vision.patch_px
    shapes: Shapes = {
        "vision.embeddings.class_embedding": (1, 1, width),
        "vision.embeddings.position_embedding": (1, vision.n_tokens, width),
        "vision.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision.embeddings.patch_embedding.bias": (width,),
    }
    for i in range(vision.n_layers):
        layer = f"vision.layers.{i}"
        shapes |= _make_norm(f"{layer}.layer_norm1", width)
        shapes |= _make_linear(f"{layer}.self_attn.qkv", 3 * width, width)
        shapes |= _make_linear(f"{layer}.self_attn.projection", width, width)
        shapes |= _make_norm(f"{layer}.layer_norm2", width)
        shapes |= _make_linear(f"{layer}.mlp.fc1", vision.mlp_width, width)
        shapes |= _make_linear(f"{layer}.mlp.fc2", width, vision.mlp_width)
    return shapes | _make_norm("vision.ln_vision", width)


def _make_qformer_shapes(qformer: QFormerSpec, vision_width: int) -> Shapes:
    width = qformer.width
    shapes: Shapes = {"qformer.query_tokens": (1, qformer.n_queries, width)}
    shapes |= _make_norm("qformer.bert.layernorm", width)
    for i in range(qformer.n_layers):
        layer = f"qformer.bert.encoder.layer.{i}"
        shapes |= _make_bert_attention(f"{layer}.attention", width, width)
        if qformer.has_cross_attention(i):
            shapes |= _make_bert_attention(f"{layer}.crossattention", width, vision_width)
        shapes |= _make_linear(f"{layer}.intermediate_query.dense", qformer.mlp_width, width)
        shapes |= _make_linear(f"{layer}.output_query.dense", width, qformer.mlp_width)
        shapes |= _make_norm(f"{layer}.output_query.LayerNorm", width)
    return shapes


def _make_bert_attention(name: str, width: int, memory_width: int) -> Shapes:
    return {
        **_make_linear(f"{name}.attention.query", width, width),
        **_make_linear(f"{name}.attention.key", width, memory_width),
        **_make_linear(f"{name}.attention.value", width, memory_width),
        **_make_linear(f"{name}.output.dense", width, width),
        **_make_norm(f"{name}.output.LayerNorm", width),
    }


def _make_language_shapes(language: LanguageSpec) -> Shapes:
    width = language.width
    shapes: Shapes = {"language.embed_tokens.weight": (language.vocab_size, width)}
    for i in range(language.n_layers):
        layer = f"language.layers.{i}"
        shapes |= _make_norm(f"{layer}.input_layernorm", width)
        shapes |= _make_linear(f"{layer}.attention.qkv", 3 * width, width)
        shapes |= _make_linear(f"{layer}.attention.dense", width, width)
        shapes |= _make_norm(f"{layer}.attention.q_layernorm", language.head_width)
        shapes |= _make_norm(f"{layer}.attention.k_layernorm", language.head_width)
        shapes[f"{layer}.post_layernorm.weight"] = (width,)
        shapes |= _make_linear(f"{layer}.mlp.fc1", language.mlp_width, width)
        shapes |= _make_linear(f"{layer}.mlp.fc2", width, language.mlp_width)
    shapes |= _make_norm("language.final_layernorm", width)
    return shapes | _make_linear("language.lm_head", language.vocab_size, width)
