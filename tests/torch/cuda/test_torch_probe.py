"""What torch says of CUDA, asked of the real torch where it answers and of a GPU made up."""

import logging
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tinyv_cli.commands.doctor import try_product
from tinyv_cli.devices import quiet_bitsandbytes, torch_probe
from tinyv_cli.devices.findings import TorchFindings
from tinyv_cli.devices.torch_probe import LARGEST_PRODUCT_ERROR, measure_product_error, probe_torch


@pytest.fixture
def gpu(monkeypatch):
    """A torch with CUDA, a GPU of 8 GB and one of 6."""
    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_capability": lambda number: [(8, 6), (7, 5)][number],
        "mem_get_info": lambda number: [(7 << 30, 8 << 30), (5 << 30, 6 << 30)][number],
        "get_arch_list": lambda: ["sm_80", "sm_90"],
        "get_device_name": lambda number: ["NVIDIA Toy 8G", "NVIDIA Toy 6G"][number],
    }
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    put_bitsandbytes(monkeypatch, compiled_with_cuda=True)
    return monkeypatch


def put_bitsandbytes(monkeypatch, told=(), **native):
    module = SimpleNamespace(lib=SimpleNamespace(**native), told=told)
    monkeypatch.setitem(sys.modules, "tinyv_cli.devices.quiet_bitsandbytes", module)


def test_a_build_without_cuda_is_told(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert probe_torch(0) == TorchFindings(torch.__version__)


def test_the_gpu_that_was_asked_for_is_described(gpu):
    first = TorchFindings(
        version=torch.__version__,
        cuda="12.6",
        architectures=("sm_80", "sm_90"),
        gpu_name="NVIDIA Toy 8G",
        capability=(8, 6),
        free_bytes=7 << 30,
    )
    assert probe_torch(0) == first
    assert probe_torch(1) == replace(
        first, gpu_name="NVIDIA Toy 6G", capability=(7, 5), free_bytes=5 << 30
    )


def test_a_gpu_that_torch_does_not_find_is_told(gpu):
    assert probe_torch(2).refusal == "it finds no GPU 2"


def test_a_driver_that_torch_refuses_is_told_in_its_words(gpu):
    def refuse():
        warnings.warn("the driver is too old\nupdate it", stacklevel=1)
        return False

    gpu.setattr(torch.cuda, "is_available", refuse)
    assert probe_torch(0).refusal == "the driver is too old"
    gpu.setattr(torch.cuda, "is_available", lambda: False)
    assert probe_torch(0).refusal == "it finds no GPU"


def test_a_gpu_that_fails_when_it_is_first_used_is_told(gpu):
    def fail(number):
        raise RuntimeError("CUDA error: all devices are busy or unavailable\nsome advice")

    gpu.setattr(torch.cuda, "mem_get_info", fail)
    assert probe_torch(1).refusal == "CUDA error: all devices are busy or unavailable"


def test_bitsandbytes_without_kernels_for_cuda_is_told(gpu):
    put_bitsandbytes(gpu)
    assert "none of its CUDA libraries" in probe_torch(0).bitsandbytes_problem
    gpu.setitem(sys.modules, "tinyv_cli.devices.quiet_bitsandbytes", None)
    assert "cannot be imported" in probe_torch(0).bitsandbytes_problem
    gpu.setattr("tinyv_cli.devices.torch_probe.find_spec", lambda name: None)
    assert probe_torch(0).bitsandbytes_problem == "bitsandbytes is not installed"


def test_what_bitsandbytes_says_of_its_library_is_told_and_nowhere_printed(gpu, capfd):
    line = "No prebuilt binary for CUDA 13.1, loading CUDA 13.0 instead."
    logging.getLogger("bitsandbytes.cextension").warning("%s\nmore", line)
    kept = quiet_bitsandbytes.told.pop()
    assert capfd.readouterr() == ("", "")
    put_bitsandbytes(gpu, [kept], compiled_with_cuda=True)
    assert probe_torch(0).bitsandbytes_told == (line,)
    assert probe_torch(0).bitsandbytes_problem is None


def test_a_product_is_computed_and_compared():
    assert 0 < measure_product_error("cpu") <= LARGEST_PRODUCT_ERROR
    with pytest.raises(RuntimeError):
        measure_product_error("meta:broken")


@pytest.mark.parametrize(("error", "expected"), [(0.5, 0.5), (float("nan"), None)])
def test_a_wrong_product_stands_in_the_way(error, expected, monkeypatch):
    monkeypatch.setattr(torch_probe, "measure_product_error", lambda device: error)
    told, problem = try_product("cuda")
    assert told == expected
    assert f"an error of {error:.3g}" in problem.problem


def test_a_product_that_cannot_be_computed_stands_in_the_way(monkeypatch):
    def fail(device):
        assert device == "cuda:1"
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(torch_probe, "measure_product_error", fail)
    told, problem = try_product("cuda:1")
    assert told is None
    assert problem.problem.endswith("two matrices: CUDA error: no kernel image is available")
    monkeypatch.setattr(torch_probe, "measure_product_error", lambda device: 1e-4)
    assert try_product("cuda") == (1e-4, None)
