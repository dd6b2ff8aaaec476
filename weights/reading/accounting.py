"""Files and the tables of their names become the place of every tensor, or an error that names it.

Works on names, shapes and dtypes alone: no number has been read when all of this has passed. Every
tensor of every file is used, known to be unused, or refused; every tensor of the network is there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tinyv_cli.errors import WeightsError
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.spec import ModelSpec
from weights.reading.containers import FETCH_HINT, WeightsFile
from weights.reading.naming import DISTRIBUTED_PREFIX, NameTable, Target, TensorPart

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

POSITION_EMBEDDING = "vision.embeddings.position_embedding"
_VISION_LAYERS = "vision.layers."
_VISION_LAYER_ORDER = ("layer_norm1", "self_attn", "layer_norm2", "mlp")
_READ_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_KIND_HINT = (
    "check that it is the file it is called after, and that config.json and architecture.json "
    "belong to it: `tinyv quantize --help` lists the files"
)
_FIT_HINT = (
    "check that all sources belong to one model, and config.json and architecture.json to it: "
    "`tinyv quantize --help` lists the files"
)


@dataclass(frozen=True)
class TensorLocation:
    """A file that holds a tensor, and the tensor's name there."""

    file: WeightsFile
    name: str

    @property
    def shape(self) -> Shape:
        """Shape in the file."""
        return self.file.shapes[self.name]


Claims = dict[Target, TensorLocation]


def expected_shapes(spec: ModelSpec) -> Shapes:
    """Returns name → shape of every tensor of the merged network, without any numbers.

    Names are the keys of the network's `state_dict`. Linear weights are (out, in); the rows of
    both `qkv` matrices are ordered [3][head][d].

    Returns:
        Ordered vision, Q-Former, projection, language, and in these as a picture meets them.
    """
    shapes = {name: tuple(each.shape) for name, each in make_empty_model(spec).state_dict().items()}
    # A vision layer registers its modules in another order than it runs them in: by it, training
    # draws its first weights. Files for a GPU are written in the order given here.
    names = list(shapes)
    layers = [name for name in names if name.startswith(_VISION_LAYERS)]
    first = names.index(layers[0])

    def find_place(name: str) -> tuple[int, int]:
        layer, module = name.removeprefix(_VISION_LAYERS).split(".")[:2]
        return int(layer), _VISION_LAYER_ORDER.index(module)

    names[first : first + len(layers)] = sorted(layers, key=find_place)
    return {name: shapes[name] for name in names}


def claim_tensors(files: Sequence[WeightsFile], table: NameTable) -> Claims:
    """Finds the place of every tensor of one source.

    Args:
        files: the one file of a source, or its shards.
        table: all that it may hold; a leading `module.` is passed over.

    Raises:
        WeightsError: a tensor is unknown, is there twice, or is not of a floating-point type.
    """
    claims: Claims = {}
    for file in files:
        unknown, wrong = [], []
        for foreign, dtype in file.dtypes.items():
            name = foreign.removeprefix(DISTRIBUTED_PREFIX)
            target = table.targets.get(name)
            if target is None:
                if name not in table.unused:
                    unknown.append(foreign)
                continue
            first = claims.setdefault(target, TensorLocation(file, foreign))
            if (first.file, first.name) != (file, foreign):
                raise WeightsError(
                    f"{_quote(foreign)} in {file.label} is there already, as "
                    f"{_quote(first.name)} in {first.file.label}",
                    f"keep the one that is right; {FETCH_HINT}",
                )
            if dtype not in _READ_DTYPES:
                wrong.append(f"{_quote(foreign)} ({dtype})")
        _refuse_any(file.label, "holds {} unknown tensor", unknown, _KIND_HINT)
        hint = "use the float16, bfloat16 or float32 weights; quantised ones are not read"
        _refuse_any(file.label, "holds {} tensor of a type that is not read", wrong, hint)
    return claims


