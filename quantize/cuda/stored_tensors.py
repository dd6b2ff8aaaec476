"""A GPU's file becomes float32 tensors again, by name, one at a time.

What they are is what the GPU's kernels take its codes for.
"""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open

from quantize.channelwise import LARGEST_CODE


class StoredTensors:
    """Reads canonical tensors of a mapped file.

    Args:
        path: of a file with the role `cuda-language` or `cuda-vision`.
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
        """Unpacks a matrix."""
        from tinyv_cli.backends.cuda.quiet_bitsandbytes import QuantState
        from tinyv_cli.backends.cuda.torch_modules import read_nf4

        start = len(name) + 1
        beside = [each for each in self._names if each.startswith(f"{name}.")]
        parts = {each[start:]: self._file.get_tensor(each) for each in beside}
        return read_nf4(codes, QuantState.from_dict(parts, codes.device), torch.float32)
