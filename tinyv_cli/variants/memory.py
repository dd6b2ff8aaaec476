"""A variant's numbers become the bytes an answer will take, before any of them is loaded.

Here too is what this machine has free, and what this process has taken.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tinyv_cli.console import to_size
from tinyv_cli.errors import DeviceError
from tinyv_cli.machine.memory import read_main_memory
from tinyv_cli.spec import LanguageSpec, ModelSpec
from tinyv_cli.variants.manifest import Variant

_FLOAT_BYTES = 4
_PROGRAM_BYTES = 100_000_000  # interpreter, runtime, tokenizer
_REARRANGED = 1.05  # bytes of a decoder's weights in memory to those on disk: sums of groups join
_LEFT_BEHIND = 0.15  # share of a closed vision side that the allocator does not give back

# Positions of a prompt that are computed at once: on a CPU they bound the score matrices,
# H · T · C float32, on a GPU what lies between two matrices.
CHUNK_POSITIONS = 256
CUDA_CHUNK_POSITIONS = 512

CUDA_BUDGET_BYTES = 8 << 30  # of a GPU, without `--memory-budget`
# Both assumed, since no GPU was at hand to measure them on. torch's own limit does not count the
# context, so it is taken off a budget first. The other 0.15 GB are what torch takes beside tensors:
# cuBLAS's workspaces, 8 or 32 MB each for up to three streams, and half empty segments.
CUDA_CONTEXT_BYTES = 400_000_000
CUDA_BASE_BYTES = CUDA_CONTEXT_BYTES + 150_000_000
# Of what is free, left to what takes a GPU's memory past torch: kernels that are loaded when they
# first run, cuBLASLt, recorded steps. Assumed, too.
CUDA_OUTSIDE_BYTES = 300_000_000
_HALF_BYTES = 2


@dataclass(frozen=True)
class PartSizes:
    """The sizes of the two parts that compute, from which memory is estimated.

    Attributes:
        vision_bytes: of the vision side's weights on disk.
        decoder_bytes: of the decoder's.
        n_decoder_graphs: each keeps memory of its own to work in.
    """

    vision_bytes: int
    decoder_bytes: int
    n_decoder_graphs: int


@dataclass(frozen=True)
class Room:
    """What keys and values are wanted for.

    Attributes:
        n_positions: of a prompt and its answer together, at most.
        n_slots: answers at once; None for one conversation alone.
    """

    n_positions: int
    n_slots: int | None = None


@dataclass(frozen=True)
class GpuMemory:
    """A GPU, as far as a plan depends on it.

    Attributes:
        free_bytes: beside the CUDA context of this process.
        has_int8_products: whether it multiplies matrices in int8; else the output head, the widest
            of them, is read back to float16.
    """

    free_bytes: int
    has_int8_products: bool = True


@dataclass(frozen=True)
class MemoryPlan:
    """The memory that an answer will take, and how it is kept within what there is.

    Attributes:
        needed_bytes: resident memory at the peak, estimated; on a GPU, of its memory.
        is_offloaded: whether the vision side is given back before the decoder is opened.
        limit_bytes: that it was planned within.
        n_slots: answers at once that it suffices for, at most as many as were wanted; None where
            one conversation was.
    """

    needed_bytes: int
    is_offloaded: bool
    limit_bytes: int
    n_slots: int | None = None


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
    """Estimates the vision side: weights, one block's scores, its widest activations twice."""
    vision = spec.vision
    scores = vision.n_heads * vision.n_tokens**2
    activations = vision.n_tokens * (2 * vision.mlp_width + 6 * vision.width)
    return sizes.vision_bytes + _FLOAT_BYTES * (scores + activations)


def estimate_decoder_bytes(
    spec: ModelSpec, sizes: PartSizes, n_positions: int, n_slots: int = 1
) -> int:
    """Estimates the decoder: weights, keys and values, and the working memory of a prompt.

    Args:
        spec: the model's numbers.
        sizes: of the variant.
        n_positions: of prompt and answer together.
        n_slots: answers at once, each as long.
    """
    language = spec.language
    n_chunk = min(n_positions, CHUNK_POSITIONS)
    activations = n_chunk * (2 * language.mlp_width + 6 * language.width)
    scores = language.n_heads * n_chunk * n_positions
    working = sizes.n_decoder_graphs * activations + scores + n_slots * language.vocab_size
    weights = int(_REARRANGED * sizes.decoder_bytes)
    return weights + cache_bytes(language, n_slots * n_positions) + _FLOAT_BYTES * working


def estimate_cuda_encoder_bytes(spec: ModelSpec, file_bytes: int) -> int:
    """Estimates the vision side on a GPU: weights, activations, and a matrix that is read back.

    Attention is one kernel there, without score matrices.
    """
    vision = spec.vision
    activations = vision.n_tokens * (2 * vision.mlp_width + 6 * vision.width)
    return file_bytes + _HALF_BYTES * (activations + vision.width * vision.mlp_width)


