"""`tinyv doctor` tells what this computer can compute on, and fails only for what was asked for."""

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import psutil
import pytest

from tests.light.devices.test_choice import PROBLEMS
from tests.light.devices.toy_cuda import (
    DRIVER,
    NO_DRIVER,
    ROW_ERRORS,
    SMALLER,
    TORCH,
    TWO_GPUS,
    put_gpus,
    write_cuda_variant,
)
from tinyv_cli.app import main
from tinyv_cli.backends.cpu import onnx_sessions
from tinyv_cli.commands import doctor
from tinyv_cli.devices.driver import DeviceProblem
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode

VERSIONS = {"python", "tinyv", "onnxruntime", "numpy", "tokenizers", "torch", "bitsandbytes"}

GPU_ENTRY = {
    "device": "cuda",
    "name": "NVIDIA Toy 8G",
    "memory_bytes": 8 << 30,
    "architecture": "sm_86",
}
SMALLER_GPU_ENTRY = {
    "device": "cuda:1",
    "name": "NVIDIA Toy 6G",
    "memory_bytes": 6 << 30,
    "architecture": "sm_75",
}


@pytest.fixture
def computer(place, monkeypatch):
    """Puts a driver, a torch and the outcome of a product in place; notes where that is tried."""
    write_cuda_variant(places.variants_dir() / "both")
    write_cuda_variant(places.variants_dir() / "cudaonly", has_cpu=False)
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(place)  # else a report ages
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)

    def put(driver=NO_DRIVER, torch=TORCH, product=(2e-4, None)):
        multiplied = []
        put_gpus(monkeypatch, driver, torch, SMALLER)
        monkeypatch.setattr(
            doctor, "try_product", lambda device: multiplied.append(device) or product
        )
        return multiplied

    return put


def examine(capsys, *flags, code=ExitCode.OK):
    """The document that the command prints, and what is on stderr."""
    assert main(["doctor", "--json", *flags]) == code
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    return json.loads(out), err


def report(capsys, *flags, code=ExitCode.OK):
    assert main(["doctor", *flags]) == code
    return capsys.readouterr()


def test_a_computer_without_a_gpu_is_reported_and_fine(computer, capsys):
    computer()
    document, err = examine(capsys)
    assert err == ""
    cpu, cuda = document["cpu"], document["cuda"]
    assert cpu["processor"]
    assert cpu["cores"] >= 1
    assert cpu["threads"] >= 1
    assert 0 < cpu["free_bytes"] <= cpu["memory_bytes"]
    assert isinstance(cpu["fast_8bit_products_are_exact"], bool)
    assert (cuda["is_usable"], cuda["driver_cuda"], cuda["cards"]) == (False, None, [])
    assert (cuda["problem"], cuda["hint"]) == ("there is no NVIDIA driver", "install one")
    assert set(document["versions"]) == VERSIONS
    assert document["versions"]["tinyv"] == "0.1.0"
    assert document["home"]["folder"] == str(places.home_dir())
    assert document["home"]["free_bytes"] > 0


def test_a_gpu_is_reported_with_what_torch_and_bitsandbytes_make_of_it(computer, capsys):
    told = "No prebuilt binary for CUDA 12.7, loading CUDA 12.6 instead."
    computer(DRIVER, replace(TORCH, bitsandbytes_told=(told,)))
    document, err = examine(capsys, "--device", "cuda")
    assert err == ""
    assert document["cuda"] == {
        "is_usable": True,
        "problem": None,
        "hint": None,
        "device": "cuda",
        "driver_cuda": "12.4",
        "cards": [GPU_ENTRY],
        "torch_cuda": "12.6",
        "torch_architectures": ["sm_80", "sm_86", "sm_90"],
        "free_bytes": 7 << 30,
        "product_error": 2e-4,
        "bitsandbytes_told": [told],
        "row_errors": ROW_ERRORS,
    }
    out, err = report(capsys)
    assert err == ""
    for part in (
        "cuda:0 NVIDIA Toy 8G (sm_86), 8.6 GB",
        "runs CUDA 12.4",
        "for sm_80, sm_86, sm_90",
        f"bitsandbytes: {told}",
    ):
        assert part in out
    assert "one product computed on cuda, relative error 2.0e-04" in out
    assert "each kind of matrix, relative errors nf4 2.0e-04, int8 3.0e-04" in out
    assert "cuda is usable, 7.5 GB free" in out
    assert "not usable" not in out


def test_all_gpus_are_listed_and_one_is_looked_at(computer, capsys):
    multiplied = computer(TWO_GPUS)
    document, err = examine(capsys, "--device", "cuda:1")
    assert err == ""
    cuda = document["cuda"]
    assert cuda["cards"] == [GPU_ENTRY, SMALLER_GPU_ENTRY]
    assert (cuda["device"], cuda["is_usable"], cuda["free_bytes"]) == ("cuda:1", True, 5 << 30)
    assert cuda["torch_architectures"] == ["sm_75", "sm_86"]
    first, same = examine(capsys, "--device", "cuda:0")[0], examine(capsys)[0]
    assert first["cuda"] == same["cuda"]
    assert first["cuda"]["device"] == "cuda"
    assert multiplied == ["cuda:1", "cuda", "cuda"]
    out, _ = report(capsys, "--device", "cuda:1")
    assert "cuda      cuda:0 NVIDIA Toy 8G (sm_86), 8.6 GB\n" in out
    assert "          cuda:1 NVIDIA Toy 6G (sm_75), 6.4 GB\n" in out
    assert "one product computed on cuda:1, relative error" in out
    assert "cuda:1 is usable, 5.4 GB free\n" in out


