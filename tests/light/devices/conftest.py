"""A GPU and a variant with files for it and for the CPU, neither of which is there."""

import pytest

from tests.light.devices.toy_cuda import DRIVER, TORCH, put_gpus, write_cuda_variant
from tinyv_cli.disk import places
from tinyv_cli.variants import home


@pytest.fixture
def gpu(monkeypatch):
    """Puts a driver and a torch in place; returns how often torch was asked."""

    def put(driver=DRIVER, torch=TORCH):
        return put_gpus(monkeypatch, driver, torch)

    return put


@pytest.fixture
def both(place):
    return home.resolve_variant(str(write_cuda_variant(places.variants_dir() / "both")))
