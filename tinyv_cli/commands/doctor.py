"""This computer and its variants become a report, or one document: what can compute here.

Nothing of a variant is opened; what is run is one small product on each device.
"""

import math
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil

from tinyv_cli.console import Console, to_size, to_table
from tinyv_cli.devices import choice as devices
from tinyv_cli.devices.choice import find_problem, look, read_version
from tinyv_cli.devices.driver import DeviceProblem
from tinyv_cli.devices.findings import Findings
from tinyv_cli.devices.names import is_cuda, to_cuda_name
from tinyv_cli.disk.places import home_dir
from tinyv_cli.errors import DeviceError
from tinyv_cli.options.report import DoctorArguments
from tinyv_cli.variants.home import HOW_TO_MAKE_ONE, DamagedVariant, list_named_variants
from tinyv_cli.variants.manifest import Variant
from tinyv_cli.variants.memory import plan_memory

PACKAGES = (
    "tinyv",
    "onnxruntime",
    "numpy",
    "tokenizers",
    "torch",
    "bitsandbytes",
    "transformers",
)
_USE_CPU = "or use `--device cpu`"


def examine_computer(arguments: DoctorArguments) -> None:
    """Does what `tinyv doctor` says.

    Raises:
        DeviceError: a card was asked for and cannot be used; the report has been written.
        WeightsError: the folder of variants cannot be read.
    """
    asked = arguments.device
    console = Console()
    findings = None if asked == "cpu" else look(asked)
    document, obstacle = make_document(findings)
    if arguments.json:
        console.write_json(document)
    else:
        console.write_line(to_report(document))
    if is_cuda(asked) and obstacle:
        raise DeviceError(obstacle.problem, f"{obstacle.hint}, {_USE_CPU}")


def make_document(findings: Findings | None) -> tuple[dict[str, Any], DeviceProblem | None]:
    """Everything that is reported, and what stands between this computer and CUDA.

    Args:
        findings: about CUDA and one card; None where nobody asks for it.
    """
    cuda, obstacle = describe_cuda(findings) if findings else (None, None)
    free_bytes = findings.torch.free_bytes if findings and obstacle is None else None
    document = {
        "cpu": describe_cpu(),
        "cuda": cuda,
        "versions": {
            "python": platform.python_version(),
            **{name: read_version(name) for name in PACKAGES},
        },
        "home": describe_home(home_dir()),
        "variants": [describe_variant(each, free_bytes) for each in list_named_variants()],
    }
    return document, obstacle


def describe_cpu() -> dict[str, Any]:
    """The processor and its memory, after one product in onnxruntime."""
    from tinyv_cli.backends.backend import resolve_threads
    from tinyv_cli.backends.cpu.onnx_sessions import adds_wrongly
    from tinyv_cli.benchmark.machine import read_processor_name

    memory = psutil.virtual_memory()
    return {
        "processor": read_processor_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(logical=False),
        "threads": resolve_threads(None),
        "memory_bytes": memory.total,
        "free_bytes": memory.available,
        "fast_8bit_products_are_exact": not adds_wrongly(),
    }


def describe_cuda(findings: Findings) -> tuple[dict[str, Any], DeviceProblem | None]:
    """Driver, cards and what torch makes of one, after a product on it where that can be computed.

    Returns:
        A document, and why CUDA cannot be used; None where it can.
    """
    driver, torch, device = findings.driver, findings.torch, to_cuda_name(findings.number)
    obstacle, product_error = find_problem(findings), None
    if obstacle is None:
        product_error, obstacle = try_product(device)
    document = {
        "is_usable": obstacle is None,
        "problem": obstacle.problem if obstacle else None,
        "hint": obstacle.hint if obstacle else None,
        "device": device,
        "driver_cuda": driver.cuda,
        "cards": [
            {
                "device": to_cuda_name(number),
                "name": card.name,
                "memory_bytes": card.memory_bytes,
                "architecture": devices.to_architecture(card.capability),
            }
            for number, card in enumerate(driver.gpus)
        ],
        "torch_cuda": torch.cuda,
        "torch_architectures": list(torch.architectures),
        "free_bytes": torch.free_bytes or None,
        "product_error": product_error,
    }
    return document, obstacle


def try_product(device: str) -> tuple[float | None, DeviceProblem | None]:
    """Lets a card multiply two matrices.

    Returns:
        The relative error, None where no number came out; and what is wrong, None if nothing is.
    """
    from tinyv_cli.devices.torch_probe import LARGEST_PRODUCT_ERROR, measure_product_error

    hint = "update the driver, and look whether other programs can use the GPU"
    try:
        error = measure_product_error(device)
    except RuntimeError as failure:
        reason = str(failure).strip().partition("\n")[0]
        return None, DeviceProblem(f"the GPU cannot multiply two matrices: {reason}", hint)
    if error <= LARGEST_PRODUCT_ERROR:
        return error, None
    told = error if math.isfinite(error) else None  # JSON has no other numbers
    return told, DeviceProblem(f"the GPU multiplies wrongly: an error of {error:.3g}", hint)


def describe_home(home: Path) -> dict[str, Any]:
    """Where tinyv keeps its files, and how much room is there."""
    existing = next(each for each in (home, *home.parents) if each.exists())
    return {"folder": str(home), "free_bytes": shutil.disk_usage(existing).free}


