"""Tensors that are made one at a time become a .pth, .bin or .safetensors file of any size.

Only the tensor being written is in memory.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weights.safetensors_writer import SafetensorsWriter

_ENTRY_BYTES = 160  # of a header, for a tensor's type, shape and place beside its name, at most


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
            file.write(tensor.make().contiguous().view(torch.uint8).numpy().data)


def write_safetensors_file(path: Path, plan: TensorPlan) -> None:
    """Writes a safetensors file, as a GPU's files are written."""
    with SafetensorsWriter(path, sum(len(name) + _ENTRY_BYTES for name in plan)) as writer:
        for name, tensor in plan.items():
            writer.append(name, tensor.make())
