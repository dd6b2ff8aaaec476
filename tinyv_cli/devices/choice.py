"""A device's name and findings of driver and torch become the device that computes.

torch is asked only where the driver shows a GPU and the variant has files for one: importing it
takes seconds, and answering on a CPU needs none of it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from tinyv_cli.console import to_size
from tinyv_cli.devices import driver
from tinyv_cli.devices.driver import DeviceProblem
from tinyv_cli.devices.findings import Findings, TorchFindings
from tinyv_cli.devices.kernels import examine_kernels
from tinyv_cli.devices.names import find_cuda_number, read_device, to_cuda_name
from tinyv_cli.errors import DeviceError
from tinyv_cli.variants.manifest import Variant
from tinyv_cli.variants.memory import GpuMemory, MemoryPlan, Room, plan_memory

_MAKE_CPU_FILES = "make a variant for the CPU: `tinyv quantize --target cpu`"
# What pip takes by itself is built without CUDA on Windows, on Linux for CUDA 13: driver 580,
# Turing and newer. The build for 12.6 runs with older drivers, and on Maxwell to Volta, too.
_OTHER_TORCH = (
    "install the build for CUDA 12.6: `pip install --force-reinstall 'torch<2.14' "
    "--index-url https://download.pytorch.org/whl/cu126`"
)
_NEWEST_FOR_12_6 = (9, 0)
_NEWER_TORCH = "take a newer torch: `pip install --upgrade torch`"
_UNMEASURED_BITS = 8  # nine small kernels a matrix; to stay until within 1.8 × 4 bits a token
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)(a?)")


@dataclass(frozen=True)
class Choice:
    """The device that a variant computes on.

    Attributes:
        device: `cpu`, `cuda` or another GPU's name, as `cuda:1`.
        reason: one line for the user; None where there was nothing to choose.
        memory: planned on the GPU; None on the CPU, whose memory is planned apart.
    """

    device: str
    reason: str | None = None
    memory: MemoryPlan | None = None


def choose_device(
    variant: Variant,
    asked: str,
    budget_bytes: int | None = None,
    *,
    room: Room | None = None,
    encodes: Callable[[], bool] = lambda: True,
    may_offload: bool = False,
) -> Choice:
    """Finds out where a variant computes, before anything of it is opened.

    Args:
        variant: that is to answer.
        asked: `auto`, `cpu`, `cuda`, or a GPU by its number: `cuda:1`.
        budget_bytes: of the GPU's memory; None for what is free, 8 GiB at most.
        room: for keys and values on a GPU; None for one context of the model's own length.
        encodes: whether a picture must be encoded on a GPU; called where there is one.
        may_offload: whether the vision side may be given back before the decoder is opened.

    Raises:
        UsageError: there is no such device.
        DeviceError: what was asked for cannot be used, or nothing that `auto` may take.
    """
    asked = read_device(asked)
    if asked == "cpu":
        if _has_cuda_only(variant):
            raise DeviceError(f"{variant.name} has files for CUDA only", _MAKE_CPU_FILES)
        return Choice("cpu")
    problem = None if asked != "auto" else _explain_turning_away(variant)
    if problem:
        if not driver.has_gpu():
            return Choice("cpu")  # nothing is said where there was nothing to choose
        return _turn_to_cpu(variant, problem)
    wanted = room or Room(variant.manifest.spec.language.context_length)

    def plan(gpu: GpuMemory) -> MemoryPlan:
        return plan_memory(
            variant,
            wanted,
            budget_bytes,
            encodes=encodes(),
            gpu=gpu,
            may_offload=may_offload,
        )

    return decide(variant, asked, look(asked, variant), plan)


def look(asked: str, variant: Variant | None = None) -> Findings:
    """Asks the driver, and torch about one GPU where that can matter.

    Args:
        asked: which GPU; `auto` means the first.
        variant: that is to answer; None looks as if it had files for CUDA, and tries what is
            remembered else.
    """
    number = find_cuda_number(asked) or 0
    found = driver.read_driver()
    if number >= len(found.gpus) or (variant and "cuda" not in variant.devices):
        return Findings(found, number=number)
    findings = Findings(found, read_torch(number), number)
    if find_problem(findings):
        return findings
    kernels = examine_kernels(findings, read_version("bitsandbytes"), again=variant is None)
    return replace(findings, kernels=kernels)


def read_torch(number: int) -> TorchFindings:
    """Asks torch about a GPU, where it is installed and can be imported."""
    if find_spec("torch") is None:
        return TorchFindings(None)
    try:
        from tinyv_cli.devices.torch_probe import probe_torch

        return probe_torch(number)
    except (ImportError, OSError) as error:  # a library that it links to is missing or damaged
        reason = str(error).partition("\n")[0]
        return TorchFindings(read_version("torch") or "unknown", import_error=reason)


def read_version(package: str) -> str | None:
    """Returns the version of a package, which is not imported; None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def decide(
    variant: Variant, asked: str, findings: Findings, plan: Callable[[GpuMemory], MemoryPlan]
) -> Choice:
    """Chooses between GPU and CPU.

    Args:
        variant: that is to answer.
        asked: `auto` or a GPU.
        findings: of this computer and that GPU.
        plan: plans the memory of a GPU, or raises a `DeviceError`.

    Raises:
        DeviceError: CUDA was asked for and is not usable, or nothing is.
    """
    problem = find_problem(findings, variant)
    if problem is None:
        try:
            memory = plan(findings.torch.gpu_memory)
        except DeviceError as error:
            problem = DeviceProblem(error.problem, error.hint)
        else:
            reason = (
                f"{variant.name} computes on the GPU, {findings.torch.gpu_name}: about "
                f"{to_size(memory.needed_bytes, 2)} of its memory are needed, "
                f"{to_size(memory.limit_bytes, 2)} may be taken"
            )
            name = to_cuda_name(findings.number)
            return Choice(name, reason if asked == "auto" else None, memory)
    if asked != "auto" or _has_cuda_only(variant):
        other = _MAKE_CPU_FILES if _has_cuda_only(variant) else "use `--device cpu`"
        raise DeviceError(problem.problem, f"{problem.hint}, or {other}")
    return _turn_to_cpu(variant, problem)


