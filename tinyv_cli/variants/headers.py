"""Files of a variant become the names and shapes of what they hold; their numbers stay unread.

Graphs, arrays and safetensors files each say at their beginning, or beside their numbers, what is
in them. Reading that takes milliseconds and neither runtime nor numpy, so that a list of variants
can tell which of them are what their manifests say.
"""

import ast
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_MAX_BYTES = 64 << 20  # of what is read; at the published size it is 1 MB
_ARRAY_MAGIC = b"\x93NUMPY\x01\x00"
_ITEM_BYTES = {"<f4": 4, "|u1": 1}  # the arrays that variants hold: float32 and bytes


@dataclass
class Contents:
    """The names in one or several files.

    Attributes:
        shapes: of each tensor.
        heads: of each operator of attention, by its name.
        scalars: float32 constants that stand in a graph itself.
        data_files: names of the files that hold tensors of a graph.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    data_files: set[str] = field(default_factory=set)


def read_graph(path: Path, into: Contents) -> None:
    """Reads an ONNX graph.

    Args:
        path: the `.onnx` file.
        into: is added to.

    Raises:
        ValueError: it is not one.
        OSError: it cannot be read.

    Source: onnx.proto; the wire format in protobuf's "Encoding".
    """
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError("it is too large for a graph whose numbers lie in another file")
    for graph in _list_parts(content, 7):
        for number, value in _walk(graph):
            if isinstance(value, bytes) and number == 1 and b"num_heads" in value:
                _read_node(value, into)
            elif isinstance(value, bytes) and number == 5:
                _read_tensor(value, into)


def _read_node(node: bytes, into: Contents) -> None:
    """Notes how many heads an operator has, where it is one of attention."""
    for attribute in _list_parts(node, 5):
        fields = dict(_walk(attribute))
        if fields.get(1) == b"num_heads" and isinstance(fields.get(3), int):
            for name in _list_parts(node, 3):
                into.heads[name.decode()] = int(fields[3])


def _read_tensor(tensor: bytes, into: Contents) -> None:
    """Notes a tensor's shape, its file, and its number where it is a single one."""
    dims: list[int] = []
    name, raw = "", b""
    for number, value in _walk(tensor):
        if isinstance(value, int):
            dims += [value] if number == 1 else []
        elif number == 1:  # packed
            place = 0
            while place < len(value):
                size, place = _read_varint(value, place)
                dims.append(size)
        elif number == 8:
            name = value.decode()
        elif number == 9 and len(value) == 4:
            raw = value
        elif number == 13:
            entry = dict(_walk(value))
            said = entry.get(2)
            if entry.get(1) == b"location" and isinstance(said, bytes):
                into.data_files.add(said.decode())
    name = name.removesuffix(".half")  # as tensors are called that a graph widens to float32
    into.shapes[name] = tuple(dims)
    if raw and not dims:
        into.scalars[name] = struct.unpack("<f", raw)[0]


def _list_parts(message: bytes, wanted: int) -> Iterator[bytes]:
    """Yields the values of one field, which may stand several times."""
    for number, value in _walk(message):
        if number == wanted and isinstance(value, bytes):
            yield value


def _walk(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the fields of a protobuf message: numbers, and bytes for all that is no number.

    Raises:
        ValueError: it is not one.
    """
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        kind, n_bytes = key & 7, {1: 8, 5: 4}.get(key & 7, 0)
        if kind == 0:
            number, place = _read_varint(message, place)
            yield key >> 3, number
            continue
        if kind == 2:
            n_bytes, place = _read_varint(message, place)
        if kind not in (1, 2, 5) or place + n_bytes > len(message):
            raise ValueError("it is no protobuf message")
        yield key >> 3, message[place : place + n_bytes]
        place += n_bytes


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """Returns the whole number at a place, and the place behind it."""
    number, shift = 0, 0
    for byte in message[place : place + 10]:
        place += 1
        if byte < 0x80:
            return number | byte << shift, place
        number |= (byte & 0x7F) << shift
        shift += 7
    raise ValueError("it is no protobuf message")


def read_tensors(path: Path, into: Contents) -> None:
    """Reads the header of a safetensors file.

    Args:
        path: the file.
        into: is added to.

    Raises:
        ValueError: it is not one.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes > _MAX_BYTES:
            raise ValueError("it is no safetensors file")
        try:
            for name, entry in json.loads(file.read(n_bytes)).items():
                if name != "__metadata__":
                    into.shapes[name] = tuple(entry["shape"])
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError("it is no safetensors file") from error


def read_array(path: Path) -> tuple[str, tuple[int, ...]]:
    """Reads the header of a NumPy array.

    Returns:
        Its type as NumPy writes it (`<f4`, `|u1`), and its shape.

    Raises:
        ValueError: it is not one, of another type than variants hold, or not as long as it says.
        OSError: it cannot be read.

    Source: numpy.lib.format, version 1.0.
    """
    with path.open("rb") as file:
        start = file.read(len(_ARRAY_MAGIC) + 2)
        n_bytes = int.from_bytes(start[len(_ARRAY_MAGIC) :], "little")
        header = file.read(n_bytes).decode("latin-1")
    if not start.startswith(_ARRAY_MAGIC):
        raise ValueError("it is not a NumPy array")
    try:
        said = ast.literal_eval(header.strip())
        kind, shape = said["descr"], said["shape"]
        is_in_order = not said["fortran_order"]
        n_items = math.prod(shape)
        n_item_bytes = _ITEM_BYTES[kind]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError("its header is not one of float32 or bytes") from error
    if not (is_in_order and len(start) + n_bytes + n_items * n_item_bytes == path.stat().st_size):
        raise ValueError(f"its header says {kind} {shape}, which it does not hold")
    return kind, tuple(shape)
