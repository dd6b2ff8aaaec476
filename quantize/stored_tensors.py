"""A GPU's file of the language model becomes float32 tensors again, by name, one at a time.

What they are is what the GPU's kernels take its codes for.
"""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open

from quantize.cuda_parts import LARGEST_CODE


class StoredTensors:
    """Reads canonical tensors of a mapped file.

    Args:
        path: of the file with the role `cuda-language`.
    """

    def __init__(self, path: Path) -> None:
        self._file = cast(Any, safe_open(path, framework="pt"))
        self._names = frozenset(self._file.keys())

    def read(self, name: str) -> torch.Tensor:
        """Gives a tensor in float32, in its own shape."""
        stored: torch.Tensor = self._file.get_tensor(name)
        if f"{name}.absmax" in self._names:
            return self._read_nf4(name, stored)
        tensor = stored.float()
        if f"{name}.SCB" in self._names:
            tensor *= (self._file.get_tensor(f"{name}.SCB") / LARGEST_CODE)[:, None]
        if f"{name}.scales" in self._names:
            tensor *= self._file.get_tensor(f"{name}.scales")[:, None]
        return tensor

    def _read_nf4(self, name: str, codes: torch.Tensor) -> torch.Tensor:
        """Reads a matrix as one row.

        With bitsandbytes 0.50's kernels for a CPU, rows of 96, 160 or 224 come back wrong
        otherwise, by a fifth of their norm and more; one row is right whatever its length.
        """
        from bitsandbytes.functional import QuantState, dequantize_4bit

        start = len(name) + 1
        beside = [each for each in self._names if each.startswith(f"{name}.")]
        parts = {each[start:]: self._file.get_tensor(each) for each in beside}
        state = QuantState.from_dict(parts, codes.device)
        shape, state.shape = state.shape, torch.Size((1, state.shape.numel()))
        state.dtype = torch.float32
        matrix: torch.Tensor = dequantize_4bit(codes, state).view(shape)
        return matrix
