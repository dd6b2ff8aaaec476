"""A torch module becomes an ONNX file by optimum's exporter, and optimum holds it to torch.

The only file that imports optimum, which loads onnxruntime: its quiet form comes first.
"""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch

from quantize.export.network import VisionSide
from quantize.export.request import INSTALL_HINT
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.errors import UsageError, WeightsError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what transformers and its kin will give up one day
        from optimum.exporters.error_utils import AtolError
        from optimum.exporters.onnx.config import VisionOnnxConfig
        from optimum.exporters.onnx.convert import export, validate_model_outputs
        from optimum.utils import NormalizedVisionConfig
except ImportError as error:
    raise UsageError(f"optimum's exporter cannot be loaded: {error}", INSTALL_HINT) from error

INPUT, OUTPUT, BATCH = "pixel_values", "image_tokens", "batch_size"
# Of the largest image token's number, between torch and onnxruntime.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2}
# Another number of pictures than was traced with: that a batch may be of any size is tried, too.
_TRACED_PICTURES, VALIDATED_PICTURES = 2, 3


class _VisionSideConfig(VisionOnnxConfig):  # type: ignore[misc]  # optimum has no types
    """What optimum has to know of the vision side."""

    NORMALIZED_CONFIG_CLASS = NormalizedVisionConfig
    inputs: ClassVar = {INPUT: {0: BATCH}}
    outputs: ClassVar = {OUTPUT: {0: BATCH}}


def write_onnx_file(side: VisionSide, opset: int, path: Path) -> None:
    """Writes a module's graph, and its weights into a file beside it where they exceed 2 GB.

    Args:
        side: the module; its weights' dtype becomes that of pixels and image tokens.
        opset: of ONNX.
        path: the `.onnx` file.
    """
    with _unwarned():
        export(side, _make_config(side), path, opset, input_shapes=_shape(_TRACED_PICTURES))
    for each in path.parent.glob(f"{path.name}_*"):  # its weights, which onnx lets nobody else read
        shutil.copymode(path, each)


@torch.no_grad()
def check_onnx_file(side: VisionSide, path: Path) -> None:
    """Checks by optimum that onnxruntime computes from the file what torch does.

    It is done in this process. In one of its own, optimum would not see it killed, as for want of
    memory, and take that for success.

    Args:
        side: the module that was exported.
        path: the `.onnx` file.

    Raises:
        WeightsError: it computes something else.
    """
    config = _make_config(side)
    shape = _shape(VALIDATED_PICTURES)
    with _unwarned():
        largest = side(**config.generate_dummy_inputs("pt", **shape))[OUTPUT].abs().max()
        tolerance = TOLERANCES[side.projection.weight.dtype] * float(largest)
        try:
            validate_model_outputs(
                config, side, path, [OUTPUT], tolerance, shape, use_subprocess=False
            )
        except AtolError as error:
            reason = " ".join(str(error).split())
            raise WeightsError(
                f"onnxruntime {ort.__version__} computes other image tokens than torch: {reason}",
                "use `--dtype float32`, or another release: `pip install -U onnxruntime`",
            ) from error


def _make_config(side: VisionSide) -> _VisionSideConfig:
    is_half = side.projection.weight.dtype == torch.float16
    return _VisionSideConfig(side.config, float_dtype="fp16" if is_half else "fp32")


def _shape(n_pictures: int) -> dict[str, int]:
    return {BATCH: n_pictures}


@contextmanager
def _unwarned() -> Iterator[None]:
    """Passes over warnings that tell developers of exporters what is theirs to change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
