"""What is typed after `--device` becomes a device's one name; asks nothing whether it is there."""

import re

from tinyv_cli.errors import UsageError

ALLOWED_DEVICES = "auto, cpu, cuda or cuda:N, N a card's number from 0"
_CARD = re.compile(r"cuda(?::(0|[1-9][0-9]{0,5}))?")


def read_device(text: str) -> str:
    """Gives a device the one name it has: `auto`, `cpu`, `cuda`, which is card 0, or `cuda:1`.

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
    """The number of the card that a name stands for, as CUDA counts; None where it is no card's."""
    found = _CARD.fullmatch(device)
    return int(found[1] or 0) if found else None


def to_cuda_name(number: int) -> str:
    """The one name of a card: 0 → `cuda`, 1 → `cuda:1`."""
    return f"cuda:{number}" if number else "cuda"


def is_cuda(device: str) -> bool:
    """Whether a name stands for a card."""
    return find_cuda_number(device) is not None


def to_kind(device: str) -> str:
    """What is kept of a device beside its results: `cuda` for every card, whatever its number.

    A number says little of a card: it changes with `CUDA_VISIBLE_DEVICES`, and with the computer.
    """
    return "cuda" if is_cuda(device) else device
