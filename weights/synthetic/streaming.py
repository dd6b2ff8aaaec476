"""Tensors that are made one at a time become a .pth, .bin or .safetensors file of any size.

Only the tensor being written is in memory.
"""

import math
import zipfile
import zlib
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


_HAS_DESCRIPTOR = 0x08  # the checksum stands behind the numbers
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
    checksums: dict[str, int] = {}
    del reader, room
    with path.open("r+b") as file:
        for i, (offset, tensor) in enumerate(zip(offsets, plan.values(), strict=True)):
            numbers = tensor.make().contiguous().view(torch.uint8).numpy().data
            file.seek(offset)
            file.write(numbers)
            checksums[f"data/{i}"] = zlib.crc32(numbers)
    _write_checksums(path, checksums)


def _write_checksums(path: Path, checksums: Mapping[str, int]) -> None:
    """Writes CRC-32s into an archive's directory and behind or before each record.

    Args:
        path: a zip archive whose records all lie in one folder.
        checksums: name of a record within the folder → its CRC-32.

    Source: PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.9 and 4.3.12.
    """
    with zipfile.ZipFile(path) as archive:
        records, place = archive.infolist(), archive.start_dir
    with path.open("r+b") as file:
        for record in records:
            file.seek(place)
            entry = file.read(46)
            lengths = [int.from_bytes(entry[at : at + 2], "little") for at in (28, 30, 32)]
            checksum = checksums.get(record.filename.partition("/")[2])
            if checksum is not None:
                crc = checksum.to_bytes(4, "little")
                file.seek(place + 16)
                file.write(crc)
                file.seek(record.header_offset + 26)
                names = file.read(4)
                n_before = int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
                if record.flag_bits & _HAS_DESCRIPTOR:
                    file.seek(record.header_offset + 30 + n_before + record.compress_size)
                    has_mark = file.read(4) == b"PK\x07\x08"
                    file.seek(0 if has_mark else -4, 1)
                else:
                    file.seek(record.header_offset + 14)
                file.write(crc)
            place += 46 + sum(lengths)


def write_safetensors_file(path: Path, plan: TensorPlan) -> None:
    """Writes a safetensors file, as a GPU's files are written."""
    with SafetensorsWriter(path, sum(len(name) + _ENTRY_BYTES for name in plan)) as writer:
        for name, tensor in plan.items():
            writer.append(name, tensor.make())
