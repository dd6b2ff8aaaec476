"""A tensor's name becomes what a GPU's file keeps of it; knows no arithmetic and no library.

Five kinds of numbers, by name and shape alone. Which arrays a kind is stored as, under which names
and of how many bytes, stands here too, so that a file can be planned before a weight is read.
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
# A card below it does not hold both sides at once with a vision side in float16, 5.1 GB of it.
SMALL_CARD_BYTES = 6_000_000_000
# Scales of NF4 in 8 bits: 0.37 bits a weight less, 0.05 to 0.3 % more error (DESIGN.md).
DOUBLE_QUANTISATION = True
_NESTED_BLOCK = 256  # scales that share one scale: bitsandbytes' own number
_NF4_LEVELS, _NESTED_LEVELS = 16, 256
_STATE_BYTES = 220  # about: what bitsandbytes writes of a matrix as JSON
_HEADER_BYTES_PER_ARRAY = 160  # more than an entry takes without its name


class Kind(StrEnum):
    """How a tensor is stored."""

    NF4 = "nf4"
    ROWS_INT8 = "int8"  # as bitsandbytes multiplies it: the row's largest weight beside the codes
    WEIGHTS_INT8 = "int8 weights"  # one scale a row beside the codes; activations stay
    FLOAT16 = "float16"
    FLOAT32 = "float32"


_NF4_ARRAYS = ("", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4")
_NESTED_ARRAYS = (".nested_absmax", ".nested_quant_map")
_ARRAYS = {
    Kind.NF4: _NF4_ARRAYS + (_NESTED_ARRAYS if DOUBLE_QUANTISATION else ()),
    Kind.ROWS_INT8: ("", ".SCB"),
    Kind.WEIGHTS_INT8: ("", ".scales"),
    Kind.FLOAT16: ("",),
    Kind.FLOAT32: ("",),
}


@dataclass(frozen=True)
class CudaRecipe:
    """Which tensor is stored how.

    Attributes:
        bits: of the language model's matrices, one of `CUDA_BITS`.
        vision_bits: of the vision side's, one of `VISION_BITS`.
    """

    bits: int
    vision_bits: int = FLOAT16_BITS

    def kind(self, name: str, shape: tuple[int, ...]) -> Kind:
        """Tells how a tensor is stored, by its canonical name and its shape."""
        if len(shape) == 1:
            return Kind.FLOAT32
        for patterns, kind in self._rules:
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return kind
        return Kind.FLOAT16

    def to_dict(self) -> Mapping[str, Any]:
        """What the manifest says of these files."""
        return {
            "rules": [
                {"tensors": pattern, "kind": kind, **_describe(kind)}
                for patterns, kind in self._rules
                for pattern in patterns
            ],
            "one axis": Kind.FLOAT32,
            "otherwise": Kind.FLOAT16,
        }

    @property
    def _rules(self) -> tuple[tuple[tuple[str, ...], Kind], ...]:
        """Patterns of names, and how what they match is stored; the first match counts."""
        matrices = Kind.NF4 if self.bits == NF4_BITS else Kind.ROWS_INT8
        rules = [(LANGUAGE_MATRICES, matrices), ((HEAD,), Kind.ROWS_INT8)]
        rules.append(((EMBEDDINGS,), Kind.WEIGHTS_INT8))
        if self.vision_bits < FLOAT16_BITS:
            rules.append((VISION_MATRICES, Kind.WEIGHTS_INT8))
        return tuple(rules)


def choose_vision_bits(bits: int, card_bytes: int | None) -> int:
    """Tells the bits of the vision side where nobody says otherwise.

    Args:
        bits: of the language model's matrices.
        card_bytes: memory of the card that is to answer; None where it is not known.
    """
    is_small = card_bytes is not None and card_bytes < SMALL_CARD_BYTES
    return 8 if bits == NF4_BITS and is_small else FLOAT16_BITS


def _describe(kind: Kind) -> Mapping[str, Any]:
    """What numbers share a scale."""
    if kind is Kind.NF4:
        return {"group": NF4_BLOCK, "double": DOUBLE_QUANTISATION}
    return {"group": "row"}


def find_role(name: str) -> str:
    """The role of the file that a canonical tensor goes into."""
    return LANGUAGE_ROLE if name.startswith("language.") else VISION_ROLE


def list_arrays(name: str, kind: Kind) -> list[str]:
    """Names under which a tensor's arrays stand in its file; its codes or numbers come first."""
    return [f"{name}{suffix}" for suffix in _ARRAYS[kind]]


def count_bytes(shape: tuple[int, ...], kind: Kind) -> int:
    """Bytes of a tensor's arrays, those of a JSON text among them about right."""
    n_weights = math.prod(shape)
    if kind is Kind.NF4:
        return -(-n_weights // 2) + _count_state_bytes(-(-n_weights // NF4_BLOCK))
    if kind in (Kind.ROWS_INT8, Kind.WEIGHTS_INT8):
        return n_weights + 4 * shape[0]
    return n_weights * (2 if kind is Kind.FLOAT16 else 4)


def _count_state_bytes(n_blocks: int) -> int:
    """Bytes of what stands beside a matrix's NF4 codes."""
    constant = 4 * _NF4_LEVELS + _STATE_BYTES
    if not DOUBLE_QUANTISATION:
        return constant + 4 * n_blocks
    return constant + n_blocks + 4 * -(-n_blocks // _NESTED_BLOCK) + 4 * _NESTED_LEVELS


def count_header_bytes(names: Iterable[str]) -> int:
    """Room that a file keeps for the names and places of its arrays."""
    return sum(len(name) + _HEADER_BYTES_PER_ARRAY for name in names)
