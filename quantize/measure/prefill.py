"""A written decoder's graphs become the logits of all positions of a prompt at once.

An answer needs the last position's alone, so the last graph cuts it out. A copy of that graph
without the cut computes the same numbers by the same operators, thirty times as fast as step by
step at full size.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

from quantize.measure.compare import ComputeLogits, ProbeIds
from tinyv_cli.backends.cpu.onnx_sessions import open_graphs, translate_failures
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
            sessions = open_graphs([*paths, copy], threads)
        finally:
            copy.unlink(missing_ok=True)
        for probe in probes:
            tokens = [table.rows(probe.before), images[probe.picture], table.rows(probe.after)]
            states = np.concatenate(tokens)[None]
            n = states.shape[1]
            cache = np.zeros((1, spec.n_heads, n, spec.head_width), np.float32)
            lengths = {
                "last_positions": np.array([n - 1], np.int32),
                "total_length": np.array(n, np.int32),
            }
            for session in sessions:
                names = [each.name for each in session.get_inputs()]
                feeds = {names[0]: states}
                feeds |= {name: lengths.get(name, cache) for name in names[1:]}
                with translate_failures("cannot run the decoder"):
                    states = session.run([session.get_outputs()[0].name], feeds)[0]
            yield states.reshape(n, spec.vocab_size)[-len(probe.after) - 1 :]

    return compute
