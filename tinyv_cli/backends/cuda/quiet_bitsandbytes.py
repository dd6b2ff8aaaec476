"""The functions used of bitsandbytes, imported without its line on stderr.

On some processors it logs that faster kernels could be fetched, even if a GPU does the work.
"""

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

from bitsandbytes import matmul_4bit  # noqa: E402 - after the line above
from bitsandbytes.functional import (  # noqa: E402
    QuantState,
    dequantize_4bit,
    int8_linear_matmul,
    int8_mm_dequant,
    int8_vectorwise_quant,
    quantize_4bit,
)

__all__ = [
    "QuantState",
    "dequantize_4bit",
    "int8_linear_matmul",
    "int8_mm_dequant",
    "int8_vectorwise_quant",
    "matmul_4bit",
    "quantize_4bit",
]
