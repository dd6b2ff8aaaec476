"""Phi-2 with its added norms becomes ONNX graphs: embeddings in, last position's logits out.

Keys and values stand in buffers of the caller, (B, H, C, d) for each layer; the graph writes the
new positions into them. The order of operations stands here; how a matrix is rounded in `graph`.

Source: MODEL.md's block is that of the published model; operators as documented in onnxruntime's
ContribOperators.md (GroupQueryAttention, FastGelu, SimplifiedLayerNormalization).
"""

from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto
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
        graphs: where to; each takes the hidden states of the one before. Their recipe rounds the
            matrices.
        shares: the layers of each graph.
        spec: the language model's numbers.
        advance: called after each layer, and after the head.
    """
    x = "embeddings"  # (B, T, D)
    cache_shape = ["B", spec.n_heads, "C", spec.head_width]
    # onnxruntime rearranges a graph's weights whenever it opens it, in one thread. Several graphs
    # are opened in parallel: four in two threads take 0.9-1.2 s at full size, one 1.7-2.5 s.
    for graph, layers in zip(graphs, shares, strict=True):
        inputs = [
            make_tensor_value_info(x, TensorProto.FLOAT, ["B", "T", spec.width]),
            make_tensor_value_info("last_positions", TensorProto.INT32, ["B"]),
            make_tensor_value_info("total_length", TensorProto.INT32, []),
        ]
        _write_rotary_tables(graph, spec)
        for layer in layers:
            x = _write_block(graph, spec, layer, x)
            advance()
        leaving = make_tensor_value_info(x, TensorProto.FLOAT, ["B", "T", spec.width])
        if graph is graphs[-1]:
            limits = {"slice.starts": -1, "slice.ends": np.iinfo(np.int64).max, "slice.axes": 1}
            ends = [graph.constant(name, np.array([n], np.int64)) for name, n in limits.items()]
            last = graph.apply("Slice", [x, *ends], "last")  # (B, 1, D)
            last = graph.layer_norm(last, "language.final_layernorm", spec.eps)
            logits = graph.linear(last, "language.lm_head")  # (B, 1, V)
            logits = graph.reshape(logits, (0, -1), "logits")
            leaving = make_tensor_value_info(logits, TensorProto.FLOAT, ["B", spec.vocab_size])
        outputs = [leaving]
        for side, infos in (("past", inputs), ("present", outputs)):
            infos += [
                make_tensor_value_info(f"{side}_{kind}.{layer}", TensorProto.FLOAT, cache_shape)
                for layer in layers
                for kind in ("key", "value")
            ]
        graph.save(inputs, outputs)
    advance()


def _write_rotary_tables(graph: GraphWriter, spec: LanguageSpec) -> None:
    """Cosines and sines of every position, each (C, rotary_width / 2) float32.

    The runtime computes them once, when it opens the graph, within 9e-8 of float64: neither Range
    nor Cos is left in what it runs, and the miniature's files are 0.26 MB smaller.

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
    """One block, x + RMSNorm(attention(h)) + MLP(h) with h = LayerNorm(x), (B, T, D).

    Its attention extends the layer's cache.
    """
    block = f"language.layers.{layer}"
    at = f"{block}.attention"
    hidden = graph.layer_norm(x, f"{block}.input_layernorm", spec.eps)
    qkv = graph.linear(hidden, f"{at}.qkv")
    query, key, value = graph.split_in_three(qkv, f"{at}.split")
    query = _write_head_norm(graph, spec, query, f"{at}.q_layernorm")
    key = _write_head_norm(graph, spec, key, f"{at}.k_layernorm")
    past = [f"past_key.{layer}", f"past_value.{layer}"]
    lengths = ["last_positions", "total_length"]
    mixed, *_ = graph.node(
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
    mixed = graph.linear(mixed, f"{at}.dense")
    attention = graph.apply(
        "SimplifiedLayerNormalization",
        [mixed, graph.weight(f"{block}.post_layernorm.weight")],
        f"{block}.post_layernorm.out",
        axis=-1,
        epsilon=spec.post_norm_eps,
    )
    wide = graph.linear(hidden, f"{block}.mlp.fc1")
    wide = graph.apply("FastGelu", [wide], f"{block}.mlp.gelu", domain=MICROSOFT)
    narrow = graph.linear(wide, f"{block}.mlp.fc2")
    both = graph.apply("Add", [attention, narrow], f"{block}.branches")
    return graph.apply("Add", [x, both], f"{block}.out")


def _write_head_norm(graph: GraphWriter, spec: LanguageSpec, x: str, tensors: str) -> str:
    """LayerNorm over each head's channels, (B, T, D) → (B, T, D)."""
    heads = graph.reshape(x, (0, 0, spec.n_heads, spec.head_width), f"{tensors}.heads")
    normed = graph.layer_norm(heads, tensors, spec.eps)
    return graph.reshape(normed, (0, 0, spec.width), f"{tensors}.flat")
