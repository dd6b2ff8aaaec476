"""A folder of sources becomes a folder with the vision side in plain ONNX, checked, or nothing."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from quantize.export.beside import write_beside
from quantize.export.network import make_empty_side, map_vision_side
from quantize.export.onnx_file import VALIDATED_PICTURES, check_onnx_file, write_onnx_file
from quantize.export.request import DTYPES, ExportOptions, check_request, check_target
from quantize.pipeline import check_disk, check_known_hashes
from tinyv_cli.disk.staging import build_beside, move_in
from tinyv_cli.machine.memory import check_free_memory
from tinyv_cli.progress import Progress
from tinyv_cli.spec import ModelSpec
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources

ONNX_NAME = "vision.onnx"
_WEIGHTS_NAME = "weights.safetensors"  # while it is built
# Weights lie on disk as they are mapped, a file each as torch writes them, and in one file as
# optimum joins these.
_COPIES_ON_DISK = 3
_PROGRAM_BYTES = 600_000_000  # interpreter, torch, transformers, optimum, the runtime


@dataclass(frozen=True)
class ExportNeeds:
    """What an export takes, estimated from the shapes.

    Attributes:
        memory_bytes: at its peak, beside mapped files.
        disk_bytes: likewise.
    """

    memory_bytes: int
    disk_bytes: int


def export_vision(options: ExportOptions, progress: Progress) -> Path:
    """Exports the vision side; nothing is left of an attempt that fails.

    Returns:
        The new folder.

    Raises:
        UsageError: such a file cannot be made, or the packages for it are not there.
        WeightsError: the sources are not what they should be, the folder exists, or the file
            computes something else than torch.
        DeviceError: memory or disk do not suffice.
    """
    check_request(options.dtype, options.opset)
    files = resolve_sources(options.sources, options.stage)
    target = options.output.absolute()
    check_target(target)
    with open_weights(files) as weights, build_beside(target) as building:
        spec = weights.spec
        shapes = [each.shape for each in make_empty_side(spec).state_dict().values()]
        needs = estimate_needs(spec, sum(map(math.prod, shapes)), options.dtype)
        check_free_memory(f"exporting in {options.dtype}", needs.memory_bytes)
        check_disk(target.parent, needs.disk_bytes, "exporting takes")
        check_known_hashes(files, progress)
        path, mapped = building / ONNX_NAME, building / _WEIGHTS_NAME
        dtype = getattr(torch, options.dtype)
        side = map_vision_side(spec, weights.read, dtype, mapped, progress)
        with progress("exporting by optimum"):
            write_onnx_file(side, options.opset, path)
        with progress("holding the file to torch"):
            check_onnx_file(side, path)
        del side
        mapped.unlink()
        write_beside(building, spec, options)
        move_in(building, target, replace=False)
    return target


def estimate_needs(spec: ModelSpec, n_weights: int, dtype: str) -> ExportNeeds:
    """Estimates what an export takes.

    At the peak the weights are in memory once, beside the mapped file: the exporter's copy, then
    optimum's, then the runtime's, which computes float16 in float32 on a CPU.

    Args:
        spec: the model's numbers.
        n_weights: of the vision side.
        dtype: of the file.
    """
    scores = VALIDATED_PICTURES * spec.vision.n_heads * spec.vision.n_tokens**2
    memory_bytes = _PROGRAM_BYTES + DTYPES["float32"] * (n_weights + 3 * scores)
    return ExportNeeds(memory_bytes, _COPIES_ON_DISK * DTYPES[dtype] * n_weights)
