"""The process that tries a GPU's kernels, on torch's CPU device."""

import json
import subprocess
import sys

import pytest

from tinyv_cli.backends.cuda import kernel_probe
from tinyv_cli.backends.cuda.kernel_probe import measure_row_errors
from tinyv_cli.backends.cuda.torch_modules import Nf4Linear
from tinyv_cli.devices.kernels import LARGEST_ROW_ERROR


def test_a_row_comes_out_right_of_each_kind_of_matrix_in_a_process_of_its_own():
    command = [sys.executable, "-m", kernel_probe.__name__, "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    errors = json.loads(done.stdout.strip().rpartition("\n")[2])
    assert errors.keys() == {"nf4", "int8"}
    assert all(0 <= error < LARGEST_ROW_ERROR / 10 for error in errors.values()), errors


def test_a_kernel_that_computes_nothing_is_far_off(monkeypatch):
    monkeypatch.setattr(Nf4Linear, "forward", lambda self, row: self.bias[None])
    assert measure_row_errors("cpu")["nf4"] > 10 * LARGEST_ROW_ERROR


def test_int8_is_left_out_where_it_is_not_multiplied(monkeypatch):
    monkeypatch.setattr(kernel_probe, "has_int8_products", lambda name: False)
    assert measure_row_errors("cpu").keys() == {"nf4"}


def test_a_device_that_is_not_there_fails_in_words():
    with pytest.raises((RuntimeError, AssertionError)):
        measure_row_errors("cuda:99")
