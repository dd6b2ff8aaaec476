"""A mapped safetensors file becomes tensors on a device, each checked before any is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinyv_cli.errors import WeightsError

MAKE_AGAIN = "make the variant again: `tinyv quantize --target cuda --force`"


@dataclass(frozen=True)
class Form:
    """What a tensor has to look like.

    Attributes:
        shape: None where it may be any vector.
        dtypes: as safetensors names them: `F32`, `F16`, `I8`, `U8`.
    """

    shape: tuple[int, ...] | None
    dtypes: tuple[str, ...]

    def fits(self, shape: tuple[int, ...], dtype: str) -> bool:
        """Whether a tensor looks like this."""
        shape_fits = len(shape) == 1 if self.shape is None else shape == self.shape
        return shape_fits and dtype in self.dtypes

    def __str__(self) -> str:
        shape = "a vector" if self.shape is None else list(self.shape)
        return f"{' or '.join(self.dtypes)} {shape}"


class TensorFile:
    """An open file of tensors, mapped; a context manager.

    Args:
        path: of the file.
        device: where tensors go, straight from the mapped file.

    Raises:
        WeightsError: it is missing or not a safetensors file.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt", device=device)
        except (OSError, SafetensorError) as error:
            problem = f"{path} is not a readable safetensors file: {str(error).lower()}"
            raise WeightsError(problem, MAKE_AGAIN) from error
        self.names = self._list_names()

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unmaps the file."""
        self._file.__exit__(kind, error, trace)

    def check(self, forms: Mapping[str, Form]) -> None:
        """Looks that the file holds these tensors and no others; reads none of them.

        Raises:
            WeightsError: tensors are missing, surplus or of another shape or type.
        """
        self._complain("lacks", forms.keys() - self.names)
        self._complain("holds what nobody knows,", self.names - forms.keys())
        for name, form in forms.items():
            tensor = self._file.get_slice(name)
            shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
            if not form.fits(shape, dtype):
                problem = f"{name} in {self.path} is {dtype} {list(shape)}, expected {form}"
                raise WeightsError(problem, MAKE_AGAIN)

    def read(self, name: str) -> Tensor:
        """Copies one tensor to the device.

        Raises:
            WeightsError: it cannot be read.
        """
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise WeightsError(f"{name} in {self.path} cannot be read", MAKE_AGAIN) from error
        return tensor

    def _list_names(self) -> frozenset[str]:
        return frozenset(self._file.keys())

    def _complain(self, what: str, names: Iterable[str]) -> None:
        """Raises a WeightsError when there are any names."""
        first, *others = sorted(names) or [""]
        if first:
            more = f", … ({len(others)} more)" if others else ""
            raise WeightsError(f"{self.path} {what} {first}{more}", MAKE_AGAIN)
