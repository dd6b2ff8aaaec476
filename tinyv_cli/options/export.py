"""The flags of `tinyv export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tinyv_cli.options.declare import OUTPUT, option, whole
from tinyv_cli.options.quantize import Sources, Stage
from tinyv_cli.options.shared import Quiet

NewFolder = Annotated[
    Path,
    option("-o", "--output", metavar="FOLDER", help="The folder that is made", panel=OUTPUT),
]

Dtype = Annotated[
    str, option("--dtype", metavar="NAME", help="Of weights and pixels: float32 or float16")
]

Opset = Annotated[
    int,
    option(
        "--opset",
        metavar="NUMBER",
        help="The version of ONNX's operators, 14 to 20",
        reads=whole("--opset", 1),
    ),
]


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """The flags of `tinyv export`."""

    folder: NewFolder
    sources: Sources = None
    stage: Stage = None
    dtype: Dtype = "float32"
    opset: Opset = 17
    quiet: Quiet = False
