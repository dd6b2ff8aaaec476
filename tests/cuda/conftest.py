"""Tests that need a GPU; skipped with the reason where there is none."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _needs_gpu():
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no GPU")


@pytest.fixture(autouse=True)
def _no_limit_left_behind(_needs_gpu):
    """Each test starts with all of the GPU, and with nothing on it."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()
