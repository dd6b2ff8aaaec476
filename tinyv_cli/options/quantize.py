"""The arguments and flags of `tinyv quantize`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tinyv_cli.options.declare import option, real, whole
from tinyv_cli.options.shared import DryRun, Force, Quiet, Threads

Sources = Annotated[
    Path | None,
    option("--sources", metavar="DIR", help="Folder with the files below; else see the end"),
]

Bits = Annotated[
    int,
    option("--bits", metavar="4|5|8|32", help="Bits of a weight", reads=whole("--bits", 1)),
]

Target = Annotated[
    str, option("--target", metavar="cpu|cuda|all", help="What it is to run on: one or both")
]

VisionBits = Annotated[
    int | None,
    option(
        "--vision-bits",
        metavar="8|16",
        help="Bits of the vision side on a GPU; else 16, or 8 with a card under 6 GB",
        reads=whole("--vision-bits", 1),
    ),
]

VariantPlace = Annotated[
    str | None,
    option("-o", "--output", metavar="NAME|DIR", help="The variant; else stage{N}-{bits}bit"),
]

Stage = Annotated[
    int | None,
    option(
        "--stage", metavar="N", help="Training stage; else the highest", reads=whole("--stage", 1)
    ),
]

MaxError = Annotated[
    float | None,
    option(
        "--max-error",
        metavar="X",
        help="Refuse a variant whose logits diverge by more nats",
        reads=real("--max-error", 0),
    ),
]

Quick = Annotated[
    bool, option("--quick", help="Round to the nearest: less time, farther from full precision")
]

Calibrate = Annotated[
    Path | None,
    option(
        "--calibrate",
        metavar="FILE",
        help="Round for questions like yours, as `tinyv eval` reads them",
    ),
]


@dataclass(frozen=True)
class QuantizeArguments:
    """The words and flags of `tinyv quantize`."""

    sources: Sources = None
    bits: Bits = 4
    target: Target = "cpu"
    vision_bits: VisionBits = None
    output: VariantPlace = None
    stage: Stage = None
    force: Force = False
    dry_run: DryRun = False
    quick: Quick = False
    calibrate: Calibrate = None
    max_error: MaxError = None
    threads: Threads = None
    quiet: Quiet = False
