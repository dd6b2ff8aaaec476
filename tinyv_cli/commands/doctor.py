"""This computer and its variants become a report, or one document: what can compute here.

No weights are opened; what is computed is one small product on each device.
"""

import math
import platform
import shutil
from typing import Any

import psutil

from tinyv_cli.console import Console, to_size, to_table
from tinyv_cli.devices.choice import find_problem, look, read_version, to_architecture
from tinyv_cli.devices.driver import DeviceProblem
from tinyv_cli.devices.findings import Findings
from tinyv_cli.devices.names import is_cuda, to_cuda_name
from tinyv_cli.disk.places import home_dir
from tinyv_cli.errors import DeviceError
from tinyv_cli.machine.memory import check_address_space, read_main_memory
from tinyv_cli.options.report import DoctorArguments
from tinyv_cli.variants.home import HOW_TO_MAKE_ONE, DamagedVariant, list_named_variants
from tinyv_cli.variants.manifest import Variant
from tinyv_cli.variants.memory import GpuMemory, Room, plan_memory

PACKAGES = ("tinyv", "onnxruntime", "numpy", "tokenizers", "torch", "bitsandbytes")
_LIBRARY_BYTES = 150_000_000  # of addresses, that numpy takes, which ends the process without
_USE_CPU = "or use `--device cpu`"


def examine_computer(arguments: DoctorArguments) -> None:
    """Runs `tinyv doctor`.

    Raises:
        DeviceError: a GPU was asked for and cannot be used; the report has been written. Or this
            process may not have the memory that libraries take.
        WeightsError: the folder of variants cannot be read.
    """
    check_address_space("the report", _LIBRARY_BYTES)
    asked = arguments.device
    console = Console()
    findings = None if asked == "cpu" else look(asked)
    document, problem = describe_computer(findings)
    if arguments.json:
        console.write_json(document)
    else:
        console.write_line(format_report(document))
    if is_cuda(asked) and problem:
        raise DeviceError(problem.problem, f"{problem.hint}, {_USE_CPU}")


