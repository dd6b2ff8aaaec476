"""A written decoder's graphs become the logits of all positions of a prompt at once.

An answer needs the last position's alone, so the last graph cuts it out. A copy of that graph
without the cut computes the same numbers by the same operators, thirty times as fast as step by
step at full size.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import onnx
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

from quantize.measure.compare import ComputeLogits, ProbeIds
from tinyv_cli.backends.cpu.onnx_sessions import open_graphs, translate_failures
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.backends.cpu.token_embeddings import open_token_embeddings
from tinyv_cli.variants.manifest import Variant

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
        *paths, last = variant.graphs("decoder")
        copy = variant.folder / _COPY
        model = onnx.load(last, load_external_data=False)
        [cut] = [node for node in model.graph.node if node.op_type == "Slice"]
        cut.CopyFrom(make_node("Identity", cut.input[:1], cut.output))
        shape = ["B", None]
        model.graph.output[0].CopyFrom(make_tensor_value_info("logits", TensorProto.FLOAT, shape))
        try:
            onnx.save(model, copy)
            sessions = open_graphs([*paths, copy], threads, has_arena=False)
        finally:
            copy.unlink(missing_ok=True)
        nothing = np.zeros((1, spec.n_heads, 0, spec.head_width), np.float32)
        inputs = [each.name for session in sessions for each in session.get_inputs()]
        none = {name: nothing for name in inputs if name.startswith("past_")}
        for (before, picture), asked in groupby(probes, lambda each: (each.before, each.picture)):
            # What the probes begin with is read once.
            n_common = len(before) + len(images[picture])
            beginning = np.concatenate([table.rows(before), images[picture]])
            logits, past = run_graphs(sessions, beginning, n_common, none)
            for probe in asked:
                n_positions = n_common + len(probe.after)
                rest, _ = run_graphs(sessions, table.rows(probe.after), n_positions, past)
                yield np.concatenate([logits[-1:], rest])

    return compute


def run_graphs(
    sessions: Sequence[ort.InferenceSession],
    embeddings: np.ndarray,
    n_positions: int,
    past: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Runs a decoder's graphs for the last of so many positions.

    Args:
        sessions: of the graphs.
        embeddings: of those positions, (T, D).
        n_positions: with those before them.
        past: keys and values of these, by `past_key.0`, ….

    Returns:
        The logits (T, V), and keys and values of all positions by the same names.
    """
    states = embeddings[None]
    lengths = {
        "last_positions": np.array([n_positions - 1], np.int32),
        "total_length": np.array(n_positions, np.int32),
    }
    present: dict[str, np.ndarray] = {}
    for session in sessions:
        entering, *names = (each.name for each in session.get_inputs())
        feeds = {name: lengths[name] if name in lengths else past[name] for name in names}
        with translate_failures("cannot run the decoder"):
            states, *caches = session.run(None, {entering: states, **feeds})
        kept = [each.name for each in session.get_outputs()][1:]
        present |= {
            name.replace("present", "past"): each for name, each in zip(kept, caches, strict=True)
        }
    return states.reshape(len(embeddings), -1), present
