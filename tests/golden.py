"""Where the golden cases lie beside the repository, and the mark that skips tests without them."""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
CASES = ("stage4", "stage3-split-qkv")

needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="golden cases are not beside the repository (../shared/golden)"
)
