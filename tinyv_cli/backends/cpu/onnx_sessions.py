"""`.onnx` files and a number of threads become onnxruntime sessions."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from tinyv_cli.backends.cpu.quiet_onnxruntime import ort, ort_errors
from tinyv_cli.errors import WeightsError

_UNREADABLE = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_SATURATION = Path(__file__).with_name("saturation.onnx")  # weights of 127 only, in int8
_LARGEST_ACTIVATION, _LARGEST_WEIGHT = 255, 127
_ERRORS_ONLY = 3  # ORT_LOGGING_LEVEL_ERROR: warnings of the runtime are not for the user


def open_graphs(paths: Sequence[Path], threads: int) -> list[ort.InferenceSession]:
    """Opens the graphs of a part, several at once: the runtime uses one thread for each.

    Args:
        paths: the graphs.
        threads: of one operator, and how many graphs are opened at once.

    Raises:
        WeightsError: the runtime cannot read a graph or its data.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda path: open_graph(path, threads), paths))


def open_graph(path: Path, threads: int) -> ort.InferenceSession:
    """Opens a graph; its weights are mapped, and rearranged for this processor.

    Args:
        path: the graph.
        threads: of one operator.

    Raises:
        WeightsError: the runtime cannot read the graph or its data.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.enable_mem_pattern = False  # lengths change from call to call
    # After a run, threads that spin in wait of the next would take cores from the next session.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if adds_wrongly():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"onnxruntime {ort.__version__} cannot open {path}: {reason}",
            "make the variant again with `tinyv quantize --force`, or `pip install -U onnxruntime`",
        ) from error


@cache
def adds_wrongly() -> bool:
    """Checks whether products of unsigned and signed bytes lose what exceeds 16 bits here.

    x86 without VNNI adds pairs of products in 16 bits, saturated. The runtime can take slower
    instructions instead, but would then take them on processors that add rightly too.

    Source: onnxruntime, "Quantize ONNX models", on U8S8; `session.x64quantprecision` in
    onnxruntime_session_options_config_keys.h.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_SATURATION, options, providers=["CPUExecutionProvider"])
    n_products = session.get_inputs()[0].shape[1]
    activations = np.full((1, n_products), _LARGEST_ACTIVATION, np.uint8)
    sums = session.run(None, {"activations": activations})[0]
    return bool((sums != n_products * _LARGEST_ACTIVATION * _LARGEST_WEIGHT).any())