def estimate_cuda_decoder_bytes(
    spec: ModelSpec,
    file_bytes: int,
    n_positions: int,
    n_slots: int = 1,
    *,
    has_int8_products: bool = True,
) -> int:
    """Estimates the decoder on a GPU: weights, keys and values in float16, and working memory.

    Token embeddings stay outside. Keys and values are there for the whole context from the
    beginning. At worst a prompt is as long as that: its embeddings are there in float32, and a
    chunk at a time is computed, with hidden states in float32; meanwhile one matrix is unpacked
    to float16, of which the widest counts: the head's only where int8 is not multiplied.
    """
    language = spec.language
    n_chunk = min(n_positions, CUDA_CHUNK_POSITIONS)
    halves = n_chunk * (2 * language.mlp_width + 6 * language.width)
    n_rows = language.mlp_width if has_int8_products else language.vocab_size
    halves += language.width * n_rows
    floats = (n_positions + 3 * n_chunk) * language.width + 2 * language.vocab_size
    keys_and_values = n_slots * cache_bytes(language, n_positions) * _HALF_BYTES // _FLOAT_BYTES
    working = _HALF_BYTES * halves + _FLOAT_BYTES * floats
    return file_bytes - cuda_table_bytes(language) + keys_and_values + working


def cuda_table_bytes(spec: LanguageSpec) -> int:
    """Returns the bytes of token embeddings in a CUDA file: int8, and a float32 scale a row."""
    return spec.vocab_size * (spec.width + _FLOAT_BYTES)


def plan_memory(
    variant: Variant,
    room: Room,
    budget_bytes: int | None,
    *,
    encodes: bool,
    gpu: GpuMemory | None = None,
    may_offload: bool = True,
) -> MemoryPlan:
    """Finds out how answers fit, and refuses what will not, before anything is loaded.

    Args:
        variant: that is to answer; of its token embeddings, single rows are touched.
        room: for keys and values; on a GPU, for the whole context. Where it does not fit, fewer
            answers at once are planned.
        budget_bytes: that may be taken; None for what the machine has free, on a GPU 8 GiB of it
            at most.
        encodes: whether a picture must be encoded.
        gpu: that answers; None where the CPU does.
        may_offload: whether the vision side may be given back before the decoder is opened.

    Raises:
        DeviceError: not even one fits, with offloading where that is allowed.
    """
    spec, count_bytes = variant.manifest.spec, variant.manifest.count_bytes
    if gpu is None:
        n_graphs = len(variant.graphs("decoder"))
        sizes = PartSizes(count_bytes("vision-data"), count_bytes("decoder-data"), n_graphs)
        encoder = estimate_encoder_bytes(spec, sizes)
        always, left_behind = _PROGRAM_BYTES, int(_LEFT_BEHIND * encoder)
        is_budget = budget_bytes is not None
        limit = read_main_memory().available_bytes if budget_bytes is None else budget_bytes
        estimate = partial(estimate_decoder_bytes, spec, sizes, room.n_positions)
    else:
        encoder = estimate_cuda_encoder_bytes(spec, count_bytes("cuda-vision"))
        always, left_behind = CUDA_BASE_BYTES, 0  # freed memory goes back to the driver
        budget = CUDA_BUDGET_BYTES if budget_bytes is None else budget_bytes
        usable = gpu.free_bytes + CUDA_CONTEXT_BYTES - CUDA_OUTSIDE_BYTES
        limit, is_budget = min(usable, budget), budget < usable
        estimate = partial(
            estimate_cuda_decoder_bytes,
            spec,
            count_bytes("cuda-language"),
            room.n_positions,
            has_int8_products=gpu.has_int8_products,
        )
    if not encodes:
        encoder = left_behind = 0
    needed = 0
    for may_part in (False, True) if may_offload else (False,):
        for n in range(room.n_slots or 1, 0, -1):
            decoder = estimate(n)
            needed = always + encoder + decoder
            if may_part:
                needed = always + max(encoder, decoder + left_behind)
            if needed <= limit:
                return MemoryPlan(needed, may_part, limit, n if room.n_slots else None)
    raise _make_refusal(variant.name, needed, limit, is_budget, is_cuda=gpu is not None)


def _make_refusal(
    name: str, needed_bytes: int, limit_bytes: int, is_budget: bool, *, is_cuda: bool
) -> DeviceError:
    memory = "the GPU's memory" if is_cuda else "memory"
    word = "allowed" if is_budget else "free"
    needed, limit = to_size(needed_bytes, 2), to_size(limit_bytes, 2)
    problem = f"{name} needs about {needed} of {memory}, {limit} are {word}"
    if is_cuda:
        return DeviceError(
            problem,
            "close other programs, use fewer bits (`tinyv quantize --target cuda --bits 4 "
            "--vision-bits 8`) or a shorter context (`--ctx-size 512`)",
        )
    return DeviceError(
        problem,
        "close other programs, use fewer bits (`tinyv quantize --bits 4`) or a shorter answer "
        "(`-n 64`), or allow more: `--memory-budget 8GB`",
    )


def read_peak_rss_bytes() -> int | None:
    """Reads the most memory this process had resident until now; None on Windows.

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
    """Reads the value behind a name in a file of Linux; empty on other systems."""
    try:
        lines = Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def cache_bytes(spec: LanguageSpec, n_positions: int) -> int:
    """Returns the bytes of keys and values in float32."""
    return 2 * _FLOAT_BYTES * spec.n_layers * spec.width * n_positions
