"""A row is multiplied with a small matrix of each kind; prints by how much that is off.

It runs as a process of its own, `devices/kernels.py` says why: `python -m
tinyv_cli.backends.cuda.kernel_probe cuda`. The last line of stdout is a JSON object.
"""

import json
import sys

import torch
from torch import Tensor, nn

from tinyv_cli.backends.cuda.torch_device import TorchDevice, has_int8_products
from tinyv_cli.backends.cuda.torch_modules import LARGEST_CODE, Int8Linear, Nf4Linear, read_nf4
from tinyv_cli.devices.quiet_bitsandbytes import quantize_4bit

_SIDE = 256  # of the matrices: whole blocks of scales, and of scales of scales


@torch.no_grad()
def measure_row_errors(name: str) -> dict[str, float]:
    """Multiplies a row on a device with matrices in NF4 and in int8, and in float32 on the CPU.

    Args:
        name: of the device.

    Returns:
        ‖out − expected‖ / ‖expected‖ by kind, `nf4` and, where it is multiplied, `int8`.

    Raises:
        RuntimeError: a product cannot be computed there.
    """
    device = TorchDevice(name)
    generator = torch.Generator().manual_seed(0)
    row, bias = torch.randn((2, 1, _SIDE), generator=generator).to(device.dtype)
    matrix = torch.randn(_SIDE, _SIDE, generator=generator)

    def measure(linear: nn.Module, numbers: Tensor) -> float:
        expected = row.float() @ numbers.T + bias.float()
        out = linear(row.to(name)).float().cpu()
        return float((out - expected).norm() / expected.norm())

    packed, state = quantize_4bit(matrix, blocksize=64, quant_type="nf4", compress_statistics=True)
    numbers = read_nf4(packed, state, torch.float32)
    state.to(name)
    errors = {"nf4": measure(Nf4Linear(packed.to(name), state, bias[0].to(name)), numbers)}
    if has_int8_products(name):
        largest = matrix.abs().amax(1)
        codes = torch.round(matrix * (LARGEST_CODE / largest[:, None])).to(torch.int8)
        linear = Int8Linear(codes.to(name), largest.to(name), bias[0].half().to(name))
        errors["int8"] = measure(linear, codes * largest[:, None] / LARGEST_CODE)
    return errors


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(measure_row_errors(sys.argv[1]))}\n")