def test_a_gpu_that_is_not_there_ends_with_5_and_no_product(computer, capsys):
    multiplied = computer(TWO_GPUS)
    out, err = report(capsys, "--device", "cuda:2", code=ExitCode.DEVICE)
    problem = "there is no GPU cuda:2, the driver sees 2: cuda:0 NVIDIA Toy 8G, cuda:1 NVIDIA Toy"
    assert f"cuda:2 is not usable: {problem}" in out
    assert err.startswith(f"error: {problem}")
    assert err.endswith("hint:  use one of them, or use `--device cpu`\n")
    document, _ = examine(capsys, "--device", "cuda:2", code=ExitCode.DEVICE)
    assert (document["cuda"]["device"], document["cuda"]["is_usable"]) == ("cuda:2", False)
    assert multiplied == []


@pytest.mark.parametrize("problem", PROBLEMS)
def test_cuda_that_is_missing_ends_with_5_only_where_it_was_asked_for(problem, computer, capsys):
    driver, torch, hint = PROBLEMS[problem]
    computer(driver, torch)
    out, err = report(capsys, "--device", "cuda", code=ExitCode.DEVICE)
    assert problem in out
    first, second = err.splitlines()
    assert problem in first
    assert hint in second
    assert report(capsys) == (out, "")
    document, err = examine(capsys, "--device", "cuda", code=ExitCode.DEVICE)
    assert problem in document["cuda"]["problem"]
    assert problem in err


@pytest.mark.parametrize(
    "product",
    [
        (None, DeviceProblem("the GPU cannot multiply two matrices: no kernel image", "update")),
        (0.5, DeviceProblem("the GPU multiplies wrongly: an error of 0.5", "update")),
    ],
)
def test_a_gpu_that_computes_nothing_right_is_not_usable(product, computer, capsys):
    computer(DRIVER, product=product)
    document, err = examine(capsys, "--device", "cuda", code=ExitCode.DEVICE)
    assert document["cuda"]["is_usable"] is False
    assert document["cuda"]["product_error"] == product[0]
    assert product[1].problem in err
    assert {each["name"]: each for each in document["variants"]}["both"]["devices"]["cuda"][
        "fits"
    ] is None


def test_variants_are_told_with_the_devices_they_run_on(computer, capsys):
    computer(DRIVER)
    broken = places.variants_dir() / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    found = {each["name"]: each for each in examine(capsys)[0]["variants"]}
    assert list(found["bits4"]["devices"]) == ["cpu"]
    assert list(found["both"]["devices"]) == ["cpu", "cuda"]
    assert list(found["cudaonly"]["devices"]) == ["cuda"]
    fit = found["both"]["devices"]["cuda"]
    assert fit["fits"] is True
    assert fit["needed_bytes"] > 400_000_000
    assert (fit["takes_turns"], fit["problem"]) == (False, None)
    assert "not a valid manifest" in found["broken"]["damaged"]["problem"]
    out, _ = report(capsys)
    assert "broken  damaged: " in out
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert rows["bits4"].endswith("no files")
    assert "no files" in rows["cudaonly"]


def test_a_variant_too_large_is_told(computer, capsys, monkeypatch):
    computer(DRIVER, replace(TORCH, free_bytes=1_000_000))
    memory = psutil.virtual_memory()._replace(available=1_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    found = {each["name"]: each for each in examine(capsys)[0]["variants"]}
    for device, figure in (("cpu", "1.00 MB are free"), ("cuda", "101 MB are free")):
        fit = found["both"]["devices"][device]
        assert fit["fits"] is False
        assert figure in fit["problem"]
    assert report(capsys).out.count("too large") == 5


def test_without_a_gpu_that_works_nothing_is_said_about_its_memory(computer, capsys):
    computer()
    found = {each["name"]: each for each in examine(capsys)[0]["variants"]}
    fit = found["both"]["devices"]["cuda"]
    assert (fit["fits"], fit["problem"]) == (None, "no GPU can be used here")
    assert "no GPU" in report(capsys).out


def test_asked_for_the_cpu_it_looks_at_no_gpu(computer, capsys, monkeypatch):
    monkeypatch.setattr("tinyv_cli.devices.driver.read_driver", None)
    document, _ = examine(capsys, "--device", "cpu")
    assert document["cuda"] is None
    assert document["cpu"]["threads"] >= 1
    assert "\ncuda " not in report(capsys, "--device", "cpu").out


def test_a_processor_that_adds_wrongly_is_told(computer, capsys, monkeypatch):
    computer()
    for is_wrong, words in ((True, "not exact, slower ones are used"), (False, "are exact")):
        monkeypatch.setattr(onnx_sessions, "adds_wrongly", lambda is_wrong=is_wrong: is_wrong)
        assert examine(capsys)[0]["cpu"]["fast_8bit_products_are_exact"] is not is_wrong
        assert words in report(capsys).out


def test_a_home_without_variants_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "not" / "there"))
    assert (
        "there is no variant; make one: `tinyv pull && tinyv quantize --bits 4`"
        in report(capsys).out
    )
    assert not (tmp_path / "not").exists()
    assert examine(capsys)[0]["variants"] == []


def test_disk_space_is_that_of_the_folder_above(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(7 if path == tmp_path else 0))
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "a" / "b"))
    assert examine(capsys)[0]["home"]["free_bytes"] == 7


def test_a_device_that_does_not_exist_is_a_usage_error(computer, capsys):
    out, err = report(capsys, "--device", "tpu", code=ExitCode.USAGE)
    assert out == ""
    assert "there is no device tpu" in err