def find_problem(findings: Findings, variant: Variant | None = None) -> DeviceProblem | None:
    """Returns what keeps this computer from CUDA, the cheapest thing to find out first.

    Args:
        findings: of this computer and one GPU.
        variant: that is to answer; None leaves out whether its files are for CUDA.
    """
    there, torch = findings.driver, findings.torch
    if there.problem:
        return there.problem
    if findings.number >= len(there.gpus):
        names = ", ".join(f"cuda:{number} {gpu.name}" for number, gpu in enumerate(there.gpus))
        problem = f"there is no GPU cuda:{findings.number}, the driver sees {len(there.gpus)}: "
        return DeviceProblem(problem + names, "use one of them")
    if variant and "cuda" not in variant.devices:
        return _explain_missing_files(variant)
    name = f"torch {torch.version}"
    if torch.version is None:
        hint = "install it: `pip install 'tinyv[cuda]'`"
        return DeviceProblem("torch is not installed, which CUDA needs", hint)
    if torch.import_error:
        problem = f"{name} cannot be imported: {torch.import_error}"
        return DeviceProblem(problem, "install it again: `pip install --force-reinstall torch`")
    if torch.cuda is None:
        return DeviceProblem(f"{name} is built without CUDA", _OTHER_TORCH)
    if torch.refusal:
        problem = f"{name}, built with CUDA {torch.cuda}, cannot use the driver, "
        problem += f"which runs CUDA {there.cuda}: {torch.refusal}"
        return DeviceProblem(problem, f"update the driver, or {_OTHER_TORCH}")
    if not has_kernels(torch.capability, torch.architectures):
        own, others = to_architecture(torch.capability), ", ".join(torch.architectures) or "none"
        problem = f"{name} has no kernels for {torch.gpu_name} ({own}), only for {others}"
        is_newer = torch.capability > _NEWEST_FOR_12_6
        return DeviceProblem(problem, _NEWER_TORCH if is_newer else _OTHER_TORCH)
    if torch.bitsandbytes_problem:
        hint = "install it: `pip install --force-reinstall bitsandbytes`"
        return DeviceProblem(torch.bitsandbytes_problem, hint)
    if findings.kernels and findings.kernels.problem:
        hint = (
            "update the driver or `pip install --upgrade bitsandbytes`; `tinyv doctor` looks anew"
        )
        return DeviceProblem(findings.kernels.problem, hint)
    return None


def _explain_turning_away(variant: Variant) -> DeviceProblem | None:
    """Returns why `auto` leaves a GPU alone without looking at it; None where it does not."""
    if "cuda" not in variant.devices:
        return _explain_missing_files(variant)
    if variant.manifest.bits == _UNMEASURED_BITS and not _has_cuda_only(variant):
        problem = f"{_UNMEASURED_BITS} bits were not measured on a GPU yet"
        return DeviceProblem(problem, "`--device cuda` computes there, 4 bits do by themselves")
    return None


def _explain_missing_files(variant: Variant) -> DeviceProblem:
    hint = "make a variant that has: `tinyv quantize --target all`"
    return DeviceProblem(f"{variant.name} has no files for CUDA", hint)


def _turn_to_cpu(variant: Variant, problem: DeviceProblem) -> Choice:
    reason = f"{variant.name} computes on the CPU: {problem.problem}; {problem.hint}"
    return Choice("cpu", reason)


def _has_cuda_only(variant: Variant) -> bool:
    return variant.devices == ("cuda",)


def to_architecture(capability: tuple[int, int]) -> str:
    """Writes a GPU's architecture as torch does: (8, 6) → `sm_86`."""
    return "sm_{}{}".format(*capability)


def has_kernels(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Checks whether kernels for these architectures run on a GPU.

    Machine code (`sm_`) runs on GPUs of the same major number and the same minor one or a higher,
    with an `a` behind it on that very architecture alone. What is compiled when it is loaded
    (`compute_`) runs on every later GPU. So comparing names would refuse an 8.6 GPU to a torch that
    brings `sm_80`.

    Args:
        capability: the GPU's major and minor number.
        architectures: as `torch.cuda.get_arch_list` gives them.

    Source: CUDA C++ Programming Guide, "Binary Compatibility", "PTX Compatibility",
    "Architecture-Specific Features".
    """
    for found in filter(None, map(_ARCHITECTURE.fullmatch, architectures)):
        compiled = int(found[2]), int(found[3])
        serves_later = found[4] != "a" and (compiled[0] == capability[0] or found[1] == "compute")
        if compiled == capability or (compiled < capability and serves_later):
            return True
    return False
