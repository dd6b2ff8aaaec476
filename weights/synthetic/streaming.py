"""Tensors that are made one at a time become a .pth, .bin or .safetensors file of any size.

Only the tensor being written is in memory.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_SAFETENSORS_WORDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that is yet to be made.

    Attributes:
        shape: of the tensor.
        dtype: of the tensor.
        make: makes it, each time the same.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def size_bytes(self) -> int:
        """Returns its size in a file."""
        return math.prod(self.shape) * self.dtype.itemsize


TensorPlan = dict[str, PlannedTensor]


def write_torch_file(
    path: Path, plan: TensorPlan, surroundings: Mapping[str, object] | None = None
) -> None:
    """Writes a zip-format PyTorch file.

    torch first writes it with room for the numbers, from tensors whose memory is never touched;
    then each tensor is made and written into its place.

    Args:
        path: the file.
        plan: name → tensor, in the order in which they are written.
        surroundings: entries beside the tensors, which are then under "model"; no tensor may be in
            it. None writes a flat dict.
    """
    room = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in plan.items()}
    with torch.serialization.skip_data():
        torch.save(room if surroundings is None else {"model": room, **surroundings}, path)
    reader: Any = torch._C.PyTorchFileReader(str(path))  # its stub lacks get_record_offset
    offsets = [reader.get_record_offset(f"data/{i}") for i in range(len(room))]
    del reader, room
    with path.open("r+b") as file:
        for offset, tensor in zip(offsets, plan.values(), strict=True):
            file.seek(offset)
            file.write(_make_bytes(tensor))


def write_safetensors_file(path: Path, plan: TensorPlan) -> None:
    """Writes a safetensors file.

    Source: the safetensors format: eight bytes of header length, the header, the numbers.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in plan.items():
        start, end = end, end + tensor.size_bytes
        header[name] = {
            "dtype": _SAFETENSORS_WORDS[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in plan.values():
            file.write(_make_bytes(tensor))


def _make_bytes(tensor: PlannedTensor) -> memoryview:
    made = tensor.make().contiguous()
    return made.view(torch.uint8).numpy().data
