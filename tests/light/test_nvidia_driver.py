"""The driver is asked through its own library: which cards there are, or what stands in the way."""

import ctypes
import sys

import pytest

from tinyv_cli.nvidia_driver import Card, Driver, read_driver


class ToyLibrary:
    """libcuda as ctypes would open it, for cards of our choice."""

    def __init__(self, cards=(), status=0):
        self._cards = cards
        self._status = status

    def cuDriverGetVersion(self, version):  # noqa: N802  # C's own names
        version._obj.value = 12040
        return 0

    def cuInit(self, flags):  # noqa: N802
        return self._status

    def cuGetErrorString(self, status, text):  # noqa: N802
        text._obj.value = b"system has unsupported display driver"
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self._cards)
        return 0

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, n_bytes, device):  # noqa: N802
        name.value = self._cards[device.value].name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory, device):  # noqa: N802
        memory._obj.value = self._cards[device.value].memory_bytes
        return 0

    def cuDeviceGetAttribute(self, number, attribute, device):  # noqa: N802
        number._obj.value = self._cards[device.value].capability[attribute - 75]
        return 0


def test_the_driver_tells_its_cards_without_torch():
    cards = Card("NVIDIA A", 8 << 30, (8, 6)), Card("NVIDIA B", 6 << 30, (7, 5))
    asked = []
    driver = read_driver(lambda name: asked.append(name) or ToyLibrary(cards), "linux")
    assert driver == Driver("12.4", cards, None)
    assert read_driver(lambda name: asked.append(name) or ToyLibrary(cards), "win32") == driver
    assert asked == ["libcuda.so.1", "nvcuda.dll"]


def test_a_library_that_is_not_there_is_no_driver():
    def load(name):
        raise OSError(name)

    driver = read_driver(load, "linux")
    assert (driver.cuda, driver.cards) == (None, ())
    assert "there is no NVIDIA driver: libcuda.so.1" in driver.obstacle.problem
    assert "macOS" in read_driver(load, "darwin").obstacle.problem


def test_a_library_that_is_another_one_is_no_driver():
    other = ctypes.CDLL(None) if sys.platform != "win32" else object()
    driver = read_driver(lambda _: other, "linux")
    assert driver.cards == ()
    assert "is no NVIDIA driver" in driver.obstacle.problem


@pytest.mark.parametrize("status", [0, 100])
def test_a_driver_without_a_card_says_whether_it_is_hidden(status, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    none = read_driver(lambda _: ToyLibrary(status=status), "linux")
    assert (none.cuda, none.obstacle.problem) == ("12.4", "the NVIDIA driver sees no GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    hidden = read_driver(lambda _: ToyLibrary(status=status), "linux")
    assert hidden.obstacle.problem == "CUDA_VISIBLE_DEVICES is '7' and hides every GPU"
    assert "unset CUDA_VISIBLE_DEVICES" in hidden.obstacle.hint


def test_a_driver_that_does_not_start_gives_its_own_reason():
    driver = read_driver(lambda _: ToyLibrary(status=803), "linux")
    assert driver.obstacle.problem == (
        "the NVIDIA driver does not start: system has unsupported display driver (error 803)"
    )
