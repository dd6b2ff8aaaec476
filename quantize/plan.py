"""Shapes and a recipe become a variant's plan: files, bytes, memory; without reading a weight."""

import math
import re
from collections.abc import Mapping, Sequence
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
_LAYER = re.compile(r"\.layers\.(\d+)\.")
# Graphs of one part are opened in parallel; the size is that of the weights below which this gains
# nothing. Four in two threads open in 0.9-1.2 s, two in 1.1-1.4, one in 1.7-2.5 (DESIGN.md).
_MOST_GRAPHS = 4
_LEAST_GRAPH_BYTES = 256 << 20
PAGE_BYTES = 4096  # mapped tensors of a page or more start on one
SMALL_ALIGN_BYTES = 64  # what is smaller starts on a cache line
_GRAPH_BYTES_PER_TENSOR = 700  # of an `.onnx` file: name, place in the data file, its node
_FLOAT_BYTES = 4
_PROGRAM_BYTES = 900_000_000  # interpreter, torch and what it keeps, the runtime
# The system takes back what mapped files hold: at full size and 4 bits it ended the process in a
# group of 2.5 GB, and not in one of 2.8.
_LEAST_SHARE = 0.7


@dataclass(frozen=True)
class PlannedPart:
    """One part of a variant, with its files and their size.

    Attributes:
        name: `vision`, `decoder` or `embeddings`; `cuda-language` or `cuda-vision`.
        files: role → name of its files, in the manifest's order.
        layers: of each of its graphs; a GPU's parts have none.
        n_weights: numbers before rounding.
        size_bytes: of its files, within a few per cent.
    """

    name: str
    files: Mapping[str, str]
    layers: tuple[range, ...]
    n_weights: int
    size_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk for one weight, with its share of scales and zero points."""
        return 8 * self.size_bytes / self.n_weights


@dataclass(frozen=True)
class VariantPlan:
    """A variant that is yet to be made, with the memory and disk it needs.

    Attributes:
        spec: the model's numbers.
        recipe: rounding of each tensor in the CPU's files.
        cuda_recipe: likewise in a GPU's.
        devices: that the variant can run on, `cpu` before `cuda`.
        parts: of the variant.
        run_bytes: memory an answer takes with a full context on the CPU, 0 without files for it.
        cuda_run_bytes: of the GPU's memory, likewise.
        quantise_bytes: memory that making the variant takes at its peak.
        least_bytes: of it, beside the program, what it cannot do without.
        disk_bytes: free disk that making the variant needs.
    """

    spec: ModelSpec
    recipe: Recipe
    cuda_recipe: CudaRecipe
    devices: tuple[str, ...]
    parts: tuple[PlannedPart, ...]
    run_bytes: int
    cuda_run_bytes: int
    quantise_bytes: int
    least_bytes: int
    disk_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the variant's files."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def files(self) -> dict[str, str]:
        """All files by role → name, in the manifest's order."""
        named = {role: name for part in self.parts for role, name in part.files.items()}
        return named | {TOKENIZER: "tokenizer.json"}

    def graphs(self, part: str) -> dict[str, range]:
        """Returns name → layers of a part's graphs, in the order in which they run."""
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
) -> VariantPlan:
    """Plans a variant of tensors of these shapes.

    Args:
        spec: the model's numbers.
        shapes: every canonical tensor and its shape.
        recipe: rounding of each tensor in the CPU's files; its bits count for a GPU's too.
        devices: that it is to run on, one of `recipe.TARGETS`' values.
        vision_bits: of the vision side's matrices on a GPU.
    """
    cuda_recipe = CudaRecipe(recipe.bits, vision_bits)
    cpu_parts = _plan_cpu_parts(spec, shapes, recipe) if "cpu" in devices else ()
    cuda_parts = _plan_cuda_parts(shapes, cuda_recipe) if "cuda" in devices else ()
    largest_bytes = _FLOAT_BYTES * max(math.prod(shape) for shape in shapes.values())
    peaks = [3 * largest_bytes]
    run_bytes = cuda_run_bytes = 0
    n_positions = spec.language.context_length
    if cpu_parts:
        vision, decoder, _ = cpu_parts
        sizes = PartSizes(vision.size_bytes, decoder.size_bytes, len(decoder.layers))
        run_bytes = estimate_bytes(spec, sizes, n_positions)
        # While logits are measured, the decoder is open, and the reference holds the largest
        # matrix in float32 and its source: 3.6 GB measured at full size and 4 bits.
        peaks.append(decoder.size_bytes + 2 * largest_bytes)
        if recipe.is_calibrated:
            # While its pictures are encoded: the vision side's weights, also as the runtime has
            # rearranged them, what it computes, and the embeddings in float32. 4.1 GB measured.
            peaks.append(2 * vision.size_bytes + 2 * largest_bytes)
    if cuda_parts:
        language, vision = cuda_parts
        cuda_run_bytes = CUDA_BASE_BYTES + estimate_cuda_encoder_bytes(spec, vision.size_bytes)
        cuda_run_bytes += estimate_cuda_decoder_bytes(spec, language.size_bytes, n_positions)
        # Likewise without a GPU, and its codes in float32: 4.0 and 4.9 GB at 4 and 8 bits.
        peaks.append(language.size_bytes + 3 * largest_bytes)
    parts = (*cpu_parts, *cuda_parts)
    return VariantPlan(
        spec=spec,
        recipe=recipe,
        cuda_recipe=cuda_recipe,
        devices=devices,
        parts=parts,
        run_bytes=run_bytes,
        cuda_run_bytes=cuda_run_bytes,
        quantise_bytes=_PROGRAM_BYTES + max(peaks),
        least_bytes=int(_LEAST_SHARE * max(peaks)),
        disk_bytes=sum(part.size_bytes for part in parts),
    )


