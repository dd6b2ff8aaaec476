"""Tensors become a safetensors file as they come, without holding the large ones.

Source: the safetensors format: eight bytes of header length, a header of JSON that may end in
spaces, then the numbers without a gap.
"""

import json
from pathlib import Path
from typing import Any, Self

import torch

_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_ALIGN_BYTES = 64  # where each large tensor starts, so that a mapped one can be used as it lies
_LENGTH_BYTES = 8


class SafetensorsWriter:
    """Writes a file tensor by tensor; the header is filled in when it is closed.

    safetensors' own writer wants all tensors at once, and the header first. Here the header's room
    is reserved, since bitsandbytes stores a JSON text of unknown length beside each matrix, and a
    tensor whose bytes would shift the next one off its place waits for the end; such are few and
    small.

    Args:
        path: is made, or emptied.
        header_bytes: room for the header, at least.
    """

    def __init__(self, path: Path, header_bytes: int) -> None:
        self._entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._waiting: dict[str, torch.Tensor] = {}
        self._file = path.open("wb")
        self._start = -(-(_LENGTH_BYTES + header_bytes) // _ALIGN_BYTES) * _ALIGN_BYTES
        self._file.write(bytes(self._start))

    def append(self, name: str, tensor: torch.Tensor) -> None:
        """Writes a tensor, or keeps it for the end where its bytes are no multiple of 64.

        Args:
            name: new in this file.
            tensor: on any device.
        """
        assert name not in self._entries
        assert name not in self._waiting
        if tensor.nbytes % _ALIGN_BYTES:
            self._waiting[name] = tensor.clone()  # and not what it may be a view of
        else:
            self._write(name, tensor)

    def _write(self, name: str, tensor: torch.Tensor) -> None:
        begin = self._file.tell() - self._start
        self._entries[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + tensor.nbytes],
        }
        self._file.write(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is not None:
                return
            # Wide numbers first, so that each stands on a multiple of its width.
            for name, tensor in sorted(self._waiting.items(), key=lambda each: -each[1].itemsize):
                self._write(name, tensor)
            text = json.dumps(self._entries, separators=(",", ":")).encode()
            room = self._start - _LENGTH_BYTES
            assert len(text) <= room, "the header outgrew its room"
            self._file.seek(0)
            self._file.write(room.to_bytes(_LENGTH_BYTES, "little") + text.ljust(room))
