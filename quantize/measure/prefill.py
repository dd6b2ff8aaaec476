"""A written decoder's graphs become the logits of all positions of a prompt at once.

An answer needs the last position's alone, so the last graph cuts it out. A copy of that graph
without the cut computes the same numbers by the same operators, thirty times as fast as step by
step at full size. All probes pass through a graph before the next one is opened, so that the
weights of no more than one are in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

from quantize.measure.compare import ComputeLogits, ProbeIds
from tinyv_cli.backends.cpu.onnx_sessions import open_graph, translate_failures
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.backends.cpu.token_embeddings import open_token_embeddings
from tinyv_cli.variants.manifest import Variant

Key = tuple[tuple[int, ...], int]  # what a probe begins with: token ids, and its picture
_COPY = "measured.onnx"  # in the variant's folder, since its numbers are found from there


def prefill(variant: Variant, threads: int) -> ComputeLogits:
    """Makes a `ComputeLogits` of a variant's files for the CPU.

    Args:
        variant: a finished one, in a folder that can be written.
        threads: of one operator.
    """

    def compute(probes: Sequence[ProbeIds], images: np.ndarray) -> Iterator[np.ndarray]:
        spec = variant.manifest.spec.language
        scales = variant.path("embeddings-scales") if variant.has("embeddings-scales") else None
        table = open_token_embeddings(variant.path("embeddings"), scales, spec.width)
        nothing = np.zeros((1, spec.n_heads, 0, spec.head_width), np.float32)
        keys = [(each.before, each.picture) for each in probes]
        beginnings = {
            key: np.concatenate([table.rows(key[0]), images[key[1]]]) for key in dict.fromkeys(keys)
        }
        rests = [(key, table.rows(each.after)) for key, each in zip(keys, probes, strict=True)]
        *paths, last = variant.graphs("decoder")
        for path in paths:
            session = open_graph(path, threads, has_arena=False)
            beginnings, behind = pass_through(session, beginnings, rests, nothing)
            rests = list(behind)
            del session, behind
        beginnings, behind = pass_through(open_uncut(last, threads), beginnings, rests, nothing)
        for key, logits in behind:
            yield np.concatenate([beginnings[key][-1:], logits])

    return compute


def open_uncut(graph: Path, threads: int) -> ort.InferenceSession:
    """Opens a copy of a decoder's last graph that returns the logits of all positions."""
    copy = graph.with_name(_COPY)
    model = onnx.load(graph, load_external_data=False)
    [cut] = [node for node in model.graph.node if node.op_type == "Slice"]
    cut.CopyFrom(make_node("Identity", cut.input[:1], cut.output))
    shape = ["B", None]
    model.graph.output[0].CopyFrom(make_tensor_value_info("logits", TensorProto.FLOAT, shape))
    try:
        onnx.save(model, copy)
        return open_graph(copy, threads, has_arena=False)
    finally:
        copy.unlink(missing_ok=True)


def pass_through(
    session: ort.InferenceSession,
    beginnings: Mapping[Key, np.ndarray],
    rests: Sequence[tuple[Key, np.ndarray]],
    nothing: np.ndarray,
) -> tuple[dict[Key, np.ndarray], Iterator[tuple[Key, np.ndarray]]]:
    """Passes states through one graph; what several probes begin with passes once.

    Args:
        session: of the graph.
        beginnings: their states, (N, D).
        rests: each probe's states behind its beginning, (T, D).
        nothing: keys or values of no position, (1, H, 0, d).

    Returns:
        Both behind the graph, or their logits behind the last one: (N, V) and, one after another
        as they are asked for, (T, V).
    """
    none = {each.name: nothing for each in session.get_inputs() if each.name.startswith("past_")}
    begun = {
        key: run_graph(session, states, len(states), none) for key, states in beginnings.items()
    }
    behind = (
        (key, run_graph(session, rest, len(beginnings[key]) + len(rest), begun[key][1])[0])
        for key, rest in rests
    )
    return {key: states for key, (states, _) in begun.items()}, behind


def run_graph(
    session: ort.InferenceSession,
    states: np.ndarray,
    n_positions: int,
    past: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Runs one of a decoder's graphs for the last of so many positions.

    Args:
        session: of the graph.
        states: that enter it at those positions, (T, D).
        n_positions: with those before them.
        past: keys and values of these, by `past_key.0`, ….

    Returns:
        The states or logits behind it, (T, D) or (T, V), and keys and values of all positions by
        the same names.
    """
    lengths = {
        "last_positions": np.array([n_positions - 1], np.int32),
        "total_length": np.array(n_positions, np.int32),
    }
    entering, *names = (each.name for each in session.get_inputs())
    feeds = {name: lengths[name] if name in lengths else past[name] for name in names}
    with translate_failures("cannot run the decoder"):
        behind, *caches = session.run(None, {entering: states[None], **feeds})
    kept = [each.name.replace("present", "past") for each in session.get_outputs()[1:]]
    return behind.reshape(len(states), -1), dict(zip(kept, caches, strict=True))
