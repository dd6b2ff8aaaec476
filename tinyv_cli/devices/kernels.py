"""bitsandbytes multiplies a row on a GPU in another process, whose end is seen and remembered.

An error inside its int8 kernels ends the process (`exit(1)` in C), its NF4 kernels report none, and
what cuBLASLt refuses is printed on stdout. So neither is tried first in the process that answers.
"""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinyv_cli.devices.findings import Findings, KernelFindings
from tinyv_cli.devices.names import to_cuda_name
from tinyv_cli.disk import places
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.whole_file import write_whole

LARGEST_ROW_ERROR = 0.01  # float16 is off by 0.0003; what is wrong is off by much more
_PROBE = "tinyv_cli.backends.cuda.kernel_probe"
_LIMIT_S = 120
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


def examine_kernels(found: Findings, bitsandbytes: str | None, *, again: bool) -> KernelFindings:
    """Finds out whether bitsandbytes computes right on a GPU: once for a card and its versions.

    Args:
        found: about a GPU that nothing else speaks against.
        bitsandbytes: its version.
        again: whether it is tried even where its end is remembered.
    """
    torch = found.torch
    versions = f"torch {torch.version}, bitsandbytes {bitsandbytes}"
    pair = f"{torch.gpu_name}, driver for CUDA {found.driver.cuda}, {versions}"
    ends = _read_ends()
    if pair in ends and not again:
        with suppress(TypeError):  # of another version's file
            return KernelFindings(**ends[pair])
    outcome, is_lasting = _run_probe(to_cuda_name(found.number))
    if is_lasting:
        ends[pair] = {"errors": outcome.errors, "problem": outcome.problem}
        with suppress(OSError):  # then it is tried the next time, too
            path = places.kernels_path()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(ends), is_durable=False)
    return outcome


def _read_ends() -> dict[str, dict[str, Any]]:
    """Reads what is remembered, by card and versions; nothing where that is damaged."""
    try:
        ends = json.loads(read_bytes(places.kernels_path()))
    except (OSError, ValueError):
        return {}
    is_sound = isinstance(ends, dict) and all(isinstance(each, dict) for each in ends.values())
    return ends if is_sound else {}


def _run_probe(device: str) -> tuple[KernelFindings, bool]:
    """Runs the probe; returns its end, and whether it will be the same the next time."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", _PROBE, device],
            cwd=_PACKAGE_PARENT,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        problem = f"bitsandbytes does not multiply a row on the GPU within {_LIMIT_S} s"
        return KernelFindings(problem=problem), False
    try:
        errors = json.loads(done.stdout.strip().rpartition("\n")[2])
        if done.returncode == 0:
            wrong = [name for name, error in errors.items() if not error <= LARGEST_ROW_ERROR]
            if not wrong:
                return KernelFindings(errors), True
            told = ", ".join(f"an error of {errors[name]:.3g} with {name}" for name in wrong)
            problem = f"bitsandbytes multiplies wrongly on the GPU: {told}"
            return KernelFindings(problem=problem), True
    except ValueError:
        pass  # its output ends in other words
    said = done.stderr.strip() or done.stdout.strip()
    reason = said.rpartition("\n")[2] or "without a word"
    problem = f"bitsandbytes ends the process that multiplies on the GPU ({done.returncode}): "
    is_memory = "out of memory" in said or "ALLOC_FAILED" in said
    return KernelFindings(problem=problem + reason), not is_memory
