"""What is asked of the export is held against what can be made, before torch is loaded."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from quantize.request import check_place_for_folder
from tinyv_cli.errors import UsageError, WeightsError

# Of a number of each kind: what it takes on disk.
DTYPES = {"float32": 4, "float16": 2}
# 14 is the first with what attention is spelt in, 20 the last that torch's tracing exporter writes.
OPSETS = range(14, 21)
# From here on a norm is one operator, and every runtime of the last years reads it.
DEFAULT_OPSET = 17
PACKAGES = ("torch", "onnx", "safetensors", "transformers", "optimum")
INSTALL_HINT = "install what exporting needs: `pip install 'tinyv[export]'`"


@dataclass(frozen=True)
class ExportOptions:
    """The user's wishes.

    Attributes:
        sources: the folder of public files.
        output: the folder that is made.
        stage: which checkpoint, None for the highest.
        dtype: of weights, pixels and image tokens: a key of `DTYPES`.
        opset: of ONNX.
    """

    sources: Path
    output: Path
    stage: int | None = None
    dtype: str = "float32"
    opset: int = DEFAULT_OPSET


def check_request(dtype: str, opset: int) -> None:
    """Checks that such a file can be made, and that the packages for it are there.

    Args:
        dtype: of weights, pixels and image tokens.
        opset: of ONNX.

    Raises:
        UsageError: it cannot, or one is missing.
    """
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise UsageError(f"there is no export in {dtype}", f"use `--dtype` with {known}")
    if opset not in OPSETS:
        raise UsageError(
            f"there is no export with opset {opset}",
            f"use `--opset` with {OPSETS[0]} to {OPSETS[-1]}",
        )
    missing = next((each for each in PACKAGES if find_spec(each) is None), None)
    if missing is not None:
        raise UsageError(f"exporting needs {missing}, which is not installed", INSTALL_HINT)


def check_target(folder: Path) -> None:
    """Checks that the new folder can be moved in at the end.

    Raises:
        WeightsError: something is there already, or its name cannot be opened.
        DeviceError: it may not be looked at, or nothing may be written there.
    """
    check_place_for_folder(folder)
    if folder.exists():
        raise WeightsError(f"{folder} exists already", "name another folder: `-o DIR`")
