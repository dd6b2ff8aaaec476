"""One of several GPUs is asked for by its number, which decides where, and over nothing kept."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.light.devices.toy_cuda import (
    NO_DRIVER,
    SMALLER,
    TORCH,
    TWO_GPUS,
    put_driver,
    put_gpus,
    write_cuda_variant,
)
from tests.light.evaluation.toy_evaluation import EchoDecoder, run, write_questions
from tests.light.toy_decoder import ScriptedDecoder, ToyEncoder, ToySlots
from tests.light.toy_variant import make_script
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend, BackendOptions, prefetch_nothing
from tinyv_cli.backends.image_cache import has_tokens, wrap_encoder
from tinyv_cli.backends.opening import open_backend
from tinyv_cli.benchmark import bandwidth
from tinyv_cli.devices.choice import choose_device
from tinyv_cli.disk import places
from tinyv_cli.errors import DeviceError, ExitCode
from tinyv_cli.variants import home
from tinyv_cli.variants.memory import CUDA_CONTEXT_BYTES, CUDA_OUTSIDE_BYTES


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs; returns the numbers of those that torch is asked of."""
    return put_gpus(monkeypatch, TWO_GPUS, TORCH, SMALLER)


@pytest.fixture
def both(place):
    return home.resolve_variant(str(write_cuda_variant(places.variants_dir() / "both")))


@pytest.fixture
def opened(monkeypatch):
    """Devices that were opened, of a runtime that says where it is."""
    names = []

    def open_toy(variant, options, on_encoder=prefetch_nothing):
        names.append(options.device)
        encoder = ToyEncoder()
        on_encoder(encoder, options.device)
        decoder = ScriptedDecoder(make_script("a cat") * 3)
        return Backend(encoder, ToySlots(decoder), options.device, 0.1)

    monkeypatch.setattr(backends, "open_backend", open_toy)
    return names


@pytest.mark.parametrize(
    ("asked", "name", "number"),
    [("cuda:1", "cuda:1", 1), ("cuda:0", "cuda", 0), ("cuda", "cuda", 0), ("auto", "cuda", 0)],
)
def test_the_gpu_asked_for_is_looked_at_and_planned_for(asked, name, number, gpus, both):
    choice = choose_device(both, asked)
    assert choice.device == name
    assert choice.memory.limit_bytes == (
        (TORCH, SMALLER)[number].free_bytes + CUDA_CONTEXT_BYTES - CUDA_OUTSIDE_BYTES
    )
    assert (choice.reason is not None) is (asked == "auto")
    assert gpus == [number]


@pytest.mark.parametrize("model", ["both", "bits4"])
def test_a_number_without_a_gpu_is_refused_with_those_there_are(model, gpus, both, capsys):
    command = ["ask", "cat.png", "what?", "-m", model, "--device", "cuda:2"]
    assert main(command) == ExitCode.DEVICE
    assert capsys.readouterr() == (
        "",
        "error: there is no GPU cuda:2, the driver sees 2: "
        "cuda:0 NVIDIA Toy 8G, cuda:1 NVIDIA Toy 6G\n"
        "hint:  use one of them, or use `--device cpu`\n",
    )
    assert gpus == []


def test_a_gpu_asked_for_by_its_number_meets_the_problems_in_the_same_order(
    both, gpus, monkeypatch
):
    with pytest.raises(DeviceError, match="bits4 has no files for CUDA"):
        choose_device(home.resolve_variant("bits4"), "cuda:1")
    put_gpus(monkeypatch, TWO_GPUS, TORCH, replace(SMALLER, architectures=("sm_86",)))
    with pytest.raises(DeviceError, match=r"has no kernels for NVIDIA Toy 6G \(sm_75\)"):
        choose_device(both, "cuda:1")
    assert choose_device(both, "cuda").device == "cuda"
    put_driver(monkeypatch, NO_DRIVER)
    with pytest.raises(DeviceError, match="there is no NVIDIA driver"):
        choose_device(home.resolve_variant("bits4"), "cuda:1")


def test_ask_opens_the_gpu_and_counts_its_memory(gpus, both, opened, monkeypatch, capsys):
    command = ["ask", "cat.png", "what?", "-m", "both", "--stats"]
    assert main([*command, "--device", "cuda:1"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "a cat\n"
    assert "estimated on the GPU" in err
    monkeypatch.setenv("TINYV_DEVICE", "cuda:0")
    assert main(command) == ExitCode.OK
    assert opened == ["cuda:1", "cuda"]


def test_the_backend_is_told_which_gpu(both, monkeypatch):
    told = []

    def open_torch(variant, options, on_encoder, device):
        told.append(device)

    heavy = SimpleNamespace(open_torch=open_torch)
    monkeypatch.setitem(sys.modules, "tinyv_cli.backends.cuda.torch_cuda", heavy)
    for device in ("cuda", "cuda:1"):
        open_backend(both, BackendOptions(device))
    assert told == ["cuda", "cuda:1"]


def test_gpus_share_image_tokens(both):
    spec = both.manifest.spec
    pixels = np.zeros((1, 3, 448, 448), np.float32)
    tokens = np.ones((1, spec.qformer.n_queries, spec.language.width), np.float32)
    wrap_encoder(SimpleNamespace(encode=lambda _: tokens), both, "cuda:1").encode(pixels)
    assert [has_tokens(both, pixels, name) for name in ("cuda", "cuda:2", "cpu")] == [
        True,
        True,
        False,
    ]


def test_eval_goes_on_on_another_gpu(gpus, both, runtimes, capsys):
    write_questions()
    for device in ("cuda", "cuda:1", "cpu"):
        run(capsys, "--device", device, model="both")
    assert runtimes.opened == ["both", "both"]


def test_batch_goes_on_on_another_gpu_and_on_nothing_else(gpus, both, opened, capsys):
    command = ["batch", "what?", "-o", "out.jsonl", "-m", "both"]
    for pictures, device in ((["cat.png"], "cuda"), (["cat.png", "dog.png"], "cuda:1")):
        assert main([command[0], *pictures, *command[1:], "--device", device]) == ExitCode.OK
    assert opened == ["cuda", "cuda:1"]
    capsys.readouterr()
    assert main([command[0], "cat.png", *command[1:], "--device", "cpu"]) == ExitCode.USAGE
    assert "was begun with other settings: device cuda\n" in capsys.readouterr().err


def test_bench_counts_what_the_gpu_reads(gpus, both, monkeypatch, capsys):
    counted = []

    def note(manifest, depth, device):
        counted.append(device)
        return 1

    monkeypatch.setattr(bandwidth, "choose_array_bytes", lambda _: 80_000)
    monkeypatch.setattr("tinyv_cli.benchmark.measure.count_bytes_per_token", note)
    monkeypatch.setattr(backends, "open_backend", open_for_bench)
    assert main(["bench", "-m", "both", "--device", "cuda:1", "--repeats", "1"]) == ExitCode.OK
    err = capsys.readouterr().err
    assert "memory and its speed are the computer's, not the GPU's" in err
    assert "\nboth, 4 bits, on cuda:1: " in err
    assert set(counted) == {"cuda"}


def open_for_bench(variant, options, *_):
    decoder = EchoDecoder(variant.manifest.bits)
    decoder.context_length = 2048
    return Backend(ToyEncoder(), ToySlots(decoder), options.device, 0.1)
