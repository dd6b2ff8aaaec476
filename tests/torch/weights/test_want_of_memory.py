"""A file of sources that finds no room in the address space is not called damaged.

Seen in: issue "what other people's reports broke", table B: `ulimit -v` while sources are opened.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import resource, sys
from pathlib import Path
from tinyv_cli.errors import DeviceError
from weights.reading.containers import open_tensor_file

path = Path(sys.argv[1])
lines = Path("/proc/self/status").read_text().splitlines()
[taken] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize")]
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]), -1))
try:
    open_tensor_file(path, path.name).read("a")
except DeviceError as error:
    print(error.problem)
"""
SIZE_BYTES = 64 << 20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is taken")
@pytest.mark.parametrize("free_bytes", [0, SIZE_BYTES // 2])
@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.safetensors"])
def test_a_file_that_finds_no_room_is_an_error_of_memory(tmp_path, name, free_bytes):
    path = tmp_path / name
    tensors = {"a": torch.zeros(SIZE_BYTES // 4)}
    (save_file if name.endswith("safetensors") else torch.save)(tensors, path)
    words = [sys.executable, "-c", PROGRAM, str(path), str(free_bytes)]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"memory does not suffice for {name}: "), done.stderr
