"""The arguments and flags of `tinyv quantize`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tinyv_cli.options.declare import OUTPUT, option, real, whole
from tinyv_cli.options.shared import DryRun, Force, Quiet, Threads

Sources = Annotated[
    Path | None,
    option("--sources", metavar="FOLDER", help="Folder with the files below; else see the end"),
]

Bits = Annotated[
    int,
    option(
        "--bits", metavar="NUMBER", help="Bits of a weight: 4, 5, 8 or 32", reads=whole("--bits", 1)
    ),
]

Target = Annotated[
    str, option("--target", metavar="NAME", help="What it is to run on: cpu, cuda, or all for both")
]

VisionBits = Annotated[
    int | None,
    option(
        "--vision-bits",
        metavar="NUMBER",
        help="Bits of the vision side on a GPU, 8 or 16; else 16, or 8 with a card under 6 GB",
        reads=whole("--vision-bits", 1),
    ),
]

VariantPlace = Annotated[
    str | None,
    option(
        "-o",
        "--output",
        metavar="NAME",
        help="The variant, or its folder; else as stage4-4bit",
        panel=OUTPUT,
    ),
]

Stage = Annotated[
    int | None,
    option(
        "--stage",
        metavar="NUMBER",
        help="Training stage; else the highest",
        reads=whole("--stage", 1),
    ),
]

MaxError = Annotated[
    float | None,
    option(
        "--max-error",
        metavar="NUMBER",
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

    bits: Bits = 4
    sources: Sources = None
    target: Target = "cpu"
    vision_bits: VisionBits = None
    stage: Stage = None
    output: VariantPlace = None
    force: Force = False
    dry_run: DryRun = False
    quick: Quick = False
    calibrate: Calibrate = None
    max_error: MaxError = None
    threads: Threads = None
    quiet: Quiet = False
