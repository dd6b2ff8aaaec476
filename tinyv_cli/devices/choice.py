"""What was asked, and what driver and torch say, become the device that computes; opens nothing.

torch is asked only where the driver shows a card and the variant has files for one: importing it
takes seconds, and answering on a CPU needs none of it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NoReturn

from tinyv_cli.devices import driver as nvidia_driver
from tinyv_cli.devices.driver import DeviceProblem, Driver
from tinyv_cli.devices.findings import Findings, TorchFindings
from tinyv_cli.devices.names import find_cuda_number, read_device, to_cuda_name
from tinyv_cli.errors import DeviceError
from tinyv_cli.variants.manifest import Variant
from tinyv_cli.variants.memory import MemoryPlan, plan_memory

_MAKE_CUDA_FILES = "`tinyv quantize --target all`"
_INSTALL = "`pip install 'tinyv[cuda]'`"
_OTHER_TORCH = "https://pytorch.org/get-started shows how to install the build for a driver"
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)(a?)")


@dataclass(frozen=True)
class Choice:
    """Where a variant computes.

    Attributes:
        device: `cpu`, `cuda` or another card's name, as `cuda:1`.
        reason: one line for the user; None where there was nothing to choose.
        memory: planned on the card; None on the CPU, whose memory is planned apart.
    """

    device: str
    reason: str | None = None
    memory: MemoryPlan | None = None


def choose_device(
    variant: Variant,
    asked: str,
    budget_bytes: int | None = None,
    *,
    context_length: int | None = None,
    encodes: Callable[[], bool] = lambda: True,
    may_offload: bool = False,
) -> Choice:
    """Finds out where a variant computes, before anything of it is opened.

    Args:
        variant: that is to answer.
        asked: `auto`, `cpu`, `cuda`, or a card by its number: `cuda:1`.
        budget_bytes: of the card's memory; None for what is free, 8 GiB at most.
        context_length: positions that keys and values have room for; None for the model's own.
        encodes: tells whether a picture must be encoded on a card; asked where there is one.
        may_offload: whether the vision side may be given back before the decoder is opened.

    Raises:
        UsageError: there is no such device.
        DeviceError: what was asked for cannot be used, or nothing that `auto` may take.
    """
    asked = read_device(asked)
    if asked == "cpu":
        return _take_cpu(variant)
    if asked == "auto" and "cuda" not in variant.devices:
        return _pass_card_over(variant)
    longest = variant.manifest.spec.language.context_length
    n_positions = min(context_length or longest, longest)

    def plan(free_bytes: int) -> MemoryPlan:
        return plan_memory(
            variant,
            n_positions,
            budget_bytes,
            encodes=encodes(),
            cuda_free_bytes=free_bytes,
            may_offload=may_offload,
        )

    return decide(variant, asked, look(asked, variant), plan)


def look(asked: str, variant: Variant | None = None) -> Findings:
    """Asks the driver, and torch about one card where that can matter.

    Args:
        asked: which card; `auto` means the first.
        variant: that is to answer; None looks as if it had files for CUDA.
    """
    number = find_cuda_number(asked) or 0
    driver = nvidia_driver.read_driver()
    if number >= len(driver.gpus) or (variant and "cuda" not in variant.devices):
        return Findings(driver, number=number)
    return Findings(driver, read_torch(number), number)


def read_torch(number: int) -> TorchFindings:
    """Asks torch about a card, where it is installed and can be imported."""
    if find_spec("torch") is None:
        return TorchFindings(None)
    try:
        from tinyv_cli.devices.torch_probe import probe_torch

        return probe_torch(number)
    except (ImportError, OSError) as error:  # a library that it links to is missing or damaged
        reason = str(error).partition("\n")[0]
        return TorchFindings(read_version("torch") or "unknown", import_error=reason)


def read_version(package: str) -> str | None:
    """The version of a package that is installed; it is not imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def decide(
    variant: Variant, asked: str, findings: Findings, plan: Callable[[int], MemoryPlan]
) -> Choice:
    """Chooses between card and CPU.

    Args:
        variant: that is to answer.
        asked: `auto` or a card.
        findings: of this computer and that card.
        plan: plans the memory of a card with so many bytes free, or raises a `DeviceError`.

    Raises:
        DeviceError: CUDA was asked for and is not usable, or nothing is.
    """
    obstacle = find_problem(findings, variant)
    if obstacle is None:
        try:
            choice = _take_cuda(variant, findings, plan(findings.torch.free_bytes))
        except DeviceError as error:
            obstacle = DeviceProblem(error.problem, error.hint)
        else:
            return choice if asked == "auto" else replace(choice, reason=None)
    if asked != "auto" or _has_cuda_only(variant):
        _refuse(obstacle, variant)
    return _turn_to_cpu(variant, obstacle)


