"""A folder of sources becomes a variant; folders, name and bits are chosen here."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tinyv_cli.commands.variants.list import to_error_cells
from tinyv_cli.console import Console, to_size, to_table
from tinyv_cli.devices.driver import read_driver
from tinyv_cli.disk.places import sources_dir
from tinyv_cli.errors import UsageError, WeightsError
from tinyv_cli.machine.memory import check_address_space, check_free_memory
from tinyv_cli.options.quantize import QuantizeArguments
from tinyv_cli.variants.home import resolve_folder
from tinyv_cli.variants.manifest import Variant
from tinyv_cli.variants.miniature import NAME, find_sources, is_miniature_folder

if TYPE_CHECKING:
    from quantize.plan import VariantPlan

PACKAGES = ("torch", "onnx", "safetensors")
# Of addresses, before a source is opened: with two cores 1.06 GB ended in the middle of it, and
# with 1.28 the miniature was made.
_LIBRARY_BYTES = 1_100_000_000
_RESIDENT_BYTES = 350_000_000  # the system ended the process in 300 MB, and not in 400


def quantize_sources(arguments: QuantizeArguments) -> None:
    """Runs `tinyv quantize`.

    Raises:
        UsageError: there is no such recipe or target, or the packages for quantising are not
            installed.
        InputError: the questions in `--calibrate` cannot be used.
        WeightsError: the sources are not what they should be, or the variant exists already or
            is too far from them.
        DeviceError: memory or disk do not suffice.
    """
    from quantize import request
    from weights.reading.sources import resolve_sources

    console = Console(quiet=arguments.quiet)
    vision_bits = _resolve_vision_bits(arguments, console)
    request.check_recipe(arguments.bits, arguments.target, vision_bits)
    request.check_calibration(arguments.bits, arguments.quick, arguments.calibrate)
    _check_packages(arguments)
    sources = choose_sources(arguments.sources, "quantize", console)
    stage = resolve_sources(sources, arguments.stage).stage
    name = arguments.output
    if name is None:
        # The miniature's stage says nothing about it; and a variant for the GPU alone is not to
        # stand in the way of the CPU's.
        origin = NAME if is_miniature_folder(sources) else f"stage{stage}"
        name = f"{origin}-{arguments.bits}bit{'-cuda' if arguments.target == 'cuda' else ''}"
    output = resolve_folder(name)
    if not arguments.dry_run:
        request.check_output(output.absolute(), arguments.force)
    check_address_space("quantising", _LIBRARY_BYTES)
    check_free_memory("quantising", _RESIDENT_BYTES)
    # With these comes torch, seconds for which nothing that is refused above has to wait.
    from quantize import pipeline
    from tinyv_cli.backends.backend import resolve_threads

    options = request.QuantizeOptions(
        sources=sources,
        output=output,
        bits=arguments.bits,
        stage=arguments.stage,
        force=arguments.force,
        max_error=arguments.max_error,
        threads=resolve_threads(arguments.threads, console.write_note),
        target=arguments.target,
        vision_bits=vision_bits,
        quick=arguments.quick,
        calibrate=arguments.calibrate,
    )
    if arguments.dry_run:
        console.write_line(to_plan_table(pipeline.plan_variant(options)))
        return
    result = pipeline.make_variant(options, console.progress)
    console.write_report(to_parts_table(result.variant, result.plan))
    console.write_report(f"smoke picture: {result.smoke_picture}")
    console.write_report(f"smoke question: {result.smoke_question}")
    console.write_report(f"smoke answer: {result.smoke_answer}")
    if len(result.variant.devices) > 1:
        console.write_report(f"smoke answer of the files for the GPU: {result.cuda_answer}")
    console.write_line(str(result.variant.folder))


def _check_packages(arguments: QuantizeArguments) -> None:
    """Checks that the packages for quantising are installed, without loading them.

    Raises:
        UsageError: one is not.
    """
    only_cpu = arguments.target == "cpu"
    needed = PACKAGES if only_cpu or arguments.dry_run else (*PACKAGES, "bitsandbytes")
    missing = next((each for each in needed if find_spec(each) is None), None)
    if missing is not None:
        extras = "quantize" if only_cpu else "quantize,cuda"
        raise UsageError(
            f"quantising needs {missing}, which is not installed",
            f"install what quantising needs: `pip install 'tinyv[{extras}]'`",
        )


def to_plan_table(plan: "VariantPlan") -> str:
    """Formats what would be made: parts with bytes and bits a weight, then memory and disk."""
    n_weights = sum(part.n_weights for part in plan.parts)
    rows = [
        (
            ", ".join(part.files.values()),
            f"{part.n_weights:,}",
            to_size(part.size_bytes),
            f"{part.bits_per_weight:.2f}",
        )
        for part in plan.parts
    ]
    mean_bits = 8 * plan.size_bytes / n_weights
    total = ("total", f"{n_weights:,}", to_size(plan.size_bytes), f"{mean_bits:.2f}")
    roles = {role for part in plan.parts for role in part.files}
    needs = [("memory to quantise", to_size(plan.quantise_bytes))]
    if "decoder" in roles:
        needs.append(("memory to answer", to_size(plan.run_bytes)))
    if "cuda-language" in roles:
        needs.append(("GPU memory to answer", to_size(plan.cuda_run_bytes)))
    needs.append(("free disk", to_size(plan.disk_bytes)))
    parts = to_table(("files", "weights", "size", "bits/weight"), [*rows, total])
    return f"{parts}\n\n{to_table(('needed', 'about'), needs)}"


def to_parts_table(variant: Variant, plan: "VariantPlan") -> str:
    """Formats what was made: files with bytes, then how far it is from full precision."""
    rows = [(entry.path, to_size(entry.size_bytes)) for entry in variant.manifest.files]
    total = ("total", to_size(variant.manifest.size_bytes))
    names = ("logits KL (nats)", "same best token", "image cosine")
    errors = zip(names, to_error_cells(variant.manifest.errors), strict=True)
    mean_bits = 8 * variant.manifest.size_bytes / sum(part.n_weights for part in plan.parts)
    figures = [("bits/weight", f"{mean_bits:.2f}"), *errors]
    return f"{to_table(('file', 'size'), [*rows, total])}\n\n{to_table(('measured', ''), figures)}"


def choose_sources(wanted: Path | None, verb: str, console: Console) -> Path:
    """Finds the folder that was named, else the user's own, else the miniature's, and notes which.

    Args:
        wanted: the folder that was named.
        verb: that reads it.
        console: takes the note.

    Raises:
        WeightsError: no folder was named, and there is none of the others.
    """
    from weights.reading.sources import holds_sources

    if wanted is not None:
        return wanted
    own, brought = sources_dir(), find_sources()
    if holds_sources(own):
        console.write_note(f"taking the sources in {own}; `--sources DIR` takes others")
        return own
    if brought is not None and holds_sources(brought):
        fetch = f"no sources in {own}: `tinyv pull` fetches the real model's"
        whose = "those of the miniature that comes with tinyv"
        console.write_note(f"{fetch}; taking {whose}, `--sources DIR` takes others")
        return brought
    raise WeightsError(
        f"there are no sources in {own}, and no other folder was named",
        f"fetch them: `tinyv pull`; or name a folder: `tinyv {verb} --sources DIR`",
    )


def _resolve_vision_bits(arguments: QuantizeArguments, console: Console) -> int:
    """Chooses bits of the vision side on a GPU: as asked for, else what this computer's GPU holds.

    Raises:
        UsageError: they were asked for, and there is nothing to be made for a GPU.
    """
    from quantize.cuda_recipe import choose_vision_bits

    if arguments.vision_bits is not None:
        if arguments.target != "cpu":
            return arguments.vision_bits
        raise UsageError(
            "`--vision-bits` is for a GPU's files only",
            "use it with `--target cuda` or `--target all`",
        )
    gpus = () if arguments.target == "cpu" else read_driver().gpus
    bits = choose_vision_bits(arguments.bits, gpus[0].memory_bytes if gpus else None)
    usual = choose_vision_bits(arguments.bits, None)
    if bits != usual:
        console.write_note(
            f"the vision side gets {bits} bits, since {gpus[0].name} has "
            f"{to_size(gpus[0].memory_bytes)}; `--vision-bits {usual}` makes it as usual"
        )
    return bits
