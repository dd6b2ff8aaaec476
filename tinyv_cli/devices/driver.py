"""The NVIDIA driver becomes a list of GPUs, without torch and without their memory.

The driver's own library is asked, which comes with the driver and with nothing else.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_BYTES = 256
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_LIBRARY = "libcuda.so.1"


@dataclass(frozen=True)
class DeviceProblem:
    """A reason why a device cannot be used, and a way out.

    Attributes:
        problem: one sentence, as an error has it.
        hint: an imperative.
    """

    problem: str
    hint: str


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver sees it.

    Attributes:
        name: as its maker calls it.
        memory_bytes: in all.
        capability: major and minor number of its architecture: (8, 6) is `sm_86`.
    """

    name: str
    memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver's version and GPUs.

    Attributes:
        cuda: the newest CUDA that it runs, as `12.4`; None where there is no driver.
        gpus: those that this process may use, in their order.
        problem: why there is no GPU; None where there is one.
    """

    cuda: str | None
    gpus: tuple[Gpu, ...]
    problem: DeviceProblem | None


def read_driver(load: Callable[[str], Any] = ctypes.CDLL, platform: str = sys.platform) -> Driver:
    """Asks the driver for its GPUs; whatever fails is returned as a problem, not raised.

    Args:
        load: opens a library by its name, and raises OSError where there is none.
        platform: as `sys.platform` calls it.

    Source: CUDA Driver API, `cuInit`, `cuDriverGetVersion`, `cuDeviceGet*`, `cuDeviceTotalMem`.
    """
    if platform == "darwin":
        return _make_none("there is no NVIDIA driver for macOS", "use another computer")
    name = "nvcuda.dll" if platform == "win32" else _LIBRARY
    try:
        library = load(name)
    except OSError:
        return _make_none(
            f"there is no NVIDIA driver: {name} cannot be loaded",
            "install the GPU's driver (`nvidia-smi` shows whether it works)",
        )
    version, n_gpus, text = ctypes.c_int(), ctypes.c_int(), ctypes.c_char_p()
    try:
        library.cuDriverGetVersion(ctypes.byref(version))
        status = library.cuInit(0)
        if status == 0:
            library.cuDeviceGetCount(ctypes.byref(n_gpus))
        elif status != _NO_DEVICE:
            library.cuGetErrorString(status, ctypes.byref(text))
        gpus = tuple(_read_gpu(library, index) for index in range(n_gpus.value))
    except AttributeError as error:
        return _make_none(f"{name} is no NVIDIA driver: {error}", "install the driver again")
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if gpus:
        return Driver(cuda, gpus, None)
    if status not in (0, _NO_DEVICE):
        reason = (text.value or b"no reason given").decode("ascii", "replace")
        problem = f"the NVIDIA driver does not start: {reason} (error {status})"
        return _make_none(problem, "restart the computer, or update the driver", cuda)
    visible = os.environ.get(_VISIBLE)
    if visible is not None:
        problem = f"{_VISIBLE} is '{visible}' and hides every GPU"
        return _make_none(problem, f"`unset {_VISIBLE}`", cuda)
    hint = "look whether `nvidia-smi` lists one (in a container: `docker run --gpus all`)"
    return _make_none("the NVIDIA driver sees no GPU", hint, cuda)


def has_gpu(
    root: Path = Path("/"),
    platform: str = sys.platform,
    load: Callable[[str], Any] = ctypes.CDLL,
) -> bool:
    """Checks for a GPU that this process may use, on Linux without starting the driver.

    On Linux the driver's files tell as much, but for numbers in `CUDA_VISIBLE_DEVICES` that no GPU
    has; elsewhere the driver is asked.

    Args:
        root: that `dev` and `proc` lie in.
        platform: as `sys.platform` calls it.
        load: opens a library by its name, and raises OSError where there is none.

    Source: NVIDIA Linux driver README, "Using the /proc File System Interface"; CUDA Programming
    Guide, "CUDA Environment Variables".
    """
    if platform != "linux":
        return bool(read_driver(load, platform).gpus)
    first, _, _ = os.environ.get(_VISIBLE, "0").partition(",")
    if first.strip() in ("", "-1"):  # what comes behind a number that no GPU has is not read
        return False
    if any(root.glob("dev/nvidia[0-9]*")):
        return True
    # A container that was not given its host's GPU still sees the host's `/proc`, and WSL has
    # `/dev/dxg` for any maker's GPU: both count only where the driver's library can be loaded too.
    if not any(root.glob("proc/driver/nvidia/gpus/*")) and not (root / "dev" / "dxg").exists():
        return False
    try:
        load(_LIBRARY)
    except OSError:
        return False
    return True


def _make_none(problem: str, hint: str, cuda: str | None = None) -> Driver:
    return Driver(cuda, (), DeviceProblem(problem, hint))


def _read_gpu(library: Any, index: int) -> Gpu:  # noqa: ANN401  # functions of C have no type
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, _NAME_BYTES, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

    def read_attribute(attribute: int) -> int:
        number = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        return number.value

    capability = read_attribute(_CAPABILITY_MAJOR), read_attribute(_CAPABILITY_MINOR)
    return Gpu(name.value.decode("utf-8", "replace"), memory.value, capability)