def describe_computer(findings: Findings | None) -> tuple[dict[str, Any], DeviceProblem | None]:
    """Collects everything that is reported, after one product in onnxruntime.

    Args:
        findings: about CUDA and one GPU; None where only the CPU is asked for.

    Returns:
        The document that `--json` prints, and why CUDA cannot be used; None where it can.
    """
    from tinyv_cli.backends.backend import resolve_threads
    from tinyv_cli.backends.cpu.onnx_sessions import adds_wrongly
    from tinyv_cli.benchmark.machine import read_processor_name

    cuda, problem = describe_cuda(findings) if findings else (None, None)
    gpu = findings.torch.gpu_memory if findings and problem is None else None
    memory, home = read_main_memory(), home_dir()
    existing = next(each for each in (home, *home.parents) if each.exists())
    document = {
        "cpu": {
            "processor": read_processor_name(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": psutil.cpu_count(logical=False),
            "threads": resolve_threads(None),
            "memory_bytes": memory.total_bytes,
            "free_bytes": memory.available_bytes,
            "fast_8bit_products_are_exact": not adds_wrongly(),
        },
        "cuda": cuda,
        "versions": {
            "python": platform.python_version(),
            **{name: read_version(name) for name in PACKAGES},
        },
        "home": {"folder": str(home), "free_bytes": shutil.disk_usage(existing).free},
        "variants": [describe_variant(each, gpu) for each in list_named_variants()],
    }
    return document, problem


def describe_cuda(findings: Findings) -> tuple[dict[str, Any], DeviceProblem | None]:
    """Describes driver, GPUs and what torch makes of one; multiplies on it where that can be done.

    Returns:
        A document, and why CUDA cannot be used; None where it can.
    """
    driver, torch, device = findings.driver, findings.torch, to_cuda_name(findings.number)
    problem, product_error = find_problem(findings), None
    if problem is None:
        product_error, problem = try_product(device)
    document = {
        "is_usable": problem is None,
        "problem": problem.problem if problem else None,
        "hint": problem.hint if problem else None,
        "device": device,
        "driver_cuda": driver.cuda,
        "cards": [
            {
                "device": to_cuda_name(number),
                "name": gpu.name,
                "memory_bytes": gpu.memory_bytes,
                "architecture": to_architecture(gpu.capability),
            }
            for number, gpu in enumerate(driver.gpus)
        ],
        "torch_cuda": torch.cuda,
        "torch_architectures": list(torch.architectures),
        "free_bytes": torch.free_bytes or None,
        "product_error": product_error,
        "bitsandbytes_told": list(torch.bitsandbytes_told),
        "row_errors": findings.kernels.errors if findings.kernels else {},
    }
    return document, problem


def try_product(device: str) -> tuple[float | None, DeviceProblem | None]:
    """Multiplies two matrices on a GPU.

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


def describe_variant(variant: Variant | DamagedVariant, gpu: GpuMemory | None) -> dict[str, Any]:
    """Describes a variant and whether it fits each device's memory with its whole context.

    Args:
        variant: or why it cannot be read.
        gpu: None where no GPU can be used.

    Returns:
        A document; `damaged` is null for a sound variant. Of each device `fits`, null where it is
        not there; `needed_bytes` where it fits, with one side after the other where `takes_turns`;
        `problem` where it does not.
    """
    about = {"name": variant.name, "folder": str(variant.folder)}
    if isinstance(variant, DamagedVariant):
        damage = {"problem": variant.error.problem, "hint": variant.error.hint}
        return {**about, "damaged": damage}
    manifest = variant.manifest
    devices: dict[str, dict[str, Any]] = {}
    for device in variant.devices:
        fit: dict[str, Any] = dict.fromkeys(("fits", "needed_bytes", "takes_turns", "problem"))
        try:
            if device == "cuda" and gpu is None:
                fit["problem"] = "no GPU can be used here"
            else:
                room = Room(manifest.spec.language.context_length)
                memory = gpu if device == "cuda" else None
                plan = plan_memory(variant, room, None, encodes=True, gpu=memory)
                fit |= {"fits": True, "needed_bytes": plan.needed_bytes}
                fit["takes_turns"] = plan.is_offloaded
        except DeviceError as error:
            fit |= {"fits": False, "problem": error.problem}
        devices[device] = fit
    sizes = {"size_bytes": manifest.size_bytes, "bits": manifest.bits}
    return {**about, **sizes, "devices": devices, "damaged": None}


def format_report(document: dict[str, Any]) -> str:
    """Formats the document for people, in several lines."""
    cpu, cuda, versions, home = (document[key] for key in ("cpu", "cuda", "versions", "home"))
    is_exact = "exact" if cpu["fast_8bit_products_are_exact"] else "not exact, slower ones are used"
    lines = [
        f"cpu       {cpu['processor']}, {cpu['system']}, cores: {cpu['cores']}, "
        f"threads: {cpu['threads']}",
        f"          {to_size(cpu['free_bytes'])} of {to_size(cpu['memory_bytes'])} free",
        f"          one product computed; fast 8-bit products are {is_exact}",
    ]
    if cuda:
        device, about = cuda["device"], []
        for number, gpu in enumerate(cuda["cards"]):
            size = to_size(gpu["memory_bytes"])
            about.append(f"cuda:{number} {gpu['name']} ({gpu['architecture']}), {size}")
        if cuda["driver_cuda"]:
            about.append(f"the driver runs CUDA {cuda['driver_cuda']}")
        if cuda["torch_cuda"]:
            kernels = ", ".join(cuda["torch_architectures"]) or "an unknown architecture"
            about.append(f"torch is built with CUDA {cuda['torch_cuda']}, for {kernels}")
        about += [f"bitsandbytes: {line}" for line in cuda["bitsandbytes_told"]]
        if cuda["product_error"] is not None:
            error = f"relative error {cuda['product_error']:.1e}"
            about.append(f"one product computed on {device}, {error}")
        if cuda["row_errors"]:
            errors = ", ".join(f"{name} {each:.1e}" for name, each in cuda["row_errors"].items())
            about.append(f"one row multiplied with each kind of matrix, relative errors {errors}")
        if cuda["is_usable"]:
            about.append(f"{device} is usable, {to_size(cuda['free_bytes'])} free")
        else:
            which = f"{device} is " if cuda["cards"] else ""
            about += [f"{which}not usable: {cuda['problem']}", f"way out: {cuda['hint']}"]
        lines += [f"{'' if place else 'cuda':<10}{line}" for place, line in enumerate(about)]
    found = ", ".join(f"{name} {each}" for name, each in versions.items() if each)
    lines += [
        f"versions  {found}",
        f"home      {home['folder']}, {to_size(home['free_bytes'])} free",
        "",
        format_variants(document["variants"]),
    ]
    return "\n".join(lines)


def format_variants(variants: list[dict[str, Any]]) -> str:
    """Formats a line a variant: whether it fits each device's memory, with its whole context."""
    if not variants:
        return f"there is no variant; {HOW_TO_MAKE_ONE}"
    rows, damaged = [], []
    for each in variants:
        if each["damaged"]:
            damaged.append(f"{each['name']}  damaged: {each['damaged']['problem']}")
            continue
        row = [each["name"], to_size(each["size_bytes"]), str(each["bits"])]
        for device in ("cpu", "cuda"):
            fit = each["devices"].get(device)
            if fit is None:
                row.append("no files")
            elif fit["fits"]:
                turns = " in turns" if fit["takes_turns"] else ""
                row.append(to_size(fit["needed_bytes"]) + turns)
            else:
                row.append("no GPU" if fit["fits"] is None else "too large")
        rows.append(row)
    table = [to_table(["variant", "size", "bits", "cpu", "cuda"], rows)] if rows else []
    return "\n".join([*table, *damaged])
