"""A mapped safetensors file becomes tensors on a device, each checked before any is read.

On a GPU all of them lie in memory that is taken at once. Taken one by one, those of more than
10 MB would each be rounded up to 2 MB by torch, 0.3 GB in all at the published size.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinyv_cli.errors import WeightsError

_ALIGN_BYTES = 256  # where each tensor starts in a GPU's memory

MAKE_AGAIN = "make the variant again: `tinyv quantize --target cuda --force`"


@dataclass(frozen=True)
class ExpectedTensor:
    """The shape and type that a tensor has to have.

    Attributes:
        shape: None where it may be any vector.
        dtypes: as safetensors names them: `F32`, `F16`, `I8`, `U8`.
    """

    shape: tuple[int, ...] | None
    dtypes: tuple[str, ...]

    def fits(self, shape: tuple[int, ...], dtype: str) -> bool:
        """Checks a tensor's shape and dtype."""
        shape_fits = len(shape) == 1 if self.shape is None else shape == self.shape
        return shape_fits and dtype in self.dtypes

    def __str__(self) -> str:
        shape = "a vector" if self.shape is None else list(self.shape)
        return f"{' or '.join(self.dtypes)} {shape}"


class MemoryBlock:
    """Memory of a device, taken at once and given out tensor by tensor.

    Args:
        sizes: bytes of the tensors that are to come.
        device: where it lies.
    """

    def __init__(self, sizes: Iterable[int], device: str) -> None:
        n_bytes = sum(map(_align, sizes))
        self._bytes = torch.empty(n_bytes, dtype=torch.uint8, device=device)
        self._n_taken = 0

    def put(self, tensor: Tensor) -> Tensor:
        """Copies a tensor into it; the block lives as long as any of them."""
        begin, end = self._n_taken, self._n_taken + tensor.nbytes
        place = self._bytes[begin:end].view(tensor.dtype).view(tensor.shape)
        self._n_taken = _align(end)
        return place.copy_(tensor)


def _align(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGN_BYTES) * _ALIGN_BYTES


class MappedTensors:
    """An open file of tensors, mapped; a context manager.

    Args:
        path: of the file.
        device: where tensors go, straight from the mapped file; on `cpu` they stay in it.
        stays: whether the tensor of a name stays in it in any case.

    Raises:
        WeightsError: it is missing or not a safetensors file.
    """

    def __init__(
        self, path: Path, device: str, stays: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.path = path
        self.device = device
        self._stays = stays
        self._block: MemoryBlock | None = None
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            problem = f"{path} is not a readable safetensors file: {str(error).lower()}"
            raise WeightsError(problem, MAKE_AGAIN) from error
        self.names = frozenset(self._file.keys())  # type: ignore[no-untyped-call]

    def __enter__(self) -> "MappedTensors":
        return self

    def __exit__(self, *_: object) -> None:
        """Unmaps the file."""
        self._file.__exit__(None, None, None)

    def check(self, expected: Mapping[str, ExpectedTensor]) -> None:
        """Checks that the file holds these tensors and no others; reads none of them.

        Raises:
            WeightsError: tensors are missing, surplus or of another shape or type.
        """
        self._refuse("lacks", expected.keys() - self.names)
        self._refuse("holds unknown tensors:", self.names - expected.keys())
        for name, form in expected.items():
            tensor = self._file.get_slice(name)
            shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
            if not form.fits(shape, dtype):
                problem = f"{name} in {self.path} is {dtype} {list(shape)}, expected {form}"
                raise WeightsError(problem, MAKE_AGAIN)

    def read(self, name: str) -> Tensor:
        """Copies one tensor to the device, once.

        Raises:
            WeightsError: it cannot be read.
        """
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise WeightsError(f"{name} in {self.path} cannot be read", MAKE_AGAIN) from error
        if self.device == "cpu" or self._stays(name):
            return tensor
        if self._block is None:
            moved = (each for each in self.names if not self._stays(each))
            sizes = (self._file.get_tensor(each).nbytes for each in moved)
            self._block = MemoryBlock(sizes, self.device)
        return self._block.put(tensor)

    def _refuse(self, what: str, names: Iterable[str]) -> None:
        """Raises a WeightsError if there are any names."""
        first, *others = sorted(names) or [""]
        if first:
            more = f", … ({len(others)} more)" if others else ""
            raise WeightsError(f"{self.path} {what} {first}{more}", MAKE_AGAIN)
