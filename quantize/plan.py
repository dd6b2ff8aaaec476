"""Shapes and a recipe become what a variant will take: files, bytes, memory; reads no weights."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quantize.recipe import Recipe, Rounding
from tinyv_cli.manifest import list_graph_roles, make_graph_role
from tinyv_cli.memory import PartSizes, estimate_bytes
from tinyv_cli.spec import ModelSpec

Shapes = Mapping[str, tuple[int, ...]]
EMBEDDINGS = "language.embed_tokens.weight"
TOKENIZER = "tokenizer"
_ARRAYS = {"embeddings": "embeddings.npy", "embeddings-scales": "embeddings.scales.npy"}
_MOST_GRAPHS = 4  # of one part; they are opened in parallel
_LEAST_GRAPH_BYTES = 256 << 20  # of weights; below that there is nothing to gain
PAGE_BYTES = 4096  # mapped tensors of a page or more start on one
SMALL_ALIGN_BYTES = 64  # what is smaller starts on a cache line
_GRAPH_BYTES_PER_TENSOR = 700  # of an `.onnx` file: name, place in the data file, its node
_FLOAT_BYTES = 4
_PROGRAM_BYTES = 400_000_000  # interpreter, torch and the runtime


@dataclass(frozen=True)
class PlannedPart:
    """One part of a variant: what it holds and what it takes on disk.

    Attributes:
        name: `vision`, `decoder` or `embeddings`.
        files: role → name of its files, in the manifest's order.
        n_weights: numbers before rounding.
        size_bytes: bytes of its files, within a few per cent.
    """

    name: str
    files: Mapping[str, str]
    n_weights: int
    size_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk for one weight, scales and zero points included."""
        return 8 * self.size_bytes / self.n_weights


@dataclass(frozen=True)
class Plan:
    """What quantising will make.

    Attributes:
        spec: the model's numbers.
        recipe: what is rounded to how many bits.
        parts: of the variant.
        run_bytes: memory an answer takes with a full context.
        quantise_bytes: memory that making the variant takes at its peak.
        disk_bytes: free disk that making the variant needs.
    """

    spec: ModelSpec
    recipe: Recipe
    parts: tuple[PlannedPart, ...]
    run_bytes: int
    quantise_bytes: int
    disk_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the variant's files."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def files(self) -> dict[str, str]:
        """Role → name of all files, in the manifest's order."""
        named = {role: name for part in self.parts for role, name in part.files.items()}
        return named | {TOKENIZER: "tokenizer.json"}

    def graph_files(self, part: str) -> list[str]:
        """Names of a part's graphs, in the order in which they run."""
        files = self.files
        return [files[role] for role in list_graph_roles(part, files)]


def make_plan(spec: ModelSpec, shapes: Shapes, recipe: Recipe) -> Plan:
    """Computes what a variant of these shapes will take.

    Args:
        spec: the model's numbers.
        shapes: every canonical tensor and its shape.
        recipe: what is rounded to how many bits.
    """
    language = [n for n in shapes if n.startswith("language.") and n != EMBEDDINGS]
    vision = [n for n in shapes if not n.startswith(("language.", "projection."))]
    projection = {
        "projection.weight": (spec.language.width, spec.qformer.width),
        "projection.bias": (spec.language.width,),
    }
    vision_shapes = {**{n: shapes[n] for n in vision}, **projection}
    parts = (
        _plan_part("vision", vision_shapes, recipe, spec.vision.n_layers),
        _plan_part("decoder", {n: shapes[n] for n in language}, recipe, spec.language.n_layers),
        _plan_part("embeddings", {EMBEDDINGS: shapes[EMBEDDINGS]}, recipe, 1),
    )
    size_bytes = sum(part.size_bytes for part in parts)
    n_graphs = len(list_graph_roles("decoder", parts[1].files))
    sizes = PartSizes(parts[0].size_bytes, parts[1].size_bytes, n_graphs)
    largest = max(math.prod(shape) for shape in shapes.values())
    return Plan(
        spec=spec,
        recipe=recipe,
        parts=parts,
        run_bytes=estimate_bytes(spec, sizes, spec.language.context_length),
        quantise_bytes=_estimate_quantise_bytes(size_bytes, parts[0].size_bytes, largest),
        disk_bytes=size_bytes,
    )


def _estimate_quantise_bytes(size_bytes: int, vision_bytes: int, largest: int) -> int:
    """Peak of making a variant: rounding its largest matrix, or later opening all of it to measure.

    While it is measured, all of it is mapped, one float32 table is held, and what packing the
    vision part took is not given back; 5.2 GB were measured at full size and 4 bits, 6.4 at 8.
    """
    rounding = 3 * _FLOAT_BYTES * largest
    measuring = size_bytes + vision_bytes + _FLOAT_BYTES * largest
    return _PROGRAM_BYTES + max(rounding, measuring)


def _plan_part(name: str, shapes: Shapes, recipe: Recipe, n_layers: int) -> PlannedPart:
    size_bytes = sum(
        _stored_bytes(shape, recipe.rounding(tensor)) + _GRAPH_BYTES_PER_TENSOR
        for tensor, shape in shapes.items()
    )
    n_graphs = min(_MOST_GRAPHS, n_layers, max(1, size_bytes // _LEAST_GRAPH_BYTES))
    files = _name_files(name, n_graphs)
    if all(not recipe.rounding(tensor).has_codes for tensor in shapes):
        files.pop(f"{name}-scales", None)
    return PlannedPart(name, files, _count(shapes.values()), size_bytes)


def _name_files(part: str, n_graphs: int) -> dict[str, str]:
    """Role → name: the arrays of the embeddings; else graphs, and one file of numbers for all."""
    if part in _ARRAYS:
        return dict(_ARRAYS)
    roles = [make_graph_role(part, place) for place in range(n_graphs)]
    return {role: f"{role}.onnx" for role in roles} | {f"{part}-data": f"{part}.data"}


def _stored_bytes(shape: tuple[int, ...], rounding: Rounding) -> int:
    """Bytes of one tensor in a data file, the wait for the next page included."""
    if not rounding.has_codes:
        return _add_wait(rounding.bits // 8 * math.prod(shape))
    n_rows, n_columns = shape
    if rounding.per_channel:
        return _add_wait(n_rows * n_columns) + _add_wait(_FLOAT_BYTES * n_rows)
    group = rounding.fit(n_columns).group
    n_groups = -(-n_columns // group)
    codes = n_rows * n_groups * group * rounding.bits // 8
    scales = 4 * n_rows * n_groups
    zero_points = n_rows * -(-n_groups * rounding.bits // 8)
    return sum(_add_wait(n_bytes) for n_bytes in (codes, scales, zero_points))


def _add_wait(n_bytes: int) -> int:
    """Bytes with the mean of what is left empty before them."""
    return n_bytes + (PAGE_BYTES if n_bytes >= PAGE_BYTES else SMALL_ALIGN_BYTES) // 2


def _count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)
