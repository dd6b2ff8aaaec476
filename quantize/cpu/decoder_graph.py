"""Phi-2 with its added norms becomes graphs: embeddings in, last position's logits out.

Several graphs of some layers each are opened in parallel, which one cannot be (DESIGN.md).
Keys and values stand in buffers of the caller, (B, H, C, d) for each layer; the graph writes the
new positions into them. Knows the network's order of operations, not how a matrix is rounded.

Source: MODEL.md's block is that of the published model; operators as documented in onnxruntime's
ContribOperators.md (GroupQueryAttention, FastGelu, SimplifiedLayerNormalization).
"""

from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto, ValueInfoProto
from onnx.helper import make_tensor_value_info

from quantize.cpu.graph import MICROSOFT, GraphWriter
from tinyv_cli.errors import WeightsError
from tinyv_cli.spec import LanguageSpec

_KERNEL_CHANNELS = 16  # GroupQueryAttention takes heads and rotated channels in multiples of these


def check_heads(spec: LanguageSpec) -> None:
    """Refuses heads that the runtime's attention cannot compute, before anything is rounded.

    Raises:
        WeightsError: channels of a head, or those rotated, are no multiple of 16.

    Source: onnxruntime 1.31, group_query_attention_helper.h.
    """
    if spec.head_width % _KERNEL_CHANNELS or spec.rotary_width % _KERNEL_CHANNELS:
        raise WeightsError(
            f"heads of {spec.head_width} channels with {spec.rotary_width} rotated cannot run in "
            f"onnxruntime, which wants multiples of {_KERNEL_CHANNELS}",
            "use Phi-2 (80 and 32), or a miniature with other numbers in phi-2/config.json",
        )


def write_decoder(
    graphs: Sequence[GraphWriter],
    shares: Sequence[range],
    spec: LanguageSpec,
    advance: Callable[[], None],
) -> None:
    """Writes the decoder's graphs and tensors.

    Args:
        graphs: where to; each takes the hidden states that the one before gives. Their recipe
            rounds the matrices.
        shares: the layers of each graph.
        spec: the language model's numbers.
        advance: called after each layer, and after the head.
    """
    x = "embeddings"  # (B, T, D)
    for graph, layers in zip(graphs, shares, strict=True):
        entering = x
        _write_rotary_tables(graph, spec)
        for layer in layers:
            x = _write_block(graph, spec, layer, x)
            advance()
        leaving = make_tensor_value_info(x, TensorProto.FLOAT, ["B", "T", spec.width])
        if graph is graphs[-1]:
            logits = _write_head(graph, spec, x)
            leaving = make_tensor_value_info(logits, TensorProto.FLOAT, ["B", spec.vocab_size])
        graph.save(*_list_values(spec, layers, entering, leaving))
    advance()


def _write_head(graph: GraphWriter, spec: LanguageSpec, x: str) -> str:
    """Logits (B, V) of the last of (B, T, D) positions."""
    last = graph.apply("Slice", [x, *_last_position(graph)], "last")  # (B, 1, D)
    last = graph.layer_norm(last, "language.final_layernorm", spec.eps)
    logits = graph.linear(last, "language.lm_head")  # (B, 1, V)
    return graph.reshape(logits, (0, -1), "logits")


def _write_rotary_tables(graph: GraphWriter, spec: LanguageSpec) -> None:
    """Cosines and sines of every position, each (C, rotary_width / 2) float32.

    The runtime computes them once, when it opens the graph; files of small networks have better
    use for the room.

    Source: RoFormer, arXiv 2104.09864, equation 15.
    """
    exponents = np.arange(0, spec.rotary_width, 2, dtype=np.float32) / spec.rotary_width
    frequencies = (1.0 / np.float32(spec.rope_base) ** exponents).astype(np.float32)
    limits = {"start": 0, "end": spec.context_length, "step": 1}
    ends = [graph.constant(f"rotary.{k}", np.array(n, np.float32)) for k, n in limits.items()]
    places = graph.apply("Range", ends, "rotary.places")  # (C)
    column = graph.reshape(places, (-1, 1), "rotary.column")
    row = graph.constant("rotary.frequencies", frequencies[None])
    angles = graph.apply("Mul", [column, row], "rotary.angles")
    graph.apply("Cos", [angles], "rotary.cosines")
    graph.apply("Sin", [angles], "rotary.sines")


