"""Shapes and a recipe become what a variant will take: files, bytes, memory; reads no weights."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, starmap

from quantize.cuda_recipe import (
    ROLES,
    CudaRecipe,
    count_bytes,
    count_header_bytes,
    find_role,
    list_arrays,
)
from quantize.recipe import EMBEDDINGS, FLOAT16_BITS, Recipe, Rounding
from tinyv_cli.spec import ModelSpec
from tinyv_cli.variants.manifest import list_graph_roles, make_graph_role
from tinyv_cli.variants.memory import (
    CUDA_BASE_BYTES,
    PartSizes,
    estimate_bytes,
    estimate_cuda_decoder_bytes,
    estimate_cuda_encoder_bytes,
)

Shapes = Mapping[str, tuple[int, ...]]
TOKENIZER = "tokenizer"
TARGETS = {"cpu": ("cpu",), "cuda": ("cuda",), "all": ("cpu", "cuda")}  # what is asked → devices
_ARRAYS = {"embeddings": "embeddings.npy", "embeddings-scales": "embeddings.scales.npy"}
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_MOST_GRAPHS = 4  # of one part; they are opened in parallel
_LEAST_GRAPH_BYTES = 256 << 20  # of weights; below that there is nothing to gain
PAGE_BYTES = 4096  # mapped tensors of a page or more start on one
SMALL_ALIGN_BYTES = 64  # what is smaller starts on a cache line
_GRAPH_BYTES_PER_TENSOR = 700  # of an `.onnx` file: name, place in the data file, its node
_FLOAT_BYTES = 4
_PROGRAM_BYTES = 900_000_000  # interpreter, torch and what it keeps, the runtime


@dataclass(frozen=True)
class PlannedPart:
    """One part of a variant: what it holds and what it takes on disk.

    Attributes:
        name: `vision`, `decoder` or `embeddings`; `cuda-language` or `cuda-vision`.
        files: role → name of its files, in the manifest's order.
        layers: of each of its graphs; a GPU's parts have none.
        n_weights: numbers before rounding.
        size_bytes: bytes of its files, within a few per cent.
    """

    name: str
    files: Mapping[str, str]
    layers: tuple[range, ...]
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
        recipe: what is rounded to how many bits, on the CPU.
        cuda_recipe: likewise on a GPU.
        devices: what the variant can run on, `cpu` before `cuda`.
        parts: of the variant.
        run_bytes: memory an answer takes with a full context on the CPU, 0 where it has no files.
        card_bytes: of the GPU's memory, likewise.
        quantise_bytes: memory that making the variant takes at its peak.
        disk_bytes: free disk that making the variant needs.
    """

    spec: ModelSpec
    recipe: Recipe
    cuda_recipe: CudaRecipe
    devices: tuple[str, ...]
    parts: tuple[PlannedPart, ...]
    run_bytes: int
    card_bytes: int
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

    def graphs(self, part: str) -> dict[str, range]:
        """Name → layers of a part's graphs, in the order in which they run."""
        [planned] = [each for each in self.parts if each.name == part]
        roles = list_graph_roles(part, planned.files)
        names = (planned.files[role] for role in roles)
        return dict(zip(names, planned.layers, strict=True))


def make_plan(
    spec: ModelSpec,
    shapes: Shapes,
    recipe: Recipe,
    devices: tuple[str, ...] = ("cpu",),
    vision_bits: int = FLOAT16_BITS,
) -> Plan:
    """Computes what a variant of these shapes will take.

    Args:
        spec: the model's numbers.
        shapes: every canonical tensor and its shape.
        recipe: what is rounded to how many bits.
        devices: that it is to run on, one of `TARGETS`' values.
        vision_bits: of the vision side's matrices on a GPU.
    """
    on_cuda = CudaRecipe(recipe.bits, vision_bits)
    cpu_parts = _plan_cpu_parts(spec, shapes, recipe) if "cpu" in devices else ()
    cuda_parts = _plan_cuda_parts(shapes, on_cuda) if "cuda" in devices else ()
    size_bytes = sum(part.size_bytes for part in (*cpu_parts, *cuda_parts))
    largest_bytes = _FLOAT_BYTES * max(math.prod(shape) for shape in shapes.values())
    peaks = [3 * largest_bytes]
    run_bytes = card_bytes = 0
    if cpu_parts:
        vision, decoder, _ = cpu_parts
        sizes = PartSizes(vision.size_bytes, decoder.size_bytes, len(decoder.layers))
        run_bytes = estimate_bytes(spec, sizes, spec.language.context_length)
        # While logits are measured, the decoder is open, and the reference holds the largest
        # matrix in float32 and its source: 3.6 GB measured at full size and 4 bits.
        peaks.append(decoder.size_bytes + 2 * largest_bytes)
    if cuda_parts:
        card_bytes = _estimate_card_bytes(spec, cuda_parts)
        # Likewise without a card, and its codes in float32: 4.0 and 4.9 GB at 4 and 8 bits.
        peaks.append(cuda_parts[0].size_bytes + 3 * largest_bytes)
    return Plan(
        spec=spec,
        recipe=recipe,
        cuda_recipe=on_cuda,
        devices=devices,
        parts=(*cpu_parts, *cuda_parts),
        run_bytes=run_bytes,
        card_bytes=card_bytes,
        quantise_bytes=_PROGRAM_BYTES + max(peaks),
        disk_bytes=size_bytes,
    )


