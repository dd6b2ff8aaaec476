"""Plain values for the answers of driver and torch about this computer's GPUs; asks neither."""

from dataclasses import dataclass, field

from tinyv_cli.devices.driver import Driver
from tinyv_cli.variants.memory import GpuMemory

# The first architecture that multiplies int8, Turing. Source: bitsandbytes' requirements for
# LLM.int8().
INT8_CAPABILITY = (7, 5)


@dataclass(frozen=True)
class KernelFindings:
    """The end of a trial of bitsandbytes' kernels on a GPU.

    Attributes:
        errors: relative, of a row multiplied with a matrix of each kind, `nf4` and `int8`.
        problem: why they cannot be used; None where they can.
    """

    errors: dict[str, float] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class TorchFindings:
    """Findings of torch about one GPU.

    Attributes:
        version: of torch; None where it is not installed.
        cuda: that it was built with; None of a build without CUDA.
        import_error: why it cannot be imported; None where it can.
        refusal: why it reaches no GPU; None where it reaches one.
        architectures: that it brings kernels for, as `sm_86` or `compute_90`.
        gpu_name: as the GPU's maker calls it.
        capability: the GPU's architecture, (8, 6) is `sm_86`.
        free_bytes: of the GPU's memory, beside the context that asking has made.
        bitsandbytes_problem: why its kernels are missing; None where they are not.
        bitsandbytes_told: what it logged when it looked for its CUDA library.
    """

    version: str | None
    cuda: str | None = None
    import_error: str | None = None
    refusal: str | None = None
    architectures: tuple[str, ...] = ()
    gpu_name: str = ""
    capability: tuple[int, int] = (0, 0)
    free_bytes: int = 0
    bitsandbytes_problem: str | None = None
    bitsandbytes_told: tuple[str, ...] = ()

    @property
    def gpu_memory(self) -> GpuMemory:
        """Returns what a plan of the GPU's memory depends on."""
        return GpuMemory(self.free_bytes, self.capability >= INT8_CAPABILITY)


@dataclass(frozen=True)
class Findings:
    """Findings of driver and torch about CUDA on this computer.

    Attributes:
        driver: as it answers without torch.
        torch: as of a torch that is not installed, where it was not asked.
        number: of the GPU that was looked at, as CUDA counts.
        kernels: tried on it; None where something else stands in the way.
    """

    driver: Driver
    torch: TorchFindings = TorchFindings(None)
    number: int = 0
    kernels: KernelFindings | None = None
