"""`.onnx` files and a number of threads become onnxruntime sessions."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.errors import DeviceError, WeightsError

_MAKE_AGAIN = (
    "make the variant again with `tinyv quantize --force`, or `pip install -U onnxruntime`"
)
_SATURATION = Path(__file__).with_name("saturation.onnx")  # weights of 127 only, in int8
_LARGEST_ACTIVATION, _LARGEST_WEIGHT = 255, 127
_FATAL_ONLY = 4  # ORT_LOGGING_LEVEL_FATAL: what goes wrong is raised too, and told in one place
_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory")


def open_graphs(
    paths: Sequence[Path], threads: int, has_arena: bool = True
) -> list[ort.InferenceSession]:
    """Opens the graphs of a part, several at once: the runtime uses one thread for each.

    Args:
        paths: the graphs.
        threads: of one operator, and how many graphs are opened at once.
        has_arena: as `open_graph`.

    Raises:
        WeightsError: the runtime cannot read a graph or its data.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda path: open_graph(path, threads, has_arena), paths))


def open_graph(path: Path, threads: int, has_arena: bool = True) -> ort.InferenceSession:
    """Opens a graph; its weights are mapped, and rearranged for this processor.

    Args:
        path: the graph.
        threads: of one operator.
        has_arena: memory that a run took is kept for the next one; inputs of many lengths make that
            as much again.

    Raises:
        WeightsError: the runtime cannot read the graph or its data.
    """
    options = _make_options(threads)
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = has_arena
    options.enable_mem_pattern = False  # lengths change from call to call
    # Threads that spin while they wait take cores from the next session and from other programs:
    # beside one busy process a token took 316 ms with spinning and 268 without, alone the same.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if adds_wrongly():
        options.add_session_config_entry("session.x64quantprecision", "1")
    with translate_failures(f"cannot open {path}"):
        # Without its fallback, which tells of failures on stdout.
        return ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )


def _make_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL_ONLY
    return options


@contextmanager
def translate_failures(what: str) -> Iterator[None]:
    """Makes planned errors of what the runtime raises.

    Args:
        what: of it went wrong: `cannot open decoder.onnx`.

    Raises:
        DeviceError: memory does not suffice, or /proc is missing, by which it opens files.
        WeightsError: anything else: a graph or its data is damaged, or unknown to this runtime.
    """
    try:
        yield
    except Exception as error:  # its classes have no other base, and messages may be no UTF-8
        undecoded = error.object if isinstance(error, UnicodeDecodeError) else b""
        text = undecoded.decode("utf-8", "replace") or str(error)
        reason = next(iter(text.strip().splitlines()), type(error).__name__)
        if isinstance(error, MemoryError) or any(each in text for each in _OUT_OF_MEMORY):
            raise DeviceError(
                f"memory does not suffice: onnxruntime {what}",
                "close other programs, or use a shorter context: `--ctx-size 512`",
            ) from error
        if "procfs" in text:
            raise DeviceError(
                f"onnxruntime {ort.__version__} {what} without /proc",
                "mount it where this runs: `mount -t proc proc /proc`",
            ) from error
        raise WeightsError(
            f"onnxruntime {ort.__version__} {what}: {reason}", _MAKE_AGAIN
        ) from error


@cache
def adds_wrongly() -> bool:
    """Checks whether products of unsigned and signed bytes lose what exceeds 16 bits here.

    x86 without VNNI adds pairs of products in 16 bits, saturated. The runtime can take slower
    instructions instead, but would then take them on processors that add rightly too.

    Source: onnxruntime, "Quantize ONNX models", on U8S8; `session.x64quantprecision` in
    onnxruntime_session_options_config_keys.h.
    """
    session = ort.InferenceSession(
        _SATURATION, _make_options(1), providers=["CPUExecutionProvider"]
    )
    n_products = session.get_inputs()[0].shape[1]
    activations = np.full((1, n_products), _LARGEST_ACTIVATION, np.uint8)
    sums = session.run(None, {"activations": activations})[0]
    return bool((sums != n_products * _LARGEST_ACTIVATION * _LARGEST_WEIGHT).any())
