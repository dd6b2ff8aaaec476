"""Merged tensors become the two files that a GPU runs: codes as bitsandbytes keeps them.

One matrix at a time is in full precision, and what became of it goes to disk before the next.
Knows nothing of the network: `cuda_recipe` tells what each tensor is stored as.

NF4: symmetric about zero but for its levels, 16 of them, those of a normal distribution; blocks of
64 along the rows, one scale each, the block's largest weight. A weight is off by half the widest
gap between levels at most, 0.1520 of that scale, and with double quantisation by the scale's own
error besides. int8: symmetric, one scale a row, codes -127 … 127, rounded to the nearest, so that a
weight is off by half a scale at most; scales float32.

Source: arXiv 2305.14314, section 3, for NF4 and its double quantisation; arXiv 2208.07339,
section 3.2, for the rows of int8.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from quantize.channelwise import LARGEST_CODE, round_channels
from quantize.cuda.tensor_file import TensorFile
from quantize.cuda_recipe import (
    DOUBLE_QUANTISATION,
    NF4_BLOCK,
    ROLES,
    Kind,
    count_header_bytes,
    find_role,
    list_arrays,
)
from quantize.plan import Plan, Shapes
from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Progress
from weights.reading.checkpoint import ReadTensor

Arrays = Mapping[str, torch.Tensor]


def load_bitsandbytes() -> None:
    """Imports bitsandbytes without a word on stderr of kernels that a CPU could fetch.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes  # noqa: F401


def write_cuda_parts(
    folder: Path, plan: Plan, shapes: Shapes, read: ReadTensor, progress: Progress
) -> None:
    """Writes both files.

    Args:
        folder: where to.
        plan: names the files, and tells what is rounded how.
        shapes: every canonical tensor and its shape.
        read: gives a canonical tensor in float32.
        progress: is told of each tensor.

    Raises:
        WeightsError: a number is too large for float16.
    """
    load_bitsandbytes()
    kinds = {name: plan.cuda_recipe.kind(name, shape) for name, shape in shapes.items()}
    with ExitStack() as stack, progress("rounding for the GPU", len(kinds)) as bar:
        files = {
            role: stack.enter_context(_open_file(folder / plan.files[role], role, kinds))
            for role in ROLES
        }
        for name, kind in kinds.items():
            _append(files[find_role(name)], to_arrays(name, read(name), kind))
            bar.advance()


def _append(file: TensorFile, arrays: Arrays) -> None:
    for name, values in arrays.items():
        file.append(name, values)


def _open_file(path: Path, role: str, kinds: Mapping[str, Kind]) -> TensorFile:
    mine = ((name, kind) for name, kind in kinds.items() if find_role(name) == role)
    names = (array for name, kind in mine for array in list_arrays(name, kind))
    return TensorFile(path, count_header_bytes(names))


def to_arrays(name: str, tensor: torch.Tensor, kind: Kind) -> Arrays:
    """Rounds a tensor.

    Args:
        name: canonical.
        tensor: float32, finite.
        kind: how it is stored.

    Returns:
        Name in its file, one of `list_arrays`, → its numbers.

    Raises:
        WeightsError: a number is too large for float16.
    """
    arrays = _ROUND[kind](tensor)
    if kind is Kind.FLOAT16 and not arrays[""].isfinite().all():
        raise WeightsError(
            f"{name} holds {float(tensor.abs().max()):g}, more than float16 can tell",
            "make a variant for the CPU: `tinyv quantize --target cpu`",
        )
    named = {f"{name}{suffix}": values for suffix, values in arrays.items()}
    assert named.keys() == set(list_arrays(name, kind)), "the library keeps other arrays"
    return named


def _to_nf4(matrix: torch.Tensor) -> Arrays:
    """Codes, two in a byte, and the state that bitsandbytes reads them back with, in float16."""
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(
        matrix, blocksize=NF4_BLOCK, quant_type="nf4", compress_statistics=DOUBLE_QUANTISATION
    )
    state.dtype = torch.float16  # of what is computed with; the scales come from float32
    return {"": codes} | {f".{key}": values for key, values in state.as_dict(packed=True).items()}


def _to_rows(matrix: torch.Tensor) -> Arrays:
    """Codes, and the largest weight of each row, as bitsandbytes' int8 layers keep them."""
    rounded = round_channels(matrix)
    return {"": rounded.codes, ".SCB": rounded.scales * LARGEST_CODE}


def _to_weights(matrix: torch.Tensor) -> Arrays:
    rounded = round_channels(matrix)
    return {"": rounded.codes, ".scales": rounded.scales}


_ROUND: Mapping[Kind, Callable[[torch.Tensor], Arrays]] = {
    Kind.NF4: _to_nf4,
    Kind.ROWS_INT8: _to_rows,
    Kind.WEIGHTS_INT8: _to_weights,
    Kind.FLOAT16: lambda tensor: {"": tensor.half()},
    Kind.FLOAT32: lambda tensor: {"": tensor},
}
