"""A variant's numbers become the bytes an answer will take, before any of them is loaded.

Here too is what this machine has free, and what this process has taken.
"""

import sys
from pathlib import Path

import psutil

from tinyv_cli.errors import DeviceError
from tinyv_cli.manifest import Variant
from tinyv_cli.spec import LanguageSpec, ModelSpec, VisionSpec

_FLOAT_BYTES = 4
_PROGRAM_BYTES = 150_000_000  # interpreter, runtime, tokenizer: 130-160 MB measured


def estimate_run_bytes(spec: ModelSpec, weight_bytes: int, context_length: int) -> int:
    """Estimates the peak memory of an answer on the CPU.

    Args:
        spec: the model's numbers.
        weight_bytes: bytes of the variant's files; all of them are touched.
        context_length: positions that the cache may fill.
    """
    working = max(_encoder_bytes(spec.vision), _decoder_bytes(spec.language, context_length))
    return _PROGRAM_BYTES + weight_bytes + cache_bytes(spec.language, context_length) + working


def estimate_answer_bytes(variant: Variant, n_positions: int) -> int:
    """Estimates the peak memory of one answer about a new picture on the CPU.

    Args:
        variant: whose weights are mapped; of the token embeddings, single rows are touched.
        n_positions: of prompt and answer together.
    """
    weight_bytes = variant.manifest.count_bytes("vision-data", "decoder-data")
    return estimate_run_bytes(variant.manifest.spec, weight_bytes, n_positions)


def check_memory(variant: Variant, n_positions: int, budget_bytes: int | None) -> int:
    """Refuses what will not fit, before anything is loaded.

    Args:
        variant: that is to answer.
        n_positions: of prompt and answer together, at most.
        budget_bytes: that may be taken; None for what the machine has free.

    Returns:
        The estimate.

    Raises:
        DeviceError: the estimate is larger.
    """
    needed = estimate_answer_bytes(variant, n_positions)
    limit = psutil.virtual_memory().available if budget_bytes is None else budget_bytes
    if needed > limit:
        what = "are free" if budget_bytes is None else "are allowed"
        raise DeviceError(
            f"{variant.name} needs about {needed / 1e9:.2f} GB of memory, {limit / 1e9:.2f} {what}",
            "close other programs, use fewer bits (`tinyv quantize --bits 4`) or a shorter answer "
            "(`-n 64`), or allow more: `--memory-budget 8GB`",
        )
    return needed


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


def _encoder_bytes(spec: VisionSpec) -> int:
    """Working memory of the ViT: one block's scores, and its widest activations twice."""
    scores = spec.n_heads * spec.n_tokens**2
    return _FLOAT_BYTES * (scores + spec.n_tokens * (2 * spec.mlp_width + 6 * spec.width))


def _decoder_bytes(spec: LanguageSpec, context_length: int) -> int:
    """Working memory of a prefill of 256 positions: scores, widest activations twice, logits."""
    scores = spec.n_heads * 256 * context_length
    return _FLOAT_BYTES * (scores + 256 * (2 * spec.mlp_width + 6 * spec.width) + spec.vocab_size)
