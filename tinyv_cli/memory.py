"""A variant's numbers become the bytes an answer will take, before any of them is loaded.

Here too is what this machine has free, and what this process has taken.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from tinyv_cli.errors import DeviceError
from tinyv_cli.manifest import Variant
from tinyv_cli.spec import LanguageSpec, ModelSpec

_FLOAT_BYTES = 4
_PROGRAM_BYTES = 100_000_000  # interpreter, runtime, tokenizer
_REARRANGED = 1.05  # bytes of a decoder's weights in memory to those on disk: sums of groups join
_LEFT_BEHIND = 0.15  # share of a closed vision side that the allocator does not give back
_CHUNK_POSITIONS = 256  # of a prompt, computed at once


@dataclass(frozen=True)
class PartSizes:
    """What memory depends on, of the two parts that compute.

    Attributes:
        vision_bytes: of the vision side's weights on disk.
        decoder_bytes: of the decoder's.
        n_decoder_graphs: each keeps memory of its own to work in.
    """

    vision_bytes: int
    decoder_bytes: int
    n_decoder_graphs: int


@dataclass(frozen=True)
class MemoryPlan:
    """What an answer will take, and how it is kept within what there is.

    Attributes:
        needed_bytes: resident memory at the peak, estimated.
        is_frugal: whether the vision side is given back before the decoder is opened.
    """

    needed_bytes: int
    is_frugal: bool


def estimate_bytes(spec: ModelSpec, sizes: PartSizes, n_positions: int) -> int:
    """Estimates the peak memory of an answer on the CPU with both parts open.

    Args:
        spec: the model's numbers.
        sizes: of a variant, or of one that is planned.
        n_positions: of prompt and answer together.
    """
    encoder = estimate_encoder_bytes(spec, sizes)
    return _PROGRAM_BYTES + encoder + estimate_decoder_bytes(spec, sizes, n_positions)


def estimate_encoder_bytes(spec: ModelSpec, sizes: PartSizes) -> int:
    """What the vision side takes: weights, one block's scores, and its widest activations twice."""
    vision = spec.vision
    scores = vision.n_heads * vision.n_tokens**2
    activations = vision.n_tokens * (2 * vision.mlp_width + 6 * vision.width)
    return sizes.vision_bytes + _FLOAT_BYTES * (scores + activations)


def estimate_decoder_bytes(spec: ModelSpec, sizes: PartSizes, n_positions: int) -> int:
    """What the decoder takes: weights, keys and values, and the working memory of a prompt."""
    language = spec.language
    n_chunk = min(n_positions, _CHUNK_POSITIONS)
    activations = n_chunk * (2 * language.mlp_width + 6 * language.width)
    scores = language.n_heads * n_chunk * n_positions
    working = sizes.n_decoder_graphs * activations + scores + language.vocab_size
    weights = int(_REARRANGED * sizes.decoder_bytes)
    return weights + cache_bytes(language, n_positions) + _FLOAT_BYTES * working


def plan_memory(
    variant: Variant, n_positions: int, budget_bytes: int | None, *, encodes: bool
) -> MemoryPlan:
    """Finds out how an answer fits, and refuses what will not, before anything is loaded.

    Args:
        variant: that is to answer; of its token embeddings, single rows are touched.
        n_positions: of prompt and answer together, at most.
        budget_bytes: that may be taken; None for what the machine has free.
        encodes: whether a picture must be encoded.

    Raises:
        DeviceError: not even one part after the other fits.
    """
    spec, sizes = variant.manifest.spec, _measure_parts(variant)
    encoder = estimate_encoder_bytes(spec, sizes) if encodes else 0
    decoder = estimate_decoder_bytes(spec, sizes, n_positions)
    together = _PROGRAM_BYTES + encoder + decoder
    apart = _PROGRAM_BYTES + max(encoder, decoder + int(_LEFT_BEHIND * encoder))
    limit = psutil.virtual_memory().available if budget_bytes is None else budget_bytes
    if together <= limit:
        return MemoryPlan(together, is_frugal=False)
    if apart <= limit:
        return MemoryPlan(apart, is_frugal=True)
    what = "are free" if budget_bytes is None else "are allowed"
    raise DeviceError(
        f"{variant.name} needs about {apart / 1e9:.2f} GB of memory, {limit / 1e9:.2f} {what}",
        "close other programs, use fewer bits (`tinyv quantize --bits 4`) or a shorter answer "
        "(`-n 64`), or allow more: `--memory-budget 8GB`",
    )


def _measure_parts(variant: Variant) -> PartSizes:
    return PartSizes(
        vision_bytes=variant.manifest.count_bytes("vision-data"),
        decoder_bytes=variant.manifest.count_bytes("decoder-data"),
        n_decoder_graphs=len(variant.graphs("decoder")),
    )


def read_peak_rss_bytes() -> int | None:
    """The most memory this process had resident until now; None on Windows.

    Mapped files count as far as they were touched. On Linux `ru_maxrss` would be the peak of the
    process that started this one, where that was larger: it is kept when a program is executed.

    Source: proc_pid_status(5), `VmHWM` in kilobytes; getrusage(2), `ru_maxrss` in kilobytes on
    Linux, in bytes on macOS.
    """
    if sys.platform == "win32":
        return None
    import resource

    number = read_proc_line("/proc/self/status", "VmHWM").removesuffix("kB").strip()
    if number.isdecimal():
        return 1024 * int(number)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def read_proc_line(path: str, name: str) -> str:
    """What stands behind a name in a file of Linux; empty on other systems."""
    try:
        lines = Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def cache_bytes(spec: LanguageSpec, n_positions: int) -> int:
    """Bytes of keys and values in float32."""
    return 2 * _FLOAT_BYTES * spec.n_layers * spec.width * n_positions
