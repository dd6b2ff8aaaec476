"""What the project uses of bitsandbytes, imported without its line on stderr.

On some processors it tells that faster kernels could be fetched, also where a card does the work.
"""

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

from bitsandbytes import MatmulLtState, matmul, matmul_4bit  # noqa: E402 - after the line above
from bitsandbytes.functional import QuantState  # noqa: E402

__all__ = ["MatmulLtState", "QuantState", "matmul", "matmul_4bit"]
