"""An `.onnx` file and a number of threads become an onnxruntime session; knows no network."""

from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from tinyv_cli.errors import WeightsError

RUNTIME = f"ort{ort.__version__}"

_UNREADABLE = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
# The runtime starts a page only for tensors above 1 MiB. Packed numbers behind a smaller one lie at
# odd addresses, where its kernels read other bytes than it wrote (quantize/DESIGN.md): such tensors
# stay in the graph, unpacked.
_SMALLEST_PACKED_BYTES = (1 << 20) + 1
_ERRORS_ONLY = 3  # ORT_LOGGING_LEVEL_ERROR: warnings of the runtime are not for the user


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """Opens a graph; its weights are mapped, not read.

    Args:
        path: a portable graph, or one whose weights `save_packed` wrote.
        threads: threads of one operator.

    Raises:
        WeightsError: the runtime cannot read the graph or its data.
    """
    return _open(path, make_options(threads))


def save_packed(path: Path, target: Path, threads: int) -> None:
    """Writes a graph once more with its weights as this processor's kernels want them.

    Args:
        path: the portable graph.
        target: the graph to write; its data file stands beside it with the suffix `.data`.
        threads: threads to work with.

    Raises:
        WeightsError: the runtime cannot read the graph or its data.
    """
    options = make_options(threads)
    options.optimized_model_filepath = str(target)
    entries = {
        "session.optimized_model_external_initializers_file_name": target.with_suffix(".data").name,
        "session.optimized_model_external_initializers_min_size_in_bytes": str(
            _SMALLEST_PACKED_BYTES
        ),
        "session.save_external_prepacked_constant_initializers": "1",
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    _open(path, options)


def make_options(threads: int) -> ort.SessionOptions:
    """Options that every session of ours shares."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.enable_mem_pattern = False  # lengths change from call to call
    return options


def _open(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"onnxruntime {ort.__version__} cannot open {path}: {reason}",
            "make the variant again with `tinyv quantize --force`, or `pip install -U onnxruntime`",
        ) from error
