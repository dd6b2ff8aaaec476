"""A GPU's kernels are tried in another process, and how that ended is remembered."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.light.devices.toy_cuda import DRIVER, TORCH, put_driver, write_cuda_variant
from tinyv_cli.devices.choice import choose_device, find_problem, look
from tinyv_cli.devices.findings import Findings, KernelFindings
from tinyv_cli.devices.kernels import examine_kernels
from tinyv_cli.disk import places
from tinyv_cli.errors import DeviceError
from tinyv_cli.variants import home

FOUND = Findings(DRIVER, TORCH, 1)
RIGHT = '{"nf4": 2e-4, "int8": 3e-4}'
GOOD = KernelFindings({"nf4": 2e-4, "int8": 3e-4})


@pytest.fixture
def probe(place, monkeypatch):
    """Stands for the process that multiplies; gives how often it ran."""
    ran = []
    run = subprocess.run

    def put(code: str):
        def run_instead(command, **options):
            ran.append(command[3:])
            return run([sys.executable, "-c", code], **options)

        monkeypatch.setattr(subprocess, "run", run_instead)
        return ran

    return put


def test_what_computes_right_is_tried_once_for_a_card_and_its_versions(probe):
    ran = probe(f"print('cublasLt ran into an error!'); print('{RIGHT}')")
    for _ in range(2):
        assert examine_kernels(FOUND, "0.50.2", again=False) == GOOD
    assert ran == [["cuda:1"]]
    others = [
        replace(FOUND, torch=replace(TORCH, gpu_name="NVIDIA Toy 6G")),
        replace(FOUND, torch=replace(TORCH, version="2.10.0")),
        replace(FOUND, driver=replace(DRIVER, cuda="13.0")),
    ]
    for each in others:
        examine_kernels(each, "0.50.2", again=False)
    examine_kernels(FOUND, "0.51", again=False)
    assert len(ran) == 5
    examine_kernels(FOUND, "0.50.2", again=True)
    assert len(ran) == 6


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os._exit(1)", r"\(1\): without a word"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", r"\(-6\): without a word"),
        ("print('Error no kernel image at line 380'); raise SystemExit(1)", "no kernel image"),
        (f"print('{RIGHT}'); raise SystemExit(3)", r"\(3\)"),
        ('print(\'{"nf4": 1.7, "int8": 1e-4}\')', "wrongly .*an error of 1.7 with nf4$"),
        ('print(\'{"nf4": 1e-4, "int8": NaN}\')', "wrongly .*an error of nan with int8$"),
    ],
)
def test_an_end_that_is_not_right_is_a_problem_that_is_remembered(code, told, probe):
    ran = probe(code)
    found = [examine_kernels(FOUND, "0.50.2", again=False) for _ in range(2)]
    assert found[0] == found[1]
    assert len(ran) == 1
    problem = find_problem(replace(FOUND, number=0, kernels=found[0]))
    assert re.search(told, problem.problem)
    assert "`tinyv doctor` looks anew" in problem.hint


def test_memory_that_was_short_is_no_end_to_remember(probe):
    ran = probe("import sys; sys.exit('RuntimeError: CUDA error: out of memory')")
    for _ in range(2):
        assert "out of memory" in examine_kernels(FOUND, "0.50.2", again=False).problem
    assert len(ran) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_in_the_place_of_what_is_remembered_is_as_good_as_none(probe):
    ran = probe(f"print('{RIGHT}')")
    places.kernels_path().parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(places.kernels_path())
    assert examine_kernels(FOUND, "0.50.2", again=False) == GOOD
    assert len(ran) == 1


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', "{"])
def test_a_damaged_memory_is_tried_anew(content, probe):
    ran = probe(f"print('{RIGHT}')")
    places.kernels_path().write_text(content, "utf-8")
    assert examine_kernels(FOUND, "0.50.2", again=False) == GOOD
    assert len(json.loads(places.kernels_path().read_text("utf-8"))) == 1
    assert len(ran) == 1


def test_a_gpu_whose_kernels_end_the_process_is_not_taken(probe, monkeypatch):
    put_driver(monkeypatch, DRIVER)
    monkeypatch.setattr("tinyv_cli.devices.choice.read_torch", lambda number: TORCH)
    both = home.resolve_variant(str(write_cuda_variant(places.variants_dir() / "both")))
    ran = probe("import os; os._exit(1)")
    choice = choose_device(both, "auto")
    assert choice.device == "cpu"
    assert "bitsandbytes ends the process" in choice.reason
    with pytest.raises(DeviceError, match="bitsandbytes ends the process"):
        choose_device(both, "cuda")
    assert len(ran) == 1
    probe(f"print('{RIGHT}')")
    assert look("cuda").kernels == GOOD  # as doctor looks
    assert choose_device(both, "auto").device == "cuda"
    assert len(ran) == 2


def test_a_gpu_that_something_else_speaks_against_is_not_tried(probe, monkeypatch):
    put_driver(monkeypatch, DRIVER)
    torch = replace(TORCH, bitsandbytes_problem="bitsandbytes is not installed")
    monkeypatch.setattr("tinyv_cli.devices.choice.read_torch", lambda number: torch)
    ran = probe("")
    assert look("cuda").kernels is None
    assert ran == []