def _plan_cpu_parts(spec: ModelSpec, shapes: Shapes, recipe: Recipe) -> tuple[PlannedPart, ...]:
    """The vision side, the decoder and the embeddings as onnxruntime reads them."""
    language = [n for n in shapes if n.startswith("language.") and n != EMBEDDINGS]
    vision = [n for n in shapes if not n.startswith(("language.", "projection."))]
    projection = {
        "projection.weight": (spec.language.width, spec.qformer.width),
        "projection.bias": (spec.language.width,),
    }
    vision_shapes = {**{n: shapes[n] for n in vision}, **projection}
    return (
        _plan_part("vision", vision_shapes, recipe),
        _plan_part("decoder", {n: shapes[n] for n in language}, recipe),
        _plan_part("embeddings", {EMBEDDINGS: shapes[EMBEDDINGS]}, recipe),
    )


def _plan_cuda_parts(shapes: Shapes, recipe: CudaRecipe) -> tuple[PlannedPart, ...]:
    """The two files that torch reads."""
    kinds = {name: recipe.kind(name, shape) for name, shape in shapes.items()}

    def plan(role: str) -> PlannedPart:
        mine = {name: shape for name, shape in shapes.items() if find_role(name) == role}
        arrays = [each for name in mine for each in list_arrays(name, kinds[name])]
        size_bytes = count_header_bytes(arrays)
        size_bytes += sum(count_bytes(mine[name], kinds[name]) for name in mine)
        files = {role: f"{role}.safetensors"}
        return PlannedPart(role, files, (), _count(mine.values()), size_bytes)

    return tuple(plan(role) for role in ROLES)


def _estimate_card_bytes(spec: ModelSpec, parts: Iterable[PlannedPart]) -> int:
    """Both sides on a card at once, with a cache of the whole context."""
    language, vision = (part.size_bytes for part in parts)
    decoder = estimate_cuda_decoder_bytes(spec, language, spec.language.context_length)
    return CUDA_BASE_BYTES + estimate_cuda_encoder_bytes(spec, vision) + decoder


def _plan_part(name: str, shapes: Shapes, recipe: Recipe) -> PlannedPart:
    tensor_bytes = {
        tensor: _stored_bytes(shape, recipe.rounding(tensor)) + _GRAPH_BYTES_PER_TENSOR
        for tensor, shape in shapes.items()
    }
    size_bytes = sum(tensor_bytes.values())
    layers = _share_layers(tensor_bytes)
    files = _name_files(name, len(layers))
    if all(not recipe.rounding(tensor).has_codes for tensor in shapes):
        files.pop(f"{name}-scales", None)
    return PlannedPart(name, files, layers, _count(shapes.values()), size_bytes)


def _share_layers(tensor_bytes: Mapping[str, int]) -> tuple[range, ...]:
    """Shares a part's layers out among its graphs, none where it has no layers.

    What comes before the layers belongs to the first of them, what comes after to the last.
    """
    costs: dict[int, int] = {}
    for tensor, n_bytes in tensor_bytes.items():
        found = _LAYER.search(tensor)
        if found is not None:
            costs[int(found[1])] = costs.get(int(found[1]), 0) + n_bytes
    if not costs:
        return ()
    before = sum(n for tensor, n in tensor_bytes.items() if ".embeddings." in tensor)
    total = sum(tensor_bytes.values())
    in_order = [costs[layer] for layer in range(len(costs))]
    in_order[0] += before
    in_order[-1] += total - sum(in_order)
    return divide(in_order, min(_MOST_GRAPHS, len(costs), max(1, total // _LEAST_GRAPH_BYTES)))


def divide(costs: Sequence[int], n_shares: int) -> tuple[range, ...]:
    """Cuts a row of things into runs that cost about the same, none of them empty.

    Args:
        costs: of each thing.
        n_shares: runs, at most one for each thing.
    """
    reached = [0, *accumulate(costs)]
    borders = [0]
    for share in range(1, n_shares):
        wanted = reached[-1] * share / n_shares
        allowed = range(borders[-1] + 1, len(costs) - (n_shares - share) + 1)
        borders.append(min(allowed, key=lambda border: abs(reached[border] - wanted)))
    return tuple(starmap(range, pairwise([*borders, len(costs)])))


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
