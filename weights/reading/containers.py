"""A .pth, .bin or .safetensors file of any model becomes named tensors, read one at a time.

Both kinds are memory-mapped. Names, shapes and dtypes are read at once; numbers when asked for.
Nothing in a file is ever executed: PyTorch files are read as tensors, numbers, texts, lists and
dicts, and a pickle that names anything else is refused.
"""

import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open

from tinyv_cli.errors import WeightsError, describe_os_error

FETCH_HINT = "fetch it again and compare its size and SHA-256 with the published ones"
_LEGACY_HINT = (
    "load it with the torch that wrote it and save it again: `torch.save(weights, 'new.pth')`"
)

# Read through one mapping before it is renewed: resident pages of 8 GB of files would pile up and
# look like memory in use. At full size the peak is 1.6 GiB.
_MAPPED_LIMIT_BYTES = 256 * 1024**2
_STATE_KEYS = {"model", "optimizer", "config", "scaler", "epoch"}  # of a training checkpoint
_SAFETENSORS_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_TORCH_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


class TorchFile:
    """A zip-format PyTorch file: a flat dict of tensors, or a checkpoint with them in `model`.

    Attributes:
        label: how messages name the file.
        config: of a checkpoint; else None or a tensor.
        shapes: name → shape, of every tensor in the file.
        dtypes: name → torch.dtype.
    """

    def __init__(self, path: Path, label: str) -> None:
        """Reads names, shapes and dtypes; see `open_tensor_file`."""
        self.label = label
        self._path = path
        content = _read_torch(path, label)
        self.config: Any = content.get("config")
        self._tensors: dict[str, torch.Tensor] | None = _list_tensors(content, label)
        self._read_bytes = 0
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.dtypes: dict[str, object] = {
            name: tensor.dtype for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor in the file's dtype, mapped: copy it before the file is closed.

        Raises:
            WeightsError: the file has been damaged since it was opened.
        """
        if self._tensors is None or self._read_bytes > _MAPPED_LIMIT_BYTES:
            self.close()  # pages that were read stay in memory until their mapping goes
            self._tensors = _list_tensors(_read_torch(self._path, self.label), self.label)
        if name not in self._tensors:
            raise WeightsError(f"{self.label} changed while it was read", "start again")
        tensor = self._tensors[name]
        self._read_bytes += tensor.nbytes
        return tensor

    def close(self) -> None:
        """Drops the mapping; a later read renews it."""
        self._tensors = None
        self._read_bytes = 0


class SafetensorsFile:
    """A safetensors file.

    Attributes:
        label: how messages name the file.
        shapes: name → shape, of every tensor in the file.
        dtypes: name → torch.dtype, or the file's own word for one that is not read.
    """

    def __init__(self, path: Path, label: str) -> None:
        """Reads names, shapes and dtypes; see `open_tensor_file`."""
        self.label = label
        self._path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, object] = {}
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    entry = file.get_slice(name)
                    self.shapes[name] = tuple(entry.get_shape())
                    word = entry.get_dtype()
                    self.dtypes[name] = _SAFETENSORS_DTYPES.get(word, word)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise _refuse_safetensors(label, error) from error

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor in the file's dtype.

        Raises:
            WeightsError: the file has been damaged since it was opened.
        """
        try:
            with safe_open(self._path, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise _refuse_safetensors(self.label, error) from error
        return tensor

    def close(self) -> None:
        """Does nothing: no mapping stays open between reads."""


WeightsFile: TypeAlias = TorchFile | SafetensorsFile


def open_tensor_file(path: Path, label: str) -> WeightsFile:
    """Opens a file of tensors by what its name ends in.

    Args:
        path: ends in .pth, .bin or .safetensors.
        label: how messages name the file.

    Raises:
        WeightsError: it cannot be read, is damaged, of another kind, or holds foreign objects.
    """
    if path.suffix == ".safetensors":
        return SafetensorsFile(path, label)
    return TorchFile(path, label)


def _refuse_safetensors(label: str, error: Exception) -> WeightsError:
    return WeightsError(f"{label} is not a whole safetensors file: {error}", FETCH_HINT)


def _read_torch(path: Path, label: str) -> dict[Any, Any]:
    """Maps a file's tensors; refuses every pickle that names more than those."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        reason = describe_os_error(error)
        raise WeightsError(f"{label} cannot be read: {reason}", FETCH_HINT) from error
    # torch has only general words for these.
    if not start:
        raise WeightsError(f"{label} is empty", FETCH_HINT)
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{label} is a Git LFS pointer, not the file", "run `git lfs pull`")
    if start.startswith(b"\x80"):
        raise WeightsError(f"{label} is in the format of torch before 1.6", _LEGACY_HINT)
    if not start.startswith(b"PK\x03\x04"):
        raise WeightsError(f"{label} is not a PyTorch file", FETCH_HINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch would warn of is refused here
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises how to load it all the same.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is None:
            problem = f"{label} is damaged: its pickle cannot be read"
            raise WeightsError(problem, FETCH_HINT) from error
        raise WeightsError(
            f"{label} holds a Python object that is not a tensor: {foreign[1]}",
            f"do not use this file: opening it elsewhere could run its code; {FETCH_HINT}",
        ) from error
    except _TORCH_ERRORS as error:
        reason = str(error).partition("\n")[0].partition(". ")[0][:200]
        raise WeightsError(f"{label} is damaged: {reason}", FETCH_HINT) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{label} holds a {type(content).__name__}, not a dict", FETCH_HINT)
    return content


def _list_tensors(content: dict[Any, Any], label: str) -> dict[str, torch.Tensor]:
    """Returns every tensor of the network that a file's content holds, by name.

    A checkpoint's optimizer, scaler and epoch belong to training and are passed over.
    """
    inner = content.get("model")
    if not isinstance(inner, dict):
        return dict(_check_tensors(content, label))
    tensors = dict(_check_tensors(inner, label))
    for key, value in content.items():
        if key not in _STATE_KEYS:
            tensors |= {f"{key}{path}": tensor for path, tensor in _find_tensors(value)}
    return tensors


def _check_tensors(entries: dict[Any, Any], label: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in entries.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{label} holds an entry that is not a tensor: {name!r}", FETCH_HINT)
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise WeightsError(f"{label} holds {name} in a form that is not read", FETCH_HINT)
        yield name, value.detach()


def _find_tensors(value: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields tensors in nested containers, each with its path below the outermost."""
    if isinstance(value, torch.Tensor):
        yield "", value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from ((f".{key}{path}", tensor) for path, tensor in _find_tensors(inner))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from ((f".{i}{path}", tensor) for path, tensor in _find_tensors(inner))
