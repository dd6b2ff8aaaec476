"""A device's name and a budget become torch's limit, its lock, and errors with figures."""

from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock

import torch

from tinyv_cli.console import to_size
from tinyv_cli.errors import DeviceError

_TURING = (7, 5)
_OUT_OF_MEMORY = "CUBLAS_STATUS_ALLOC_FAILED"  # torch's error where cuBLAS finds no memory


class TorchDevice:
    """A torch device with a memory budget and a lock.

    Attributes:
        name: as torch takes it.
        number: of the GPU, as CUDA counts; 0 without one.
        is_cuda: whether it is a GPU.
        dtype: of activations.
        lock: is held while a picture is encoded or a step recorded, since memory that another
            thread takes on the GPU can break a recording.

    Args:
        name: `cuda`, which is GPU 0, or `cuda:1`; `cpu` for tests.
        budget_bytes: what may be taken of a GPU; None takes all of it.
    """

    def __init__(self, name: str, budget_bytes: int | None = None) -> None:
        self.name = name
        self.number = torch.device(name).index or 0
        self.is_cuda = torch.device(name).type == "cuda"
        self.dtype = torch.float16 if self.is_cuda else torch.float32
        self.lock = Lock()
        self._budget_bytes = budget_bytes

    def limit_memory(self) -> None:
        """Limits what torch takes of a GPU to the budget, for the rest of the process.

        What fits under the limit fits on a GPU of that size, but for what the driver takes.

        Raises:
            DeviceError: torch finds no GPU.
        """
        if not self.is_cuda:
            return
        if not torch.cuda.is_available():
            raise DeviceError(
                "torch finds no GPU", "`tinyv doctor` says why, or use `--device cpu`"
            )
        total_bytes = torch.cuda.get_device_properties(self.number).total_memory
        share = 1.0 if self._budget_bytes is None else min(1.0, self._budget_bytes / total_bytes)
        # By its number: this function of torch's refuses a name without one, which `cuda` is.
        torch.cuda.set_per_process_memory_fraction(share, self.number)

    def free_memory(self) -> None:
        """Returns to a GPU the memory that torch keeps for later."""
        if self.is_cuda:
            torch.cuda.empty_cache()

    @contextmanager
    def translate_errors(self, doing: str) -> Generator[None]:
        """Translates torch's error about memory into one with figures and a way out.

        Args:
            doing: the work inside, for the message: `loading the language model`.

        Raises:
            DeviceError: memory ran out.
        """
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY in str(error)):
                raise
            figures = ""
            if self.is_cuda:
                taken_bytes = torch.cuda.memory_allocated(self.number)
                free_bytes, total_bytes = torch.cuda.mem_get_info(self.number)
                budget_bytes = total_bytes if self._budget_bytes is None else self._budget_bytes
                figures = (
                    f": {to_size(taken_bytes, 2)} of {to_size(budget_bytes, 2)} allowed are taken, "
                    f"{to_size(free_bytes, 2)} of its {to_size(total_bytes, 2)} are free"
                )
            raise DeviceError(
                f"the GPU's memory ran out while {doing}{figures}",
                "close what else uses the GPU, give it more with `--memory-budget`, take a "
                "shorter context with `--ctx-size 1024`, or use `--device cpu`",
            ) from error


def has_int8_products(device: str) -> bool:
    """Checks whether a device multiplies matrices of int8: the CPU does, and GPUs from Turing on.

    Source: bitsandbytes' requirements for LLM.int8().
    """
    asked = torch.device(device)
    return asked.type != "cuda" or torch.cuda.get_device_capability(asked) >= _TURING
