"""The functions used of bitsandbytes, imported fast and without its lines on stderr.

It logs which of its libraries it took, and that faster kernels for a CPU could be fetched; `told`
keeps the first, for a report on this computer. It also has four functions compiled that are not
used here: preparing torch for that takes longer than all the rest (`torch.compile`, 2 s).
"""

import logging

import torch

told: list[str] = []  # what bitsandbytes logged about this computer, in its words


class _Keeper(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a line instead of printing it."""
        told.append(record.getMessage())


_logger = logging.getLogger("bitsandbytes")
_logger.addHandler(_Keeper())
_logger.propagate = False
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_compile = torch.compile
torch.compile = lambda function, **_: function  # type: ignore[assignment]
try:
    from bitsandbytes import matmul_4bit
    from bitsandbytes.cextension import lib
    from bitsandbytes.functional import (
        QuantState,
        dequantize_4bit,
        int8_linear_matmul,
        int8_mm_dequant,
        int8_vectorwise_quant,
        quantize_4bit,
    )
finally:
    torch.compile = _compile

__all__ = [
    "QuantState",
    "dequantize_4bit",
    "int8_linear_matmul",
    "int8_mm_dequant",
    "int8_vectorwise_quant",
    "lib",
    "matmul_4bit",
    "quantize_4bit",
    "told",
]
