"""A GPU's limit and its figures, through torch's own functions over a driver of two GPUs."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tinyv_cli.backends.cuda.torch_cuda import TorchEncoder
from tinyv_cli.backends.cuda.torch_device import TorchDevice, has_int8_products
from tinyv_cli.errors import DeviceError

GB = 10**9
GPUS = [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
EVERY_GPU = pytest.mark.parametrize(("name", "number"), GPUS)


@pytest.fixture
def limits(monkeypatch) -> list[tuple[float, int]]:
    """Replaces only what torch calls in C; gives limits as they are set.

    GPU 0 has 10 GB and is a Volta, GPU 1 has 20 and is a Turing.
    """
    told: list[tuple[float, int]] = []
    replaced = {
        "_cuda_getDevice": lambda: 0,
        "_cuda_setMemoryFraction": lambda share, number: told.append((share, number)),
        "_cuda_memoryStats": lambda number: {
            "allocated_bytes": {"all": {"current": (number + 1) * GB}}
        },
    }
    for name, function in replaced.items():
        monkeypatch.setattr(torch._C, name, function, raising=False)
    for module in (torch.cuda, torch.cuda.memory):
        monkeypatch.setattr(module, "_lazy_init", lambda: None)
        monkeypatch.setattr(module, "is_initialized", lambda: True)
    total = {0: 10 * GB, 1: 20 * GB}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda,
        "_get_device_properties",
        lambda number: SimpleNamespace(total_memory=total[number], major=7, minor=5 * number),
        raising=False,
    )
    runtime = SimpleNamespace(cudaMemGetInfo=lambda number: (total[number] // 2, total[number]))
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    return told


@EVERY_GPU
def test_the_budget_is_set_as_a_share_of_that_gpu(name, number, limits):
    TorchDevice(name, 4 * GB).limit_memory()
    assert limits == [(0.4 / (number + 1), number)]


@EVERY_GPU
@pytest.mark.parametrize("budget_bytes", [None, 50 * GB])
def test_without_a_budget_or_with_a_larger_one_300_mb_of_what_is_free_are_left(
    name, number, budget_bytes, limits
):
    TorchDevice(name, budget_bytes).limit_memory()
    total_bytes = (number + 1) * 10 * GB
    assert limits == [((total_bytes / 2 - 300_000_000) / total_bytes, number)]


@EVERY_GPU
def test_memory_that_ran_out_is_told_with_the_figures_of_that_gpu(name, number, limits):
    device = TorchDevice(name, 4 * GB)
    with pytest.raises(DeviceError) as caught, device.translate_errors("reading the prompt"):
        raise torch.OutOfMemoryError
    taken, free, total = (f"{(number + 1) * each:.2f} GB" for each in (1, 5, 10))
    assert caught.value.problem == (
        f"the GPU's memory ran out while reading the prompt: {taken} of 4.00 GB allowed are taken, "
        f"{free} of its {total} are free"
    )


def test_gpus_before_turing_multiply_no_int8(limits):
    devices = ("cuda", "cuda:0", "cuda:1", "cpu")
    assert list(map(has_int8_products, devices)) == [False, False, True, True]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously",
        "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasLtCreate(&handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_memory_that_something_beside_torchs_allocator_did_not_find_is_told_alike(text, limits):
    device = TorchDevice("cuda")
    with (
        pytest.raises(DeviceError, match="ran out"),
        device.translate_errors("reading the prompt"),
    ):
        raise RuntimeError(text)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
    ],
)
def test_errors_that_are_not_about_memory_stay_what_they_are(text, limits):
    with (
        pytest.raises(RuntimeError, match=text),
        TorchDevice("cuda").translate_errors("reading the prompt"),
    ):
        raise RuntimeError(text)


def test_a_picture_is_loaded_and_encoded_on_a_stream_of_its_own(limits, monkeypatch):
    current: list[object] = ["default stream"]

    class Stream:
        def __init__(self, number):
            self.number = number

    @contextmanager
    def use(stream):
        current.append(stream)
        yield
        current.pop()

    def load():
        seen.append(current[-1])
        return ToyModel()

    class ToyModel:
        projection = SimpleNamespace(second=SimpleNamespace(weight=torch.zeros(1)))

        def encode(self, pixels):
            seen.append(current[-1])
            return pixels

    seen: list[object] = []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", use)
    encoders = [TorchEncoder(load, TorchDevice("cuda:1")) for _ in range(2)]
    for encoder in encoders:
        encoder.encode(np.zeros(1, np.float32))
    assert all(isinstance(stream, Stream) and stream.number == 1 for stream in seen)
    assert seen[0] is seen[1]
    assert seen[2] is not seen[1]
    assert current == ["default stream"]


def test_the_cpu_has_no_limit_and_no_figures(limits):
    device = TorchDevice("cpu", 1)
    device.limit_memory()
    assert limits == []
    with (
        pytest.raises(DeviceError) as caught,
        device.translate_errors("encoding the picture"),
    ):
        raise torch.OutOfMemoryError
    assert caught.value.problem == "the GPU's memory ran out while encoding the picture"