def _take_cuda(variant: Variant, findings: Findings, memory: MemoryPlan) -> Choice:
    """The card, and why."""
    reason = (
        f"{variant.name} computes on the GPU, {findings.torch.gpu_name}: about "
        f"{memory.needed_bytes / 1e9:.2f} GB of its memory are needed, "
        f"{memory.limit_bytes / 1e9:.2f} may be taken"
    )
    return Choice(to_cuda_name(findings.number), reason, memory)


def _pass_card_over(variant: Variant) -> Choice:
    """The CPU, for which alone there are files; a card that stays idle is worth a line."""
    if nvidia_driver.has_gpu():
        return _turn_to_cpu(variant, _explain_missing_files(variant))
    return Choice("cpu")


def _turn_to_cpu(variant: Variant, obstacle: DeviceProblem) -> Choice:
    """The CPU, and why not the card."""
    reason = f"{variant.name} computes on the CPU: {obstacle.problem}; {obstacle.hint}"
    return Choice("cpu", reason)


def find_problem(findings: Findings, variant: Variant | None = None) -> DeviceProblem | None:
    """What stands between this computer and CUDA, the cheapest thing to find out first.

    Args:
        findings: of this computer and one card.
        variant: that is to answer; None leaves out whether its files are for CUDA.
    """
    if findings.driver.problem:
        return findings.driver.problem
    if findings.number >= len(findings.driver.gpus):
        return _explain_missing_card(findings)
    if variant and "cuda" not in variant.devices:
        return _explain_missing_files(variant)
    return _find_torch_obstacle(findings.torch, findings.driver)


def _explain_missing_card(findings: Findings) -> DeviceProblem:
    """A number that no card has."""
    gpus = findings.driver.gpus
    names = ", ".join(f"cuda:{number} {card.name}" for number, card in enumerate(gpus))
    problem = f"there is no card cuda:{findings.number}, the driver sees {len(gpus)}: {names}"
    return DeviceProblem(problem, "use one of them")


def _explain_missing_files(variant: Variant) -> DeviceProblem:
    """A variant for the CPU alone."""
    problem = f"{variant.name} has no files for CUDA"
    return DeviceProblem(problem, f"make a variant that has: {_MAKE_CUDA_FILES}")


def _find_torch_obstacle(torch: TorchFindings, driver: Driver) -> DeviceProblem | None:
    """What torch lacks."""
    name = f"torch {torch.version}"
    if torch.version is None:
        return DeviceProblem("torch is not installed, which CUDA needs", f"install it: {_INSTALL}")
    if torch.import_error:
        problem = f"{name} cannot be imported: {torch.import_error}"
        return DeviceProblem(problem, "install it again: `pip install --force-reinstall torch`")
    if torch.cuda is None:
        return DeviceProblem(f"{name} is built without CUDA", _OTHER_TORCH)
    if torch.refusal:
        problem = f"{name}, built with CUDA {torch.cuda}, cannot use the driver, "
        problem += f"which runs CUDA {driver.cuda}: {torch.refusal}"
        return DeviceProblem(problem, f"update the driver, or take an older torch: {_OTHER_TORCH}")
    if not has_kernels(torch.capability, torch.architectures):
        problem = (
            f"{name} has no kernels for {torch.gpu_name} ({to_architecture(torch.capability)}), "
        )
        problem += f"only for {', '.join(torch.architectures) or 'none'}"
        return DeviceProblem(problem, f"take a torch that has them: {_OTHER_TORCH}")
    if torch.bitsandbytes_problem:
        hint = "install it: `pip install --force-reinstall bitsandbytes`"
        return DeviceProblem(torch.bitsandbytes_problem, hint)
    return None


def to_architecture(capability: tuple[int, int]) -> str:
    """A card's architecture as torch calls it: (8, 6) → `sm_86`."""
    return "sm_{}{}".format(*capability)


def has_kernels(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether kernels for these architectures run on a card.

    Machine code (`sm_`) runs on gpus of the same major number and the same minor one or a higher,
    with an `a` behind it on that very architecture alone. What is compiled when it is loaded
    (`compute_`) runs on every later card.

    Args:
        capability: the card's major and minor number.
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


def _take_cpu(variant: Variant) -> Choice:
    """The CPU, since it was asked for."""
    if _has_cuda_only(variant):
        raise DeviceError(
            f"{variant.name} has files for CUDA only",
            "make a variant for the CPU: `tinyv quantize --target cpu`",
        )
    return Choice("cpu")


def _has_cuda_only(variant: Variant) -> bool:
    return variant.devices == ("cuda",)


def _refuse(obstacle: DeviceProblem, variant: Variant) -> NoReturn:
    """Raises what is missing, with the CPU as the other way out where the variant has it."""
    if _has_cuda_only(variant):
        other = "make a variant for the CPU: `tinyv quantize --target cpu`"
    else:
        other = "use `--device cpu`"
    raise DeviceError(obstacle.problem, f"{obstacle.hint}, or {other}")
