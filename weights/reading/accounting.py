"""Files and the tables of their names become the place of every tensor, or an error that names it.

Works on names, shapes and dtypes alone: no number has been read when all of this has passed. Every
tensor of every file is used, known to be unused, or refused; every tensor of the network is there.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tinyv_cli.errors import WeightsError
from tinyv_cli.spec import ModelSpec
from weights.reading.containers import FETCH_HINT, WeightsFile
from weights.reading.naming import DISTRIBUTED_PREFIX, NameTable, Target, TensorPart
from weights.reading.shapes import Shape, Shapes, expected_shapes

POSITION_EMBEDDING = "vision.embeddings.position_embedding"
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
    """Where a tensor is read: a file, and its name there."""

    file: WeightsFile
    name: str

    @property
    def shape(self) -> Shape:
        """As the file has it."""
        return self.file.shapes[self.name]


Claims = dict[Target, TensorLocation]


def claim_tensors(files: Sequence[WeightsFile], table: NameTable) -> Claims:
    """Finds the place of every tensor of one source.

    Args:
        files: the one file of a source, or its shards.
        table: all that it may hold; a leading `module.` is passed over.

    Raises:
        WeightsError: a tensor is in no table, is there twice, or is no floating-point tensor.
    """
    claims: Claims = {}
    for file in files:
        unknown = []
        for foreign in file.shapes:
            name = foreign.removeprefix(DISTRIBUTED_PREFIX)
            origin = TensorLocation(file, foreign)
            target = table.targets.get(name)
            if target is not None:
                _check_first(claims.setdefault(target, origin), origin)
            elif name not in table.unused:
                unknown.append(foreign)
        _refuse_any(file.label, "holds {} nobody knows", unknown, _KIND_HINT)
        _check_dtypes(file, [o.name for o in claims.values() if o.file is file])
    return claims


def _check_first(first: TensorLocation, origin: TensorLocation) -> None:
    if first is origin:
        return
    raise WeightsError(
        f"{_quote(origin.name)} in {origin.file.label} is there already, as "
        f"{_quote(first.name)} in {first.file.label}",
        f"keep the one that is right; {FETCH_HINT}",
    )


def _check_dtypes(file: WeightsFile, names: Iterable[str]) -> None:
    wrong = [
        f"{_quote(name)} ({file.dtypes[name]})"
        for name in names
        if file.dtypes[name] not in _READ_DTYPES
    ]
    hint = "use the float16, bfloat16 or float32 weights; quantised ones are not read"
    _refuse_any(file.label, "holds {} of a type that is not read", wrong, hint)


def check_index(label: str, weight_map: Mapping[str, str], files: Sequence[WeightsFile]) -> None:
    """Holds an index against its shards.

    Args:
        label: how messages name the index.
        weight_map: tensor name → file name.
        files: the shards; their labels end in the file names.

    Raises:
        WeightsError: a tensor is not where the index says, or is not in it.
    """
    there = {name: file.label.rpartition("/")[2] for file in files for name in file.shapes}
    wrong = [name for name, shard in weight_map.items() if there.get(name) != shard]
    _refuse_any(label, "names {} that the shard does not hold", wrong, FETCH_HINT)
    _refuse_any(label, "does not name {}", sorted(there.keys() - weight_map.keys()), FETCH_HINT)


def check_complete(
    label: str, table: NameTable, claims: Claims, replaced: frozenset[str] = frozenset()
) -> None:
    """Looks for tensors that a source should hold.

    Args:
        label: how messages name the source.
        table: all that it may hold.
        claims: what it does hold.
        replaced: our names of tensors that another source brings.

    Raises:
        WeightsError: some are missing.
    """
    missing = [
        foreign
        for foreign, target in table.targets.items()
        if target not in claims and target.name not in table.optional | replaced
    ]
    _refuse_any(label, "lacks {}", missing, _FIT_HINT)


def check_shapes(claims: Claims, spec: ModelSpec, lora_rank: int) -> None:
    """Compares every claimed tensor's shape with the network's.

    Raises:
        WeightsError: some differ.
    """
    ours = expected_shapes(spec)
    wrong: dict[str, list[str]] = {}
    for target, origin in claims.items():
        shape = make_foreign_shape(target, ours, lora_rank)
        if origin.shape != shape and not _is_position_grid(target, origin.shape, shape):
            complaint = f"{_quote(origin.name)} is {origin.shape}, not {shape}"
            wrong.setdefault(origin.file.label, []).append(complaint)
    for label, complaints in wrong.items():
        _refuse_any(label, "holds {} of the wrong shape", complaints, _FIT_HINT)


def make_foreign_shape(target: Target, ours: Shapes, lora_rank: int) -> Shape:
    """The shape that a file has a tensor in.

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
    """Tells whether these are position embeddings of another square grid, to be resized."""
    if target.name != POSITION_EMBEDDING or len(shape) != 3 or shape[1] < 2:
        return False
    return shape[::2] == wanted[::2] and math.isqrt(shape[1] - 1) ** 2 == shape[1] - 1


def _refuse_any(label: str, complaint: str, tensors: Sequence[str], hint: str) -> None:
    """Raises if there are tensors to complain of; `{}` in the complaint becomes their number."""
    if not tensors:
        return
    number = "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"
    more = f", … ({len(tensors) - 1} more)" if len(tensors) > 1 else ""
    raise WeightsError(f"{label} {complaint.format(number)}: {_quote(tensors[0])}{more}", hint)


def _quote(name: str) -> str:
    """A name out of a file, fit for a terminal."""
    return name[:200] if name.isprintable() else ascii(name[:200])
