"""A tensor's name and shape become the way a GPU's file stores it, without the arithmetic.

There are five kinds of storage. The arrays of each, their names and bytes stand here too, so that a
file can be planned before a weight is read.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from quantize.recipe import EMBEDDINGS, FLOAT16_BITS, HEAD, LANGUAGE_MATRICES, VISION_MATRICES

LANGUAGE_ROLE, VISION_ROLE = "cuda-language", "cuda-vision"
ROLES = (LANGUAGE_ROLE, VISION_ROLE)
NF4_BITS = 4
CUDA_BITS = (NF4_BITS, 8)
VISION_BITS = (8, FLOAT16_BITS)
NF4_BLOCK = 64
# A GPU of less memory does not hold both sides at once where the vision side is in float16: 5.1 GB.
_SMALL_CUDA_BYTES = 6_000_000_000
# Scales of NF4 in 8 bits: 0.37 bits a weight less, 0.05 to 0.3 % more error (DESIGN.md).
DOUBLE_QUANTISATION = True
_NESTED_BLOCK = 256  # scales that share one scale: bitsandbytes' own number
_NF4_LEVELS, _NESTED_LEVELS = 16, 256
_STATE_BYTES = 220  # about: what bitsandbytes writes of a matrix as JSON
_HEADER_BYTES_PER_ARRAY = 160  # more than an entry takes without its name


class StorageKind(StrEnum):
    """The numbers that a GPU's file keeps of a tensor."""

    NF4 = "nf4"
    ROWS_INT8 = "int8"  # as bitsandbytes multiplies it: the row's largest weight beside the codes
    WEIGHTS_INT8 = "int8 weights"  # one scale a row beside the codes; activations stay
    FLOAT16 = "float16"
    FLOAT32 = "float32"


_NF4_ARRAYS = ("", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4")
_NESTED_ARRAYS = (".nested_absmax", ".nested_quant_map")
_ARRAYS = {
    StorageKind.NF4: _NF4_ARRAYS + (_NESTED_ARRAYS if DOUBLE_QUANTISATION else ()),
    StorageKind.ROWS_INT8: ("", ".SCB"),
    StorageKind.WEIGHTS_INT8: ("", ".scales"),
    StorageKind.FLOAT16: ("",),
    StorageKind.FLOAT32: ("",),
}


@dataclass(frozen=True)
class CudaRecipe:
    """A rule from a tensor to its kind of storage.

    Attributes:
        bits: of the language model's matrices, one of `CUDA_BITS`.
        vision_bits: of the vision side's, one of `VISION_BITS`.
    """

    bits: int
    vision_bits: int = FLOAT16_BITS

    def kind(self, name: str, shape: tuple[int, ...]) -> StorageKind:
        """Returns how a tensor is stored, by its canonical name and its shape."""
        if len(shape) == 1:
            return StorageKind.FLOAT32
        for patterns, kind in self._rules:
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return kind
        return StorageKind.FLOAT16

    def to_dict(self) -> Mapping[str, Any]:
        """Converts to plain values for the manifest."""
        nf4 = {"group": NF4_BLOCK, "double": DOUBLE_QUANTISATION}
        rules = [
            {
                "tensors": pattern,
                "kind": kind,
                **(nf4 if kind is StorageKind.NF4 else {"group": "row"}),
            }
            for patterns, kind in self._rules
            for pattern in patterns
        ]
        return {"rules": rules, "one axis": StorageKind.FLOAT32, "otherwise": StorageKind.FLOAT16}

    @property
    def _rules(self) -> tuple[tuple[tuple[str, ...], StorageKind], ...]:
        """Patterns of names, and the kind of what they match; the first match counts."""
        matrices = StorageKind.NF4 if self.bits == NF4_BITS else StorageKind.ROWS_INT8
        # The head in float16 was no better: logits diverge by 0.0248 nats either way (miniature).
        rules = [(LANGUAGE_MATRICES, matrices), ((HEAD,), StorageKind.ROWS_INT8)]
        rules.append(((EMBEDDINGS,), StorageKind.WEIGHTS_INT8))
        if self.vision_bits < FLOAT16_BITS:
            # Activations stay as they are: some channels are a hundred times as large as others.
            # A thousand positions a picture make reading the weights back cheap.
            rules.append((VISION_MATRICES, StorageKind.WEIGHTS_INT8))
        return tuple(rules)


def choose_vision_bits(bits: int, memory_bytes: int | None) -> int:
    """Chooses the bits of the vision side where `--vision-bits` does not.

    Args:
        bits: of the language model's matrices.
        memory_bytes: of the GPU that is to answer; None where it is unknown.
    """
    is_small = memory_bytes is not None and memory_bytes < _SMALL_CUDA_BYTES
    return 8 if bits == NF4_BITS and is_small else FLOAT16_BITS


def find_role(name: str) -> str:
    """Returns the role of the file that a canonical tensor goes into."""
    return LANGUAGE_ROLE if name.startswith("language.") else VISION_ROLE


def list_arrays(name: str, kind: StorageKind) -> list[str]:
    """Lists the names of a tensor's arrays in its file; its codes or numbers come first."""
    return [f"{name}{suffix}" for suffix in _ARRAYS[kind]]


def count_bytes(shape: tuple[int, ...], kind: StorageKind) -> int:
    """Counts the bytes of a tensor's arrays, those of a JSON text among them about right."""
    n_weights = math.prod(shape)
    if kind is StorageKind.NF4:
        n_blocks = -(-n_weights // NF4_BLOCK)
        scales = 4 * n_blocks
        if DOUBLE_QUANTISATION:
            scales = n_blocks + 4 * -(-n_blocks // _NESTED_BLOCK) + 4 * _NESTED_LEVELS
        return -(-n_weights // 2) + scales + 4 * _NF4_LEVELS + _STATE_BYTES
    if kind in (StorageKind.ROWS_INT8, StorageKind.WEIGHTS_INT8):
        return n_weights + 4 * shape[0]
    return n_weights * (2 if kind is StorageKind.FLOAT16 else 4)


def count_header_bytes(names: Iterable[str]) -> int:
    """Counts the bytes that a file reserves for the names and places of its arrays."""
    return sum(len(name) + _HEADER_BYTES_PER_ARRAY for name in names)
