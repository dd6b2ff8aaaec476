"""The device is chosen before anything is opened; what stands in the way is said."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.light.devices.toy_cuda import DRIVER, NO_DRIVER, TORCH, write_cuda_variant
from tests.light.evaluation.toy_evaluation import run, write_questions
from tests.light.toy_variant import make_open_backend, make_script
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.backends.image_cache import has_tokens, wrap_encoder
from tinyv_cli.backends.opening import open_backend
from tinyv_cli.devices.choice import Choice, choose_device, find_problem, has_kernels, read_torch
from tinyv_cli.devices.driver import DeviceProblem, Driver
from tinyv_cli.devices.findings import Findings, TorchFindings
from tinyv_cli.disk import places
from tinyv_cli.errors import DeviceError, ExitCode, UsageError
from tinyv_cli.variants import home
from tinyv_cli.variants.memory import (
    CUDA_CONTEXT_BYTES,
    CUDA_OUTSIDE_BYTES,
)

HIDDEN = Driver(
    "12.4", (), DeviceProblem("CUDA_VISIBLE_DEVICES is '' and hides every GPU", "unset it")
)


@pytest.fixture
def cuda_only(place):
    folder = write_cuda_variant(places.variants_dir() / "cudaonly", has_cpu=False)
    return home.resolve_variant(str(folder))


@pytest.fixture
def cpu_only(place):
    return home.resolve_variant("bits4")


@pytest.mark.parametrize(
    ("architectures", "runs"),
    [
        (("sm_86",), True),
        (("sm_80",), True),  # machine code of a lower minor number
        (("sm_89", "sm_90"), False),
        (("sm_75",), False),  # another major number
        (("compute_75",), True),  # compiled when loaded
        (("compute_90",), False),
        (("sm_80a", "compute_80a"), False),  # that architecture alone
        (("sm_86a",), True),
        (("gfx90a", ""), False),
        ((), False),
    ],
)
def test_kernels_run_on_the_gpus_that_nvidia_says(architectures, runs):
    assert has_kernels((8, 6), architectures) is runs


def test_numbers_of_three_digits_are_read_as_nvidia_writes_them():
    assert has_kernels((12, 0), ("sm_120",))
    assert has_kernels((12, 1), ("sm_120",))
    assert not has_kernels((12, 0), ("sm_100",))
    assert not has_kernels((10, 0), ("sm_120",))


PROBLEMS = {
    "there is no NVIDIA driver": (NO_DRIVER, TORCH, "install one"),
    "CUDA_VISIBLE_DEVICES is ''": (HIDDEN, TORCH, "unset it"),
    "torch is not installed": (DRIVER, TorchFindings(None), "pip install 'tinyv[cuda]'"),
    "torch 2.9.0+cu126 cannot be imported: libcudart.so.12 is missing": (
        DRIVER,
        replace(TORCH, import_error="libcudart.so.12 is missing"),
        "--force-reinstall torch",
    ),
    "torch 2.9.0+cpu is built without CUDA": (
        DRIVER,
        TorchFindings("2.9.0+cpu"),
        "index-url https://download.pytorch.org/whl/cu126",
    ),
    "which runs CUDA 12.4: driver too old": (
        DRIVER,
        replace(TORCH, refusal="driver too old"),
        "update the driver, or install the build for CUDA 12.6: `pip install",
    ),
    "has no kernels for NVIDIA Toy 8G (sm_61), only for sm_80, sm_86, sm_90": (
        DRIVER,
        replace(TORCH, capability=(6, 1)),
        "index-url https://download.pytorch.org/whl/cu126",
    ),
    "has no kernels for NVIDIA Toy 8G (sm_120), only for sm_80, sm_86, sm_90": (
        DRIVER,
        replace(TORCH, capability=(12, 0)),
        "take a newer torch",
    ),
    "bitsandbytes is not installed": (
        DRIVER,
        replace(TORCH, bitsandbytes_problem="bitsandbytes is not installed"),
        "bitsandbytes`",
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_cuda_that_was_asked_for_is_refused_with_what_is_missing(problem, gpu, both, capsys):
    driver, torch, hint = PROBLEMS[problem]
    gpu(driver, torch)
    command = ["ask", "cat.png", "what?", "-m", "both", "--device", "cuda"]
    assert main(command) == ExitCode.DEVICE
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert problem in first
    assert hint in second
    assert second.endswith(", or use `--device cpu`")


@pytest.mark.parametrize("problem", PROBLEMS)
def test_auto_takes_the_cpu_and_says_why(problem, gpu, both):
    driver, torch, hint = PROBLEMS[problem]
    gpu(driver, torch)
    choice = choose_device(both, "auto")
    assert (choice.device, choice.memory) == ("cpu", None)
    assert choice.reason.startswith("both computes on the CPU: ")
    assert problem in choice.reason
    assert hint in choice.reason
    assert "\n" not in choice.reason


@pytest.mark.parametrize("asked", ["auto", "cuda"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_variant_for_cuda_alone_has_no_other_device(problem, asked, gpu, cuda_only):
    driver, torch, hint = PROBLEMS[problem]
    gpu(driver, torch)
    with pytest.raises(DeviceError) as caught:
        choose_device(cuda_only, asked)
    assert problem in caught.value.problem
    assert hint in caught.value.hint
    assert "`tinyv quantize --target cpu`" in caught.value.hint
    assert "--device cpu" not in caught.value.hint


def test_a_variant_for_cuda_alone_does_not_run_on_the_cpu(gpu, cuda_only):
    asked = gpu()
    with pytest.raises(DeviceError, match="cudaonly has files for CUDA only") as caught:
        choose_device(cuda_only, "cpu")
    assert "`tinyv quantize --target cpu`" in caught.value.hint
    assert asked == []


def test_a_variant_without_files_for_cuda_is_refused_before_torch_is_asked(gpu, cpu_only):
    asked = gpu()
    with pytest.raises(DeviceError, match="bits4 has no files for CUDA") as caught:
        choose_device(cpu_only, "cuda")
    assert caught.value.hint == (
        "make a variant that has: `tinyv quantize --target all`, or use `--device cpu`"
    )
    assert asked == []


def test_auto_takes_a_usable_gpu_and_says_so(gpu, both):
    gpu()
    choice = choose_device(both, "auto")
    assert choice.device == "cuda"
    assert choice.reason.startswith("both computes on the GPU, NVIDIA Toy 8G: about ")
    left_bytes = CUDA_CONTEXT_BYTES - CUDA_OUTSIDE_BYTES
    assert choice.memory.limit_bytes == TORCH.free_bytes + left_bytes
    assert choose_device(both, "cuda") == replace(choice, reason=None)


def test_where_there_is_nothing_to_choose_nothing_is_said(gpu, cpu_only, both):
    asked = gpu(NO_DRIVER)
    assert choose_device(cpu_only, "auto") == Choice("cpu")
    assert choose_device(cpu_only, "cpu") == Choice("cpu")
    assert choose_device(both, "cpu") == Choice("cpu")
    assert asked == []


def test_a_gpu_without_files_for_it_is_told_and_driver_and_torch_are_not_asked(
    gpu, cpu_only, monkeypatch
):
    asked = gpu()
    monkeypatch.setattr("tinyv_cli.devices.driver.read_driver", None)
    choice = choose_device(cpu_only, "auto")
    assert choice.device == "cpu"
    assert "bits4 has no files for CUDA; make a variant that has" in choice.reason
    assert asked == []


def test_8_bits_go_to_a_gpu_only_where_it_is_asked_for_or_there_is_no_choice(gpu, both, cuda_only):
    asked = gpu()
    wide, only = (
        replace(each, manifest=replace(each.manifest, bits=8)) for each in (both, cuda_only)
    )
    choice = choose_device(wide, "auto")
    assert choice.device == "cpu"
    assert "8 bits were not measured on a GPU yet; `--device cuda`" in choice.reason
    assert asked == []
    assert [choose_device(wide, "cuda").device, choose_device(only, "auto").device] == ["cuda"] * 2
    gpu(NO_DRIVER)
    assert choose_device(wide, "auto") == Choice("cpu")


@pytest.mark.parametrize("asked", ["tpu", "cuda:x", "CPU", ""])
def test_a_device_that_does_not_exist_is_a_usage_error(asked, both):
    with pytest.raises(UsageError, match="there is no device") as caught:
        choose_device(both, asked)
    assert "auto, cpu, cuda" in caught.value.hint
    with pytest.raises(UsageError, match="there is no device"):
        open_backend(both, BackendOptions(asked))


def test_what_does_not_fit_the_gpu_goes_to_the_cpu_or_is_refused_with_figures(gpu, both):
    gpu(torch=replace(TORCH, free_bytes=1_000_000))
    choice = choose_device(both, "auto")
    assert choice.device == "cpu"
    assert "MB of the GPU's memory, 101 MB are free" in choice.reason
    with pytest.raises(DeviceError, match=r"both needs about \d+ MB of the GPU's memory"):
        choose_device(both, "cuda")
    gpu()
    with pytest.raises(DeviceError, match="100 MB are allowed"):
        choose_device(both, "cuda", 100_000_000)


def test_torch_that_is_not_installed_or_damaged_is_found_out(monkeypatch):
    monkeypatch.setattr("tinyv_cli.devices.choice.find_spec", lambda name: None)
    assert read_torch(0) == TorchFindings(None)

    def fail(number):
        raise OSError("libc10.so: cannot open\nmore of it")

    monkeypatch.setattr("tinyv_cli.devices.choice.find_spec", lambda name: name)
    monkeypatch.setattr("tinyv_cli.devices.choice.read_version", lambda name: "2.9.0")
    probe = SimpleNamespace(probe_torch=fail)
    monkeypatch.setitem(sys.modules, "tinyv_cli.devices.torch_probe", probe)
    found = read_torch(0)
    assert found == TorchFindings("2.9.0", import_error="libc10.so: cannot open")
    assert "libc10.so" in find_problem(Findings(DRIVER, found)).problem


@pytest.fixture
def seen(monkeypatch):
    found = {}
    monkeypatch.setattr(backends, "open_backend", make_open_backend(make_script("a cat"), found))
    return found


def test_ask_passes_on_the_device_and_what_it_may_take(gpu, both, seen, capsys):
    gpu()
    assert main(["ask", "cat.png", "what?", "-m", "both", "--stats"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "a cat\n"
    assert err.splitlines()[0].startswith("note: both computes on the GPU, NVIDIA Toy 8G: about")
    assert (seen["options"].device, seen["options"].memory_budget_bytes) == (
        "cuda",
        (7 << 30) - CUDA_OUTSIDE_BYTES,
    )
    main(["ask", "cat.png", "what?", "-m", "both", "--device", "cuda", "--memory-budget", "2GiB"])
    assert capsys.readouterr() == ("a cat\n", "")
    assert seen["options"].memory_budget_bytes == (2 << 30) - CUDA_CONTEXT_BYTES
    main(["ask", "cat.png", "what?", "-m", "both", "--device", "cpu"])
    assert capsys.readouterr() == ("a cat\n", "")
    assert seen["options"].device == "cpu"


def test_ask_refuses_a_gpu_too_small_before_anything_is_opened(gpu, both, monkeypatch, capsys):
    gpu()
    monkeypatch.setattr(backends, "open_backend", None)
    command = ["ask", "cat.png", "what?", "-m", "both", "--device", "cuda"]
    assert main([*command, "--memory-budget", "100MB"]) == ExitCode.DEVICE
    out, err = capsys.readouterr()
    assert out == ""
    assert "100 MB are allowed" in err
    assert "`--ctx-size 512`" in err


def test_image_tokens_computed_by_other_files_for_cuda_are_not_taken(both):
    def change(each):
        return replace(each, sha256="f" * 64) if each.role == "cuda-vision" else each

    files = tuple(change(each) for each in both.manifest.files)
    other = replace(both, manifest=replace(both.manifest, files=files))
    pixels = np.zeros((1, 3, 448, 448), np.float32)
    spec = both.manifest.spec
    tokens = np.ones((1, spec.qformer.n_queries, spec.language.width), np.float32)
    encoder = SimpleNamespace(encode=lambda _: tokens)
    wrap_encoder(encoder, both, "cuda").encode(pixels)
    assert has_tokens(both, pixels, "cuda")
    assert not has_tokens(both, pixels, "cpu")
    assert not has_tokens(other, pixels, "cuda")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_bench_measures_on_the_gpu(device, gpu, both, seen, monkeypatch, capsys):
    gpu()
    opened = []

    def open_nothing(variant, options, on_encoder):
        opened.append(options.device)
        raise DeviceError("enough was seen", "stop")

    monkeypatch.setattr(backends, "open_backend", open_nothing)
    assert main(["bench", "-m", "both", "--device", device]) == ExitCode.DEVICE
    assert opened == ["cuda"]
    assert ("computes on the GPU" in capsys.readouterr().err) is (device == "auto")


def test_eval_keeps_answers_of_gpu_and_cpu_apart(gpu, both, runtimes, capsys):
    gpu()
    write_questions()
    run(capsys, "--device", "cuda", model="both")
    run(capsys, "--device", "cpu", model="both")
    run(capsys, model="both")  # auto takes the GPU, whose answers are there
    assert runtimes.opened == ["both", "both"]


def test_eval_refuses_what_is_missing_and_says_each_choice_once(gpu, both, runtimes, capsys):
    write_questions()
    err = run(capsys, "--device", "cuda", model="both", code=ExitCode.DEVICE)
    assert "there is no NVIDIA driver" in err
    assert runtimes.opened == []
    gpu()
    assert main(["eval", "questions.jsonl", "-m", "both", "--against", "both"]) == ExitCode.OK
    assert capsys.readouterr().err.count("both computes on the GPU") == 1
    command = ["eval", "questions.jsonl", "-m", "both", "--against", "bits4", "--json"]
    assert main(command) == ExitCode.OK
    out, err = capsys.readouterr()
    assert json.loads(out)["against"] == "bits4"
    assert "both computes on the GPU" in err
    assert "bits4 computes on the CPU: bits4 has no files for CUDA" in err
