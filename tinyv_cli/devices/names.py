"""The word after `--device` becomes a device's one name; whether it is there is not checked."""

import re

from tinyv_cli.errors import UsageError

ALLOWED_DEVICES = "auto, cpu, cuda or cuda:N, N a GPU's number from 0"
_CUDA = re.compile(r"cuda(?::(0|[1-9][0-9]{0,5}))?")


def read_device(text: str) -> str:
    """Returns the one name of a device: `auto`, `cpu`, `cuda`, which is GPU 0, or `cuda:1`.

    Raises:
        UsageError: it is no device's name.
    """
    number = find_cuda_number(text)
    if number is not None:
        return to_cuda_name(number)
    if text not in ("auto", "cpu"):
        raise UsageError(f"there is no device {text}", f"use `--device` with {ALLOWED_DEVICES}")
    return text


def find_cuda_number(device: str) -> int | None:
    """Returns the number of the GPU with this name, as CUDA counts; None where it is no GPU's."""
    found = _CUDA.fullmatch(device)
    return int(found[1] or 0) if found else None


def to_cuda_name(number: int) -> str:
    """Returns the one name of a GPU: 0 → `cuda`, 1 → `cuda:1`."""
    return f"cuda:{number}" if number else "cuda"


def is_cuda(device: str) -> bool:
    """Checks whether a name stands for a GPU."""
    return find_cuda_number(device) is not None


def to_kind(device: str) -> str:
    """Returns the part of a name that is stored with results: `cuda` for every GPU.

    A number is no identity: it changes with `CUDA_VISIBLE_DEVICES`, and a GPU that was exchanged
    keeps its number.
    """
    return "cuda" if is_cuda(device) else device