def check_index(label: str, weight_map: Mapping[str, str], files: Sequence[WeightsFile]) -> None:
    """Checks that every shard holds what the index says, and nothing else.

    Args:
        label: how messages name the index.
        weight_map: tensor name → file name.
        files: the shards; their labels end in the file names.

    Raises:
        WeightsError: a tensor is not where the index says, or is not in it.
    """
    there = {name: file.label.rpartition("/")[2] for file in files for name in file.shapes}
    wrong = [name for name, shard in weight_map.items() if there.get(name) != shard]
    _refuse_any(label, "names {} tensor that the shard does not hold", wrong, FETCH_HINT)
    _refuse_any(
        label, "does not name {} tensor", sorted(there.keys() - weight_map.keys()), FETCH_HINT
    )


def check_complete(
    label: str, table: NameTable, claims: Claims, replaced: frozenset[str] = frozenset()
) -> None:
    """Checks that a source holds every tensor that it should.

    Args:
        label: how messages name the source.
        table: all that it may hold.
        claims: what it does hold.
        replaced: our names of tensors that another source brings.

    Raises:
        WeightsError: some are missing.
    """
    may_lack = table.optional | replaced
    missing = [
        foreign
        for foreign, target in table.targets.items()
        if target not in claims and target.name not in may_lack
    ]
    _refuse_any(label, "lacks {} tensor", missing, _FIT_HINT)


def check_shapes(claims: Claims, ours: Shapes, lora_rank: int) -> None:
    """Compares every claimed tensor's shape with the network's.

    Args:
        claims: what the files hold.
        ours: `expected_shapes` of the network.
        lora_rank: r of LoRA.

    Raises:
        WeightsError: some differ.
    """
    wrong: dict[str, list[str]] = {}
    for target, origin in claims.items():
        shape = make_foreign_shape(target, ours, lora_rank)
        if origin.shape != shape and not _is_position_grid(target, origin.shape, shape):
            complaint = f"{_quote(origin.name)} is {origin.shape}, not {shape}"
            wrong.setdefault(origin.file.label, []).append(complaint)
    for label, complaints in wrong.items():
        _refuse_any(label, "holds {} tensor of the wrong shape", complaints, _FIT_HINT)


def make_foreign_shape(target: Target, ours: Shapes, lora_rank: int) -> Shape:
    """Returns the shape that a file has a tensor in.

    Args:
        target: its place.
        ours: `expected_shapes` of the network.
        lora_rank: r of LoRA.
    """
    n_out, *rest = ours[target.name]
    match target.part:
        case TensorPart.QUERY | TensorPart.KEY | TensorPart.VALUE:
            return (n_out // 3, *rest)
        case TensorPart.LORA_A:
            return (lora_rank, *rest)
        case TensorPart.LORA_B:
            return (n_out, lora_rank)
        case _:
            return (n_out, *rest)


def _is_position_grid(target: Target, shape: Shape, wanted: Shape) -> bool:
    """Returns whether these are position embeddings of another square grid, to be resized."""
    if target.name != POSITION_EMBEDDING or len(shape) != 3 or shape[1] < 2:
        return False
    return shape[::2] == wanted[::2] and math.isqrt(shape[1] - 1) ** 2 == shape[1] - 1


def _refuse_any(label: str, complaint: str, tensors: Sequence[str], hint: str) -> None:
    """Raises if there are tensors to complain of; `{}` in the complaint becomes their number."""
    if not tensors:
        return
    more = ""
    if len(tensors) > 1:
        complaint = complaint.replace("tensor", "tensors")
        more = f", … ({len(tensors) - 1} more)"
    complaint = complaint.format(len(tensors))
    raise WeightsError(f"{label} {complaint}: {_quote(tensors[0])}{more}", hint)


def _quote(name: str) -> str:
    """Returns a name out of a file, fit for a terminal."""
    return name[:200] if name.isprintable() else ascii(name[:200])
