"""A device's name and a budget become torch's limit, its lock, and errors with figures."""

import gc
import re
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock

import torch

from tinyv_cli.console import to_size
from tinyv_cli.devices.findings import INT8_CAPABILITY
from tinyv_cli.errors import DeviceError
from tinyv_cli.variants.memory import CUDA_OUTSIDE_BYTES

# What torch's allocator does not raise itself: kernels loaded when they first run, pinned memory,
# recorded steps, and libraries of products and convolutions.
_OUT_OF_MEMORY = re.compile(r"out of memory|_ALLOC(ATION)?_FAILED")

# torch's allocator of pinned memory goes on asking them whether they record, alive or not.
_failed_graphs: list[torch.cuda.CUDAGraph] = []


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
        """Limits what torch takes of a GPU, for the rest of the process.

        The limit is the budget, or less where not so much is free: what takes memory past torch is
        left `CUDA_OUTSIDE_BYTES`. What fits under it fits on a GPU of that size, but for what the
        driver takes.

        Raises:
            DeviceError: torch finds no GPU.
        """
        if not self.is_cuda:
            return
        if not torch.cuda.is_available():
            raise DeviceError(
                "torch finds no GPU", "`tinyv doctor` says why, or use `--device cpu`"
            )
        free_bytes, total_bytes = torch.cuda.mem_get_info(self.number)
        most_bytes = free_bytes + torch.cuda.memory_reserved(self.number) - CUDA_OUTSIDE_BYTES
        if self._budget_bytes is not None:
            most_bytes = min(most_bytes, self._budget_bytes)
        # By its number: this function of torch's refuses a name without one, which `cuda` is.
        share = max(0, most_bytes) / total_bytes
        torch.cuda.set_per_process_memory_fraction(share, self.number)

    def make_stream(self) -> torch.cuda.Stream | None:
        """Makes a stream of a GPU's; None elsewhere, where nothing runs beside anything else."""
        if not self.is_cuda:
            return None
        return torch.cuda.Stream(self.number)  # type: ignore[no-untyped-call]

    def use_stream(self, stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
        """Has this thread start its work on a stream; it waits for none that is under way."""
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def leave_recording(self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
        """Ends the state that a failed recording leaves torch's allocator in, and frees memory.

        With torch to 2.13 the allocator may go on as if it still recorded: it then gives no memory
        back when little is free, and `empty_cache` ends in an error.

        Source: pytorch's pull requests 180395 and 190308; `CUDAGraph::capture_end`.

        Args:
            graph: that failed; it is kept for good.
            pool: that was recorded to.

        Raises:
            DeviceError: it cannot be ended.
        """
        _failed_graphs.append(graph)
        try:
            torch._C._cuda_endAllocateToPool(self.number, pool)
            torch._C._cuda_releasePool(self.number, pool)
        except RuntimeError:
            pass  # it was ended
        gc.collect()
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceError(
                f"torch cannot free the GPU's memory after a failed recording: {to_line(error)}",
                "start again with steps that are not recorded: `export TINYV_CUDA_GRAPHS=0`",
            ) from error

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
            if not ran_out_of_memory(error):
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
    """Checks whether a device multiplies int8 matrices: the CPU does, and GPUs from Turing on."""
    asked = torch.device(device)
    return asked.type != "cuda" or torch.cuda.get_device_capability(asked) >= INT8_CAPABILITY


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Checks whether an error is about a GPU's memory, or came of one that is.

    A recording in which memory runs out can fail once more when it ends, for that reason.
    """
    if error is None:
        return False
    is_torchs = isinstance(error, torch.OutOfMemoryError)
    is_told = _OUT_OF_MEMORY.search(str(error)) is not None
    return is_torchs or is_told or ran_out_of_memory(error.__context__)


def to_line(error: BaseException) -> str:
    """Returns the first line of an error's text: torch's go on with advice."""
    return str(error).partition("\n")[0]