def _plan_cpu_parts(spec: ModelSpec, shapes: Shapes, recipe: Recipe) -> tuple[PlannedPart, ...]:
    """Plans the vision side, the decoder and the embeddings as onnxruntime reads them."""
    vision = {n: s for n, s in shapes.items() if not n.startswith(("language.", "projection."))}
    vision["projection.weight"] = (spec.language.width, spec.qformer.width)
    vision["projection.bias"] = (spec.language.width,)
    decoder = {n: s for n, s in shapes.items() if n.startswith("language.") and n != EMBEDDINGS}
    return (
        _plan_part("vision", vision, recipe),
        _plan_part("decoder", decoder, recipe),
        _plan_part("embeddings", {EMBEDDINGS: shapes[EMBEDDINGS]}, recipe),
    )


def _plan_part(name: str, shapes: Shapes, recipe: Recipe) -> PlannedPart:
    """Plans one part: the arrays of the embeddings; else graphs, and one data file for all."""
    tensor_bytes = {
        tensor: _stored_bytes(shape, recipe.rounding(tensor)) + _GRAPH_BYTES_PER_TENSOR
        for tensor, shape in shapes.items()
    }
    n_weights = sum(map(math.prod, shapes.values()))
    size_bytes = sum(tensor_bytes.values())
    if name == "embeddings":
        has_codes = recipe.rounding(EMBEDDINGS).has_codes
        arrays = ("embeddings", "embeddings.scales") if has_codes else ("embeddings",)
        files = {array.replace(".", "-"): f"{array}.npy" for array in arrays}
        return PlannedPart(name, files, (), n_weights, size_bytes)
    costs: dict[int, int] = {}  # of each layer; what comes before them is the first one's
    for tensor, n_bytes in tensor_bytes.items():
        found = _LAYER.search(tensor)
        if found is not None or ".embeddings." in tensor:
            layer = int(found[1]) if found is not None else 0
            costs[layer] = costs.get(layer, 0) + n_bytes
    in_order = [costs[layer] for layer in range(len(costs))]
    in_order[-1] += size_bytes - sum(in_order)  # what comes after them is the last one's
    n_graphs = min(_MOST_GRAPHS, len(costs), max(1, size_bytes // _LEAST_GRAPH_BYTES))
    layers = divide(in_order, n_graphs)
    roles = [make_graph_role(name, place) for place in range(n_graphs)]
    files = {role: f"{role}.onnx" for role in roles} | {f"{name}-data": f"{name}.data"}
    return PlannedPart(name, files, layers, n_weights, size_bytes)


def _plan_cuda_parts(shapes: Shapes, recipe: CudaRecipe) -> tuple[PlannedPart, ...]:
    """Plans the two files that torch reads."""
    parts = []
    for role in ROLES:
        mine = {name: shape for name, shape in shapes.items() if find_role(name) == role}
        kinds = {name: recipe.kind(name, shape) for name, shape in mine.items()}
        arrays = [each for name, kind in kinds.items() for each in list_arrays(name, kind)]
        size_bytes = count_header_bytes(arrays)
        size_bytes += sum(count_bytes(shape, kinds[name]) for name, shape in mine.items())
        n_weights = sum(map(math.prod, mine.values()))
        parts.append(PlannedPart(role, {role: f"{role}.safetensors"}, (), n_weights, size_bytes))
    return tuple(parts)


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


def _stored_bytes(shape: tuple[int, ...], rounding: Rounding) -> int:
    """Counts the bytes of one tensor in a data file, with what is left empty before its arrays."""
    if not rounding.has_codes:
        return _add_padding(rounding.bits // 8 * math.prod(shape))
    n_rows, n_columns = shape
    if rounding.per_channel:
        return _add_padding(n_rows * n_columns) + _add_padding(_FLOAT_BYTES * n_rows)
    group = rounding.fit(n_columns).group
    n_groups = -(-n_columns // group)
    codes = n_rows * n_groups * group * rounding.bits // 8
    scales = 4 * n_rows * n_groups
    zero_points = n_rows * -(-n_groups * rounding.bits // 8)
    return sum(_add_padding(n_bytes) for n_bytes in (codes, scales, zero_points))


def _add_padding(n_bytes: int) -> int:
    """Adds the mean of what is left empty before an array."""
    return n_bytes + (PAGE_BYTES if n_bytes >= PAGE_BYTES else SMALL_ALIGN_BYTES) // 2
