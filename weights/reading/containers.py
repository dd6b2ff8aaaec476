"""A .pth, .bin or .safetensors file of any model becomes named tensors, read one at a time.

Both kinds are memory-mapped. Names, shapes and dtypes are read at once; numbers when asked for.
Nothing in a file is ever executed: PyTorch files are read as tensors, numbers, texts, lists and
dicts, and a pickle that names anything else is refused.
"""

import mmap
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open

from tinyv_cli.errors import WeightsError, check_memory, describe_os_error
from weights.reading.sources import check_stand_in

FETCH_HINT = "fetch it again and compare its size and SHA-256 with the published ones"
_LEGACY_HINT = (
    "load it with the torch that wrote it and save it again: `torch.save(weights, 'new.pth')`"
)

# Read through one mapping before it is renewed: resident pages of 8 GB of files would pile up and
# look like memory in use. At full size the peak is 1.6 GiB.
_MAPPED_LIMIT_BYTES = 256 * 1024**2
_STATES = {"model", "optimizer", "scaler"}  # of a training checkpoint
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
_KINDS = {
    b"PK\x03\x04": "a zip archive, as PyTorch's .bin and .pth are",
    b"\x80": "a pickle, as PyTorch's .bin was before 1.6",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "packed by gzip",
    b"\x89HDF": "an HDF5 file",
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
    struct.error,
    SyntaxError,
    MemoryError,
)


class TorchFile:
    """A zip-format PyTorch file: a flat dict of tensors, or a checkpoint with them in `model`.

    Attributes:
        label: how messages name the file.
        settings: what a checkpoint holds beside tensors and the optimizer's state.
        shapes: name → shape, of every tensor in the file.
        dtypes: name → torch.dtype.
    """

    def __init__(self, path: Path, label: str) -> None:
        """Reads names, shapes and dtypes; see `open_tensor_file`."""
        self.label = label
        self._path = path
        content, self._records = _read_torch(path, label)
        self._checked: set[str] = set()
        self.settings = {  # a tensor among them would hold the mapping
            key: value
            for key, value in content.items()
            if key not in _STATES and not isinstance(value, torch.Tensor)
        }
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
            content, self._records = _read_torch(self._path, self.label)
            self._tensors = _list_tensors(content, self.label)
        if name not in self._tensors:
            raise WeightsError(f"{self.label} changed while it was read", "start again")
        tensor = self._tensors[name]
        self._read_bytes += tensor.nbytes
        self._check_record(name, tensor)
        return tensor

    def _check_record(self, name: str, tensor: torch.Tensor) -> None:
        """Compares the record a tensor lies in with the archive's length and CRC-32 of it, once."""
        storage = tensor.untyped_storage()
        record = self._records.get(storage.data_ptr())
        if record is None or storage.nbytes() == 0:
            return
        if record.file_size != storage.nbytes():
            raise WeightsError(
                f"{self.label} is damaged: {name} needs {storage.nbytes()} bytes, its record holds "
                f"{record.file_size}",
                FETCH_HINT,
            )
        if record.filename in self._checked:
            return
        numbers = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        if zlib.crc32(numbers.data) != record.CRC:
            raise WeightsError(
                f"{self.label} is damaged: the checksum (CRC-32) of {name} is wrong", FETCH_HINT
            )
        self._checked.add(record.filename)

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
        start = _read_start(path, label)
        if what := _describe_start(start) if start[8:9] != b"{" else "":
            raise WeightsError(f"{label} is not a safetensors file{what}", FETCH_HINT)
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    entry = file.get_slice(name)
                    self.shapes[name] = tuple(entry.get_shape())
                    word = entry.get_dtype()
                    self.dtypes[name] = _SAFETENSORS_DTYPES.get(word, word)
        except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
            raise _refuse_safetensors(label, error) from error

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor in the file's dtype.

        Raises:
            WeightsError: the file has been damaged since it was opened.
        """
        try:
            with safe_open(self._path, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
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
    check_memory(error, label)
    return WeightsError(f"{label} is not a whole safetensors file: {error}", FETCH_HINT)


def _read_start(path: Path, label: str) -> bytes:
    """Reads a file's first bytes; says what it is where it is of no kind that holds tensors."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        reason = describe_os_error(error)
        raise WeightsError(f"{label} cannot be read: {reason}", FETCH_HINT) from error
    if not start:
        raise WeightsError(f"{label} is empty", FETCH_HINT)
    check_stand_in(label, start)
    return start


