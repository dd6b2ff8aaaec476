"""The driver is asked through its own library: which GPUs there are, or what stands in the way."""

import ctypes
import sys

import pytest

from tinyv_cli.devices.driver import Driver, Gpu, has_gpu, read_driver


class ToyLibrary:
    """libcuda as ctypes would open it, for GPUs of our choice."""

    def __init__(self, gpus=(), status=0):
        self._gpus = gpus
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
        count._obj.value = len(self._gpus)
        return 0

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, n_bytes, device):  # noqa: N802
        name.value = self._gpus[device.value].name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory, device):  # noqa: N802
        memory._obj.value = self._gpus[device.value].memory_bytes
        return 0

    def cuDeviceGetAttribute(self, number, attribute, device):  # noqa: N802
        number._obj.value = self._gpus[device.value].capability[attribute - 75]
        return 0


def test_the_driver_tells_its_gpus_without_torch():
    gpus = Gpu("NVIDIA A", 8 << 30, (8, 6)), Gpu("NVIDIA B", 6 << 30, (7, 5))
    asked = []
    driver = read_driver(lambda name: asked.append(name) or ToyLibrary(gpus), "linux")
    assert driver == Driver("12.4", gpus, None)
    assert read_driver(lambda name: asked.append(name) or ToyLibrary(gpus), "win32") == driver
    assert asked == ["libcuda.so.1", "nvcuda.dll"]


def test_a_library_that_is_not_there_is_no_driver():
    def load(name):
        raise OSError(name)

    driver = read_driver(load, "linux")
    assert (driver.cuda, driver.gpus) == (None, ())
    assert "there is no NVIDIA driver: libcuda.so.1" in driver.problem.problem
    assert "macOS" in read_driver(load, "darwin").problem.problem


def test_a_library_that_is_another_one_is_no_driver():
    other = ctypes.CDLL(None) if sys.platform != "win32" else object()
    driver = read_driver(lambda _: other, "linux")
    assert driver.gpus == ()
    assert "is no NVIDIA driver" in driver.problem.problem


@pytest.mark.parametrize("status", [0, 100])
def test_a_driver_without_a_gpu_says_whether_it_is_hidden(status, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    none = read_driver(lambda _: ToyLibrary(status=status), "linux")
    assert (none.cuda, none.problem.problem) == ("12.4", "the NVIDIA driver sees no GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    hidden = read_driver(lambda _: ToyLibrary(status=status), "linux")
    assert hidden.problem.problem == "CUDA_VISIBLE_DEVICES is '7' and hides every GPU"
    assert "unset CUDA_VISIBLE_DEVICES" in hidden.problem.hint


def test_a_driver_that_does_not_start_gives_its_own_reason():
    driver = read_driver(lambda _: ToyLibrary(status=803), "linux")
    assert driver.problem.problem == (
        "the NVIDIA driver does not start: system has unsupported display driver (error 803)"
    )


DEVICE_FILE = "dev/nvidia0"
LIKELY_FILES = ("proc/driver/nvidia/gpus/0000:01:00.0/information", "dev/dxg")


@pytest.fixture
def computer(tmp_path, monkeypatch):
    """Makes files as the driver has them; returns whether there is a GPU, of a driver at hand."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def tell(*names, has_library=True):
        for name in ("dev/null", "dev/nvidiactl", "dev/nvidia-uvm", *names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return has_gpu(tmp_path, "linux", lambda _: open_silent_library(has_library))

    return tell


def open_silent_library(is_there):
    """A library of which no function may be asked for."""
    if not is_there:
        raise OSError("libcuda.so.1")
    return object()


def test_on_linux_a_device_file_is_a_gpu_and_the_driver_is_not_asked(computer):
    assert not computer()
    assert computer(DEVICE_FILE, has_library=False)


@pytest.mark.parametrize("name", LIKELY_FILES)
def test_what_is_there_without_a_usable_gpu_counts_only_with_the_drivers_library(name, computer):
    assert not computer(name, has_library=False)
    assert computer(name)


@pytest.mark.parametrize(
    ("visible", "is_there"), [("", False), ("-1", False), ("-1,0", False), ("1", True), ("0", True)]
)
def test_a_gpu_that_is_hidden_is_none(visible, is_there, computer, monkeypatch):
    assert computer(DEVICE_FILE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert computer() is is_there


def test_elsewhere_the_driver_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("tinyv_cli.devices.driver.read_driver", read_driver)
    gpu = Gpu("NVIDIA A", 8 << 30, (8, 6))
    assert has_gpu(tmp_path, "win32", lambda _: ToyLibrary((gpu,)))
    assert not has_gpu(tmp_path, "win32", lambda _: ToyLibrary())
