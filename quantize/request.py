"""What is asked of the quantiser is held against recipes and disk, before torch is loaded."""

import os
from dataclasses import dataclass
from pathlib import Path

from quantize.cuda_recipe import CUDA_BITS, VISION_BITS
from quantize.recipe import FLOAT16_BITS, RECIPES, TARGETS
from tinyv_cli.disk.paths import check_utf8, exists
from tinyv_cli.disk.writing import check_place
from tinyv_cli.errors import DeviceError, UsageError, WeightsError
from tinyv_cli.variants.home import check_replaceable

_ANOTHER_PLACE = "allow it, or name another folder: `-o DIR`"


@dataclass(frozen=True)
class QuantizeOptions:
    """The user's wishes.

    Attributes:
        sources: the folder of public files.
        output: the variant's folder.
        bits: 4, 5, 8 or 32.
        stage: which checkpoint, None for the highest.
        force: whether a variant that stands there is replaced.
        max_error: largest mean divergence of the logits that is accepted, in nats; None for any.
        threads: to work with, None for the physical cores.
        target: that the variant is for: `cpu`, `cuda` or `all`.
        vision_bits: of the vision side's matrices on a GPU: 8 or 16.
        quick: whether matrices are rounded to the nearest instead of for what they will meet.
        calibrate: a file of questions that they are rounded for; None: those of the program.
    """

    sources: Path
    output: Path
    bits: int = 4
    stage: int | None = None
    force: bool = False
    max_error: float | None = None
    threads: int | None = None
    target: str = "cpu"
    vision_bits: int = FLOAT16_BITS
    quick: bool = False
    calibrate: Path | None = None


def check_recipe(bits: int, target: str, vision_bits: int) -> None:
    """Checks that there is such a target, and a recipe for it.

    Args:
        bits: of a weight.
        target: that the variant is for.
        vision_bits: of the vision side on a GPU.

    Raises:
        UsageError: there is none; the hint lists those there are.
    """
    if target not in TARGETS:
        raise UsageError(
            f"there is no target {target}", f"use `--target` with {', '.join(TARGETS)}"
        )
    if vision_bits not in VISION_BITS:
        raise UsageError(
            f"there is no vision side with {vision_bits} bits",
            f"use `--vision-bits` with {', '.join(map(str, VISION_BITS))}",
        )
    on_cuda = "cuda" in TARGETS[target]
    possible = [each for each in RECIPES if each in CUDA_BITS or not on_cuda]
    if bits in possible:
        return
    known = ", ".join(map(str, possible))
    if bits in RECIPES:
        raise UsageError(
            f"there is no recipe for {bits} bits with `--target {target}`",
            f"use `--bits` with {known}, or `--target cpu`",
        )
    raise UsageError(f"there is no recipe for {bits} bits", f"use `--bits` with {known}")


def check_calibration(bits: int, quick: bool, own: Path | None) -> None:
    """Checks that a user's questions are of use, and reads them.

    Args:
        bits: of a weight.
        quick: whether `--quick` is there.
        own: the file of questions, None for those of the program.

    Raises:
        UsageError: so many bits are always rounded to the nearest, or all are to be.
        InputError: the file cannot be used, or a picture is missing.
    """
    if own is None:
        return
    if quick:
        raise UsageError(
            "`--quick` rounds to the nearest, whatever `--calibrate` says",
            "leave one of the two out",
        )
    recipe = RECIPES.get(bits)
    if recipe is not None and not recipe.is_calibrated:
        raise UsageError(
            f"`--calibrate` is of no use with {bits} bits, which are rounded to the nearest",
            "leave it out, or use `--bits 4`",
        )
    from tinyv_cli.evaluation import questions

    content = questions.read_question_file(own)
    questions.check_pictures(questions.read_questions(content, own))


def check_place_for_folder(folder: Path) -> None:
    """Checks that a folder can be made or replaced where it is to stand; nothing is made.

    Raises:
        WeightsError: its name cannot be opened.
        DeviceError: it may not be looked at, or nothing may be written there.
    """
    check_utf8(folder)
    check_place(folder, _ANOTHER_PLACE)
    above = next(each for each in folder.parents if exists(each))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "may not be written to" if above.is_dir() else "is not a folder"
        raise DeviceError(f"{above} {reason}", _ANOTHER_PLACE)


def check_output(folder: Path, force: bool) -> None:
    """Checks that a new variant can be moved in at the end.

    Args:
        folder: of the variant.
        force: whether a variant that stands there is replaced.

    Raises:
        WeightsError: it exists already, or its name cannot be opened.
        UsageError: it is something else than a variant, which is never replaced.
        DeviceError: it may not be looked at, or nothing may be written there.
    """
    check_place_for_folder(folder)
    if not folder.exists():
        return
    if not force:
        raise WeightsError(
            f"{folder} exists already", "use `--force` to replace it, or `-o` with another name"
        )
    check_replaceable(folder, "-o")