def _describe_start(start: bytes) -> str:
    """Says what a file of the wrong kind begins like; empty where that is nothing known."""
    for mark, kind in _KINDS.items():
        if start.startswith(mark):
            return f": it is {kind}"
    if start[8:10] == b'{"':
        return ": it is a safetensors file"
    if not start.strip(b"\0"):
        return ": it begins with zeros"
    text = start.decode("utf-8", "replace").strip()
    return f": it is a text, {text[:40]!r}" if text.isprintable() and "\ufffd" not in text else ""


def _read_torch(path: Path, label: str) -> tuple[dict[Any, Any], dict[int, zipfile.ZipInfo]]:
    """Maps a file's tensors; refuses every pickle that names more than those.

    Returns:
        What the file holds, and address of each storage → its record in the archive.
    """
    start = _read_start(path, label)
    # torch has only general words for these.
    if start.startswith(b"\x80"):
        raise WeightsError(f"{label} is in the format of torch before 1.6", _LEGACY_HINT)
    if not start.startswith(b"PK\x03\x04"):
        raise WeightsError(f"{label} is not a PyTorch file{_describe_start(start)}", FETCH_HINT)
    records = _list_records(path, label)
    addresses: set[int] = set()

    def note(storage: Any, _: str) -> Any:  # noqa: ANN401 - torch's stubs say another class
        if storage.nbytes():
            addresses.add(storage.data_ptr())
        return storage

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch would warn of is refused here
            content = torch.load(path, map_location=note, weights_only=True, mmap=True)
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
        check_memory(error, label)
        reason = str(error).partition("\n")[0].partition(". ")[0][:200]
        raise WeightsError(f"{label} is damaged: {reason}", FETCH_HINT) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{label} holds a {type(content).__name__}, not a dict", FETCH_HINT)
    return content, _place_records(records, addresses, label)


def _list_records(path: Path, label: str) -> dict[int, zipfile.ZipInfo]:
    """Lists an archive's records by their offset; checks the CRC-32 of all that hold no numbers."""
    records: dict[int, zipfile.ZipInfo] = {}
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED:
                    raise WeightsError(
                        f"{label} was packed again with compression",
                        "unpack it and pack it without (`zip -0 -r`), or fetch it again",
                    )
                file.seek(record.header_offset + 26)
                lengths = file.read(4)
                n_before = sum(
                    int.from_bytes(part, "little") for part in (lengths[:2], lengths[2:])
                )
                offset = record.header_offset + 30 + n_before
                if "/data/" in record.filename:
                    records[offset] = record
                else:
                    archive.read(record)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, LookupError) as error:
        raise WeightsError(f"{label} is damaged: {str(error)[:200]}", FETCH_HINT) from error
    except (NotImplementedError, RuntimeError) as error:  # encrypted, or of another zip
        raise WeightsError(f"{label} is damaged: {str(error)[:200]}", FETCH_HINT) from error
    return records


def _place_records(
    records: dict[int, zipfile.ZipInfo], addresses: set[int], label: str
) -> dict[int, zipfile.ZipInfo]:
    """Finds the record of each mapped storage.

    torch does not say where its mapping begins: on a page, and so that each storage is the start
    of a record.
    """
    if not addresses:
        return {}
    first = min(addresses)
    for offset in records:
        base = first - offset
        if base % mmap.PAGESIZE == 0 and all(each - base in records for each in addresses):
            return {each: records[each - base] for each in addresses}
    raise WeightsError(f"{label} is damaged: its tensors do not lie in its records", FETCH_HINT)


def _list_tensors(content: dict[Any, Any], label: str) -> dict[str, torch.Tensor]:
    """Returns every tensor of the network that a file's content holds, by name.

    A checkpoint's optimizer, scaler and epoch belong to training and are passed over.
    """
    inner = content.get("model")
    if not isinstance(inner, dict):
        return dict(_check_tensors(content, label))
    tensors = dict(_check_tensors(inner, label))
    others = {key: content[key] for key in content if key not in {*_STATES, "config", "epoch"}}
    try:
        return tensors | {path.removeprefix("."): each for path, each in _find_tensors(others)}
    except RecursionError as error:
        raise WeightsError(f"{label} holds lists or dicts without an end", FETCH_HINT) from error


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