def describe_variant(
    variant: Variant | DamagedVariant, cuda_free_bytes: int | None
) -> dict[str, Any]:
    """Which devices a variant can compute on; `damaged` is null for a sound one.

    Args:
        variant: or why it cannot be read.
        cuda_free_bytes: None where no card can be used.
    """
    if isinstance(variant, DamagedVariant):
        damage = {"problem": variant.error.problem, "hint": variant.error.hint}
        return {"name": variant.name, "folder": str(variant.folder), "damaged": damage}
    free_bytes = {"cpu": None, "cuda": cuda_free_bytes}
    return {
        "name": variant.name,
        "folder": str(variant.folder),
        "size_bytes": variant.manifest.size_bytes,
        "bits": variant.manifest.bits,
        "devices": {
            device: describe_fit(variant, device, free_bytes[device]) for device in variant.devices
        },
        "damaged": None,
    }


def describe_fit(variant: Variant, device: str, cuda_free_bytes: int | None) -> dict[str, Any]:
    """Whether a variant fits a device's memory with its whole context; nulls where none is there.

    Returns:
        `fits`; `needed_bytes` where it does, with one side after the other where `takes_turns`;
        `problem` where it does not.
    """
    fit = {"fits": None, "needed_bytes": None, "takes_turns": None, "problem": None}
    if device == "cuda" and cuda_free_bytes is None:
        return fit | {"problem": "no card can be used here"}
    length = variant.manifest.spec.language.context_length
    try:
        plan = plan_memory(variant, length, None, encodes=True, cuda_free_bytes=cuda_free_bytes)
    except DeviceError as error:
        return fit | {"fits": False, "problem": error.problem}
    found = {"fits": True, "needed_bytes": plan.needed_bytes, "takes_turns": plan.is_offloaded}
    return fit | found


def to_report(document: dict[str, Any]) -> str:
    """The document for people, in several lines."""
    cpu, versions, home = document["cpu"], document["versions"], document["home"]
    is_exact = "exact" if cpu["fast_8bit_products_are_exact"] else "not exact, slower ones are used"
    found = ", ".join(f"{name} {each}" for name, each in versions.items() if each)
    lines = [
        f"cpu       {cpu['processor']}, {cpu['system']}, cores: {cpu['cores']}, "
        f"threads: {cpu['threads']}",
        f"          {to_size(cpu['free_bytes'])} of {to_size(cpu['memory_bytes'])} free",
        f"          one product computed; fast 8-bit products are {is_exact}",
        *(_list_cuda_lines(document["cuda"]) if document["cuda"] else []),
        f"versions  {found}",
        f"home      {home['folder']}, {to_size(home['free_bytes'])} free",
        "",
        to_variant_table(document["variants"]),
    ]
    return "\n".join(lines)


def _list_cuda_lines(cuda: dict[str, Any]) -> list[str]:
    """The lines about CUDA."""
    lines = [
        f"cuda:{number} {card['name']} ({card['architecture']}), {to_size(card['memory_bytes'])}"
        for number, card in enumerate(cuda["cards"])
    ]
    if cuda["driver_cuda"]:
        lines.append(f"the driver runs CUDA {cuda['driver_cuda']}")
    if cuda["torch_cuda"]:
        kernels = ", ".join(cuda["torch_architectures"]) or "no architecture that can be told"
        lines.append(f"torch is built with CUDA {cuda['torch_cuda']}, for {kernels}")
    if cuda["product_error"] is not None:
        lines.append(
            f"one product computed on {cuda['device']}, relative error {cuda['product_error']:.1e}"
        )
    if cuda["is_usable"]:
        lines.append(f"{cuda['device']} is usable, {to_size(cuda['free_bytes'])} free")
    else:
        which = f"{cuda['device']} is " if cuda["cards"] else ""
        lines += [f"{which}not usable: {cuda['problem']}", f"way out: {cuda['hint']}"]
    return [f"{'' if place else 'cuda':<10}{line}" for place, line in enumerate(lines)]


def to_variant_table(variants: list[dict[str, Any]]) -> str:
    """A line a variant: whether it fits each device's memory, with its whole context."""
    if not variants:
        return f"there is no variant; {HOW_TO_MAKE_ONE}"
    rows, damaged = [], []
    for each in variants:
        if each["damaged"]:
            damaged.append(f"{each['name']}  damaged: {each['damaged']['problem']}")
            continue
        cells = [_to_cell(each["devices"].get(device)) for device in ("cpu", "cuda")]
        rows.append([each["name"], to_size(each["size_bytes"]), str(each["bits"]), *cells])
    table = [to_table(["variant", "size", "bits", "cpu", "cuda"], rows)] if rows else []
    return "\n".join([*table, *damaged])


def _to_cell(fit: dict[str, Any] | None) -> str:
    """Whether a variant runs on one device."""
    if fit is None:
        return "no files"
    if fit["fits"] is None:
        return "no card"
    if not fit["fits"]:
        return "too large"
    return f"{to_size(fit['needed_bytes'])}" + (" in turns" if fit["takes_turns"] else "")
