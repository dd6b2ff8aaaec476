"""What the tests of the export share: exported folders, the runtimes that open them."""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest

from tests.demo import DEMO
from tests.golden import CASES, GOLDEN

needs_optimum = pytest.mark.skipif(
    find_spec("optimum") is None, reason="optimum is not installed: `pip install '.[export]'`"
)
needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="openvino is not installed: `pip install '.[runtimes]'`"
)
MINIATURE = "miniature"
SOURCES = {MINIATURE: DEMO / "sources", **{case: GOLDEN / case for case in CASES}}


def open_in_openvino(path) -> Callable[[np.ndarray], np.ndarray]:
    """What computes image tokens of pixels by another maker's runtime, in float32 throughout."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
    return lambda pixels: compiled(pixels)[0]
