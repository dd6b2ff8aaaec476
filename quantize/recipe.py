"""A tensor's name becomes the rounding it gets: recipes as data, without the arithmetic."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

TARGETS = {"cpu": ("cpu",), "cuda": ("cuda",), "all": ("cpu", "cuda")}  # `--target` → devices
FLOAT16_BITS = 16
EMBEDDINGS = "language.embed_tokens.weight"
HEAD = "language.lm_head.weight"


@dataclass(frozen=True)
class Rounding:
    """How one tensor is rounded.

    Attributes:
        bits: bits of a code; 16 and 32 keep no codes but float16 or float32.
        group: neighbouring columns of a row that share one scale and one zero point, and so many
            neighbouring activations one scale; `fit` makes it smaller for some matrices.
        per_channel: instead, a row has one scale and no zero point, and all activations that meet
            the matrix share one; at 8 bits only. Two to six times as fast.
        float_activations: activations are not rounded to 8 bits: for matrices that meet channels a
            hundred times as large as the others. Several times as slow.
    """

    bits: int
    group: int = 128
    per_channel: bool = False
    float_activations: bool = False

    @property
    def has_codes(self) -> bool:
        """Whether groups of numbers become codes, with a scale and a zero point."""
        return self.bits < FLOAT16_BITS

    @property
    def bits_a_weight(self) -> float:
        """Bits of a code with its share of scale and zero point."""
        return self.bits + (32 + self.bits) / self.group

    def fit(self, n_columns: int) -> "Rounding":
        """Returns the same with a smaller group where that leaves no column over: 128, 64 or 32.

        A row of 192 columns takes two groups of 128, a quarter of them empty, or three of 64.
        """
        for group in (self.group, self.group // 2, self.group // 4):
            if n_columns % group == 0:
                return replace(self, group=group)
        return self


INT4 = Rounding(4)
INT8 = Rounding(8)
INT8_PER_CHANNEL = Rounding(8, per_channel=True)
FLOAT16 = Rounding(FLOAT16_BITS)
FLOAT32 = Rounding(32)

LANGUAGE_MATRICES = (
    "language.layers.*.attention.qkv.weight",
    "language.layers.*.attention.dense.weight",
    "language.layers.*.mlp.fc1.weight",
    "language.layers.*.mlp.fc2.weight",
)
VISION_MATRICES = (
    "vision.layers.*.self_attn.qkv.weight",
    "vision.layers.*.self_attn.projection.weight",
    "vision.layers.*.mlp.fc1.weight",
    "vision.layers.*.mlp.fc2.weight",
    "qformer.bert.encoder.layer.*.query.weight",
    "qformer.bert.encoder.layer.*.key.weight",
    "qformer.bert.encoder.layer.*.value.weight",
    "qformer.bert.encoder.layer.*.dense.weight",
    "projection.weight",
)
# They meet no operator that multiplies codes: 2 of 1,100 million weights. The public file has
# them in float16, too.
_PATCHES = (
    "vision.embeddings.patch_embedding.weight",
    "vision.embeddings.position_embedding",
)
_TABLES = (EMBEDDINGS, HEAD)


@dataclass(frozen=True)
class Recipe:
    """A rule for every tensor: the first pattern that matches its name tells the rounding.

    Attributes:
        bits: what the user asked for, the bits of the language model's matrices.
        rules: patterns (as in `fnmatch`) of canonical tensor names, each with its rounding.
        is_calibrated: whether the language model's matrices are rounded for what they will meet,
            unless the user is in a hurry; at 8 bits nothing is gained by it.
        most_bits: mean bits of a weight of these matrices up to which some get 8, those that lose
            most by 4; 0: none does.
    """

    bits: int
    rules: tuple[tuple[str, Rounding], ...]
    is_calibrated: bool = False
    most_bits: float = 0.0

    def rounding(self, name: str) -> Rounding:
        """Returns the rounding of a tensor; one that no rule names stays float32."""
        for pattern, rounding in self.rules:
            if fnmatchcase(name, pattern):
                return rounding
        return FLOAT32

    def replace_rounding(self, names: Iterable[str], rounding: Rounding) -> "Recipe":
        """Returns the same recipe with another rounding for some tensors."""
        return replace(self, rules=_rules(rounding, tuple(names)) + self.rules)

    def spend(self, shapes: Mapping[str, tuple[int, ...]], names: Iterable[str]) -> "Recipe":
        """Gives 8 bits to matrices as long as their mean bits stay within `most_bits`.

        Args:
            shapes: every canonical tensor and its shape.
            names: of matrices, those first that are to have 8 bits first; others are passed over.
        """
        matrices = [n for n in shapes if any(fnmatchcase(n, each) for each in LANGUAGE_MATRICES)]

        def count_bits(name: str, rounding: Rounding) -> float:
            n_rows, n_columns = shapes[name]
            return n_rows * n_columns * rounding.fit(n_columns).bits_a_weight

        left = self.most_bits * sum(math.prod(shapes[name]) for name in matrices)
        left -= sum(count_bits(name, self.rounding(name)) for name in matrices)
        chosen = []
        for name in filter(matrices.__contains__, names):
            more = count_bits(name, INT8) - count_bits(name, self.rounding(name))
            if more <= left:
                chosen.append(name)
                left -= more
        return self.replace_rounding(chosen, INT8)

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain values for the manifest."""
        rules = [
            {
                "tensors": pattern,
                "bits": rounding.bits,
                "group": "channel" if rounding.per_channel else rounding.group,
                **({"activations": "float32"} if rounding.float_activations else {}),
            }
            for pattern, rounding in self.rules
        ]
        return {"bits": self.bits, "rules": rules, "otherwise": "float32"}


def _rules(rounding: Rounding, patterns: tuple[str, ...]) -> tuple[tuple[str, Rounding], ...]:
    return tuple((pattern, rounding) for pattern in patterns)


_COMMON = _rules(INT8, _TABLES + VISION_MATRICES) + _rules(FLOAT16, _PATCHES)
RECIPES: dict[int, Recipe] = {
    4: Recipe(4, _rules(INT4, LANGUAGE_MATRICES) + _COMMON, is_calibrated=True),
    5: Recipe(5, _rules(INT4, LANGUAGE_MATRICES) + _COMMON, is_calibrated=True, most_bits=5.0),
    8: Recipe(8, _rules(INT8, LANGUAGE_MATRICES) + _COMMON),
    32: Recipe(32, ()),
}