def _write_block(graph: GraphWriter, spec: LanguageSpec, layer: int, x: str) -> str:
    """One block, x + RMSNorm(attention(h)) + MLP(h) with h = LayerNorm(x), (B, T, D)."""
    at = f"language.layers.{layer}"
    hidden = graph.layer_norm(x, f"{at}.input_layernorm", spec.eps)
    mixed = graph.linear(_write_attention(graph, spec, layer, hidden), f"{at}.attention.dense")
    scale = graph.weight(f"{at}.post_layernorm.weight")
    attention = graph.apply(
        "SimplifiedLayerNormalization",
        [mixed, scale],
        f"{at}.post_layernorm.out",
        axis=-1,
        epsilon=spec.post_norm_eps,
    )
    wide = graph.linear(hidden, f"{at}.mlp.fc1")
    wide = graph.apply("FastGelu", [wide], f"{at}.mlp.gelu", domain=MICROSOFT)
    narrow = graph.linear(wide, f"{at}.mlp.fc2")
    both = graph.apply("Add", [attention, narrow], f"{at}.branches")
    return graph.apply("Add", [x, both], f"{at}.out")


def _write_attention(graph: GraphWriter, spec: LanguageSpec, layer: int, hidden: str) -> str:
    """Attention of one layer before its output matrix, (B, T, D); extends the layer's cache."""
    at = f"language.layers.{layer}.attention"
    qkv = graph.linear(hidden, f"{at}.qkv")
    query, key, value = graph.split_in_three(qkv, f"{at}.split")
    query = _write_head_norm(graph, spec, query, f"{at}.q_layernorm")
    key = _write_head_norm(graph, spec, key, f"{at}.k_layernorm")
    past = [f"past_key.{layer}", f"past_value.{layer}"]
    lengths = ["last_positions", "total_length"]
    outputs = graph.node(
        "GroupQueryAttention",
        [query, key, value, *past, *lengths, "rotary.cosines", "rotary.sines"],
        [f"{at}.out", f"present_key.{layer}", f"present_value.{layer}"],
        domain=MICROSOFT,
        num_heads=spec.n_heads,
        kv_num_heads=spec.n_heads,
        do_rotary=1,
        rotary_interleaved=0,
        scale=spec.head_width**-0.5,
    )
    return outputs[0]


def _write_head_norm(graph: GraphWriter, spec: LanguageSpec, x: str, tensors: str) -> str:
    """LayerNorm over each head's channels, (B, T, D) → (B, T, D)."""
    heads = graph.reshape(x, (0, 0, spec.n_heads, spec.head_width), f"{tensors}.heads")
    return graph.reshape(
        graph.layer_norm(heads, tensors, spec.eps), (0, 0, spec.width), f"{tensors}.flat"
    )


def _last_position(graph: GraphWriter) -> list[str]:
    """Starts, ends and axes of the slice that keeps the last position."""
    limits = {"slice.starts": -1, "slice.ends": np.iinfo(np.int64).max, "slice.axes": 1}
    return [graph.constant(name, np.array([n], np.int64)) for name, n in limits.items()]


def _list_values(
    spec: LanguageSpec, layers: range, entering: str, leaving: ValueInfoProto
) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """What the graph of these layers takes and gives, with symbolic B, T and C."""
    cache_shape = ["B", spec.n_heads, "C", spec.head_width]
    inputs = [
        make_tensor_value_info(entering, TensorProto.FLOAT, ["B", "T", spec.width]),
        make_tensor_value_info("last_positions", TensorProto.INT32, ["B"]),
        make_tensor_value_info("total_length", TensorProto.INT32, []),
    ]
    outputs = [leaving]
    for layer in layers:
        for kind in ("key", "value"):
            for side, infos in (("past", inputs), ("present", outputs)):
                name = f"{side}_{kind}.{layer}"
                infos.append(make_tensor_value_info(name, TensorProto.FLOAT, cache_shape))
    return inputs, outputs
