"""ViT, ln_vision, Q-Former and folded projection become ONNX graphs: pixels in, image tokens out.

The order of operations stands here; how a matrix is rounded in `graph`. Every value is named after
its tensors, so that each part can be compared (`tests/torch/quantize/test_rounding_ladder.py`).

Source: operators as documented in onnxruntime's ContribOperators.md (MultiHeadAttention, Gelu).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from onnx import TensorProto
from onnx.helper import make_tensor_value_info

from quantize.cpu.graph import MICROSOFT, GraphWriter
from tinyv_cli.spec import ModelSpec, QFormerSpec, VisionSpec
from weights.reading.checkpoint import ReadTensor


def write_vision(
    graphs: Sequence[GraphWriter],
    shares: Sequence[range],
    spec: ModelSpec,
    advance: Callable[[], None],
) -> None:
    """Writes the graphs and tensors of the vision side.

    Args:
        graphs: where to; each takes the output of the one before. Their recipe rounds the matrices.
            They must read `projection.*`, as `fold_projections` makes it.
        shares: the ViT's layers of each graph.
        spec: the model's numbers.
        advance: called after each ViT block and each Q-Former layer.
    """
    side = spec.vision.image_px
    entering = make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 3, side, side])
    x = "pixels"
    for graph, layers in zip(graphs, shares, strict=True):
        if graph is graphs[0]:
            x = _write_patches(graph, spec.vision)  # (B, N, Dv)
        for layer in layers:
            x = _write_vit_block(graph, spec.vision, layer, x)
            advance()
        shape = ["B", spec.vision.n_tokens, spec.vision.width]
        if graph is graphs[-1]:
            x = _write_image_tokens(graph, spec, x, advance)
            shape = ["B", spec.qformer.n_queries, spec.language.width]
        leaving = make_tensor_value_info(x, TensorProto.FLOAT, shape)
        graph.save([entering], [leaving])
        entering = leaving


def fold_projections(read: ReadTensor) -> ReadTensor:
    """Wraps a reader so that it also returns `projection.weight` and `.bias`, both linears in one.

    W = W₂·W₁ and b = W₂·b₁ + b₂, multiplied in float64: there is no activation between the two.
    """

    def read_folded(name: str) -> torch.Tensor:
        if name not in ("projection.weight", "projection.bias"):
            return read(name)
        second = read("projection.second.weight").double()
        first = read(name.replace("projection.", "projection.first.")).double()
        folded = second @ first
        if name == "projection.bias":
            folded += read("projection.second.bias").double()
        return folded.float()

    return read_folded


def _write_patches(graph: GraphWriter, spec: VisionSpec) -> str:
    """Patch convolution, class token first, position embedding: (B, 3, S, S) → (B, N, Dv)."""
    at = "vision.embeddings"
    patch = [spec.patch_px, spec.patch_px]
    kernel = [graph.weight(f"{at}.patch_embedding.{part}") for part in ("weight", "bias")]
    grid = graph.apply("Conv", ["pixels", *kernel], f"{at}.grid", kernel_shape=patch, strides=patch)
    channels_first = graph.reshape(grid, (0, spec.width, spec.n_patches), f"{at}.channels")
    patches = graph.apply("Transpose", [channels_first], f"{at}.patches", perm=[0, 2, 1])
    token = graph.weight(f"{at}.class_embedding")
    token = _repeat_for_batch(graph, token, (1, spec.width), "pixels")
    tokens = graph.apply("Concat", [token, patches], f"{at}.tokens", axis=1)
    return graph.apply("Add", [tokens, graph.weight(f"{at}.position_embedding")], f"{at}.out")


def _write_vit_block(graph: GraphWriter, spec: VisionSpec, layer: int, x: str) -> str:
    """One block: x += proj(attention(norm1(x))), x += fc2(gelu(fc1(norm2(x)))), (B, N, Dv)."""
    at = f"vision.layers.{layer}"
    hidden = graph.layer_norm(x, f"{at}.layer_norm1", spec.eps)
    qkv = graph.linear(hidden, f"{at}.self_attn.qkv")
    parts = graph.split_in_three(qkv, f"{at}.split")
    mixed = _write_attention(graph, parts, spec.n_heads, spec.head_width, f"{at}.self_attn.out")
    x = graph.apply("Add", [x, graph.linear(mixed, f"{at}.self_attn.projection")], f"{at}.middle")
    hidden = graph.layer_norm(x, f"{at}.layer_norm2", spec.eps)
    wide = graph.linear(hidden, f"{at}.mlp.fc1")
    wide = graph.apply("Gelu", [wide], f"{at}.mlp.gelu", domain=MICROSOFT)
    return graph.apply("Add", [x, graph.linear(wide, f"{at}.mlp.fc2")], f"{at}.out")


def _write_attention(
    graph: GraphWriter, parts: list[str], n_heads: int, head_width: int, name: str
) -> str:
    """softmax(q·kᵀ/√d)·v over `n_heads` heads; parts are query, key and value, (B, T, D)."""
    return graph.apply(
        "MultiHeadAttention",
        parts,
        name,
        domain=MICROSOFT,
        num_heads=n_heads,
        scale=head_width**-0.5,
    )


def _repeat_for_batch(graph: GraphWriter, x: str, shape: tuple[int, ...], like: str) -> str:
    """Repeats (1, *shape) once for each picture that `like` has."""
    batch = graph.apply("Shape", [like], f"{x}.batch", start=0, end=1)
    tail = graph.constant(f"{x}.tail", np.array(shape, np.int64))
    full = graph.apply("Concat", [batch, tail], f"{x}.shape", axis=0)
    return graph.apply("Expand", [x, full], f"{x}.repeated")


def _write_image_tokens(
    graph: GraphWriter, spec: ModelSpec, x: str, advance: Callable[[], None]
) -> str:
    """ln_vision, Q-Former and projection, (B, N, Dv) → (B, Q, D).

    A Q-Former layer is self-attention, cross-attention where it has one, and MLP; each is added to
    its input and normed.
    """
    bert, qformer = "qformer.bert", spec.qformer
    features = graph.layer_norm(x, "vision.ln_vision", spec.vision.ln_vision_eps)
    normed = torch.nn.functional.layer_norm(
        graph.read("qformer.query_tokens"),
        (qformer.width,),
        graph.read(f"{bert}.layernorm.weight"),
        graph.read(f"{bert}.layernorm.bias"),
        qformer.eps,
    )
    queries = graph.constant("queries", normed.numpy())
    tokens = _repeat_for_batch(graph, queries, (qformer.n_queries, qformer.width), features)
    for layer in range(qformer.n_layers):
        at = f"{bert}.encoder.layer.{layer}"
        tokens = _write_bert_attention(graph, qformer, f"{at}.attention", tokens, tokens)
        if qformer.has_cross_attention(layer):
            tokens = _write_bert_attention(graph, qformer, f"{at}.crossattention", tokens, features)
        wide = graph.linear(tokens, f"{at}.intermediate_query.dense")
        wide = graph.apply("Gelu", [wide], f"{at}.gelu", domain=MICROSOFT)
        tokens = _write_added_norm(graph, qformer, f"{at}.output_query", wide, tokens)
        advance()
    return graph.apply("Identity", [graph.linear(tokens, "projection")], "image_tokens")


def _write_bert_attention(
    graph: GraphWriter, spec: QFormerSpec, at: str, tokens: str, source: str
) -> str:
    """LayerNorm(tokens + dense(attention of the tokens to the source)), (B, Q, Dq)."""
    parts = [graph.linear(tokens, f"{at}.attention.query")]
    parts += [graph.linear(source, f"{at}.attention.{name}") for name in ("key", "value")]
    mixed = _write_attention(graph, parts, spec.n_heads, spec.head_width, f"{at}.out")
    return _write_added_norm(graph, spec, f"{at}.output", mixed, tokens)


def _write_added_norm(graph: GraphWriter, spec: QFormerSpec, at: str, x: str, residual: str) -> str:
    """LayerNorm(residual + dense(x)) with the tensors of `at`."""
    added = graph.apply("Add", [graph.linear(x, f"{at}.dense"), residual], f"{at}.added")
    return graph.layer_norm(added, f"{at}.LayerNorm", spec.eps)
