"""Merged tensors become the two files that a GPU runs, and can be read back from them in float32.

One matrix at a time is in full precision, and its codes go to disk before the next is read.
`cuda_recipe` decides how each tensor is stored.

NF4: symmetric about zero but for its levels, 16 of them, those of a normal distribution; blocks of
64 along the rows, one scale each, the block's largest weight. A weight is off by half the widest
gap between levels at most, 0.1520 of that scale, and with double quantisation by the scale's own
error besides. int8: symmetric, one scale a row, codes -127 … 127, rounded to the nearest, so that a
weight is off by half a scale at most; scales float32.

Source: arXiv 2305.14314, section 3, for NF4 and its double quantisation; arXiv 2208.07339,
section 3.2, for the rows of int8.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from safetensors import safe_open

from quantize.calibrate.grids import name_nf4_arrays
from quantize.channelwise import LARGEST_CODE, round_channels
from quantize.cuda_recipe import (
    DOUBLE_QUANTISATION,
    NF4_BLOCK,
    ROLES,
    StorageKind,
    count_header_bytes,
    find_role,
    list_arrays,
)
from quantize.plan import Shapes, VariantPlan
from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Progress
from weights.reading.checkpoint import ReadTensor
from weights.safetensors_writer import SafetensorsWriter

FindArrays: TypeAlias = Callable[[str], Mapping[str, torch.Tensor] | None]


def write_cuda_parts(
    folder: Path,
    plan: VariantPlan,
    shapes: Shapes,
    read: ReadTensor,
    progress: Progress,
    find_arrays: FindArrays = lambda name: None,
) -> None:
    """Writes both files.

    Args:
        folder: where to.
        plan: names the files, and holds the recipe.
        shapes: every canonical tensor and its shape.
        read: returns a canonical tensor in float32.
        progress: is told of each tensor.
        find_arrays: a matrix that was rounded before becomes its arrays, by the ends of their
            names; else it is rounded to the nearest.

    Raises:
        WeightsError: a number is too large for float16.
    """
    kinds = {name: plan.cuda_recipe.kind(name, shape) for name, shape in shapes.items()}
    with ExitStack() as stack, progress("rounding for the GPU", len(kinds)) as bar:
        writers = {}
        for role in ROLES:
            mine = [name for name in kinds if find_role(name) == role]
            arrays = (each for name in mine for each in list_arrays(name, kinds[name]))
            writer = SafetensorsWriter(folder / plan.files[role], count_header_bytes(arrays))
            writers[role] = stack.enter_context(writer)
        for name, kind in kinds.items():
            found = find_arrays(name)
            if found is None:
                found = to_arrays(name, read(name), kind)
            else:
                found = {f"{name}{suffix}": values for suffix, values in found.items()}
            for array, values in found.items():
                writers[find_role(name)].append(array, values)
            bar.advance()


def to_arrays(name: str, tensor: torch.Tensor, kind: StorageKind) -> Mapping[str, torch.Tensor]:
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
    arrays = {"": tensor}
    if kind is StorageKind.FLOAT16:
        arrays = {"": tensor.half()}
        if not arrays[""].isfinite().all():
            raise WeightsError(
                f"{name} holds {float(tensor.abs().max()):g}, too large for float16",
                "make a variant for the CPU: `tinyv quantize --target cpu`",
            )
    elif kind is StorageKind.NF4:
        from tinyv_cli.devices.quiet_bitsandbytes import quantize_4bit

        codes, state = quantize_4bit(
            tensor, blocksize=NF4_BLOCK, quant_type="nf4", compress_statistics=DOUBLE_QUANTISATION
        )
        arrays = name_nf4_arrays(codes, state)
    elif kind is not StorageKind.FLOAT32:
        # Not by the library: its rows of zeros divide by zero. Its codes are the same but for ties.
        rounded = round_channels(tensor)
        rows = {".SCB": rounded.scales * LARGEST_CODE}  # the row's largest weight
        scales = rows if kind is StorageKind.ROWS_INT8 else {".scales": rounded.scales}
        arrays = {"": rounded.codes} | scales
    named = {f"{name}{suffix}": values for suffix, values in arrays.items()}
    assert named.keys() == set(list_arrays(name, kind)), "bitsandbytes keeps other arrays"
    return named


class StoredTensors:
    """Reads canonical tensors of a mapped file as the GPU's kernels take its codes.

    Args:
        path: of a file with the role `cuda-language` or `cuda-vision`.
    """

    def __init__(self, path: Path) -> None:
        self._file = cast(Any, safe_open(path, framework="pt"))
        self._names = frozenset(self._file.keys())

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor in float32, in its own shape."""
        stored: torch.Tensor = self._file.get_tensor(name)
        if f"{name}.absmax" in self._names:
            from tinyv_cli.backends.cuda.torch_modules import read_nf4
            from tinyv_cli.devices.quiet_bitsandbytes import QuantState

            beside = [each for each in self._names if each.startswith(f"{name}.")]
            parts = {each[len(name) + 1 :]: self._file.get_tensor(each) for each in beside}
            return read_nf4(stored, QuantState.from_dict(parts, stored.device), torch.float32)
        tensor = stored.float()
        if f"{name}.SCB" in self._names:
            tensor *= (self._file.get_tensor(f"{name}.SCB") / LARGEST_CODE)[:, None]
        if f"{name}.scales" in self._names:
            tensor *= self._file.get_tensor(f"{name}.scales")[:, None]
        return tensor
