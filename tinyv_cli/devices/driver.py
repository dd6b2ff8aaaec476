"""The NVIDIA driver becomes a list of gpus, without torch; takes no memory of a card.

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
    """Why something cannot be used, and what can be done about it.

    Attributes:
        problem: one sentence, as an error has it.
        hint: an imperative.
    """

    problem: str
    hint: str


@dataclass(frozen=True)
class Gpu:
    """A graphics card as the driver sees it.

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
    """What the NVIDIA driver says.

    Attributes:
        cuda: the newest CUDA that it runs, as `12.4`; None where there is no driver.
        gpus: those that this process may use, in their order.
        problem: why there is no card; None where there is one.
    """

    cuda: str | None
    gpus: tuple[Gpu, ...]
    problem: DeviceProblem | None


def read_driver(load: Callable[[str], Any] = ctypes.CDLL, platform: str = sys.platform) -> Driver:
    """Asks the driver for its gpus; whatever fails is an obstacle, not an error.

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
            "install the driver of the card (`nvidia-smi` shows whether it works)",
        )
    try:
        return _ask(library)
    except AttributeError as error:
        return _make_none(f"{name} is no NVIDIA driver: {error}", "install the driver again")


def has_gpu(
    root: Path = Path("/"),
    platform: str = sys.platform,
    load: Callable[[str], Any] = ctypes.CDLL,
) -> bool:
    """Whether there is a card that this process may use, on Linux without starting the driver.

    On Linux its files tell as much, but for numbers in `CUDA_VISIBLE_DEVICES` that no card has;
    elsewhere the driver is asked.

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
    if first.strip() in ("", "-1"):  # what comes behind a number that no card has is not read
        return False
    if any(root.glob("dev/nvidia[0-9]*")):
        return True
    # A container sees its host's `proc`, and WSL has `dxg` for any maker's card.
    is_likely = any(root.glob("proc/driver/nvidia/gpus/*")) or (root / "dev" / "dxg").exists()
    return is_likely and _can_load(load)


def _can_load(load: Callable[[str], Any]) -> bool:
    """Whether the driver's library is there; it is loaded, and asked nothing."""
    try:
        load(_LIBRARY)
    except OSError:
        return False
    return True


def _make_none(problem: str, hint: str) -> Driver:
    return Driver(None, (), DeviceProblem(problem, hint))


def _ask(library: Any) -> Driver:  # noqa: ANN401  # functions of C have no type
    """What the opened library answers."""
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    status = library.cuInit(0)
    if status not in (0, _NO_DEVICE):
        text = ctypes.c_char_p()
        library.cuGetErrorString(status, ctypes.byref(text))
        reason = (text.value or b"no reason given").decode("ascii", "replace")
        problem = f"the NVIDIA driver does not start: {reason} (error {status})"
        return Driver(
            cuda, (), DeviceProblem(problem, "restart the computer, or update the driver")
        )
    n_cards = ctypes.c_int()
    if status == 0:
        library.cuDeviceGetCount(ctypes.byref(n_cards))
    if n_cards.value == 0:
        return Driver(cuda, (), _explain_no_card(os.environ.get(_VISIBLE)))
    return Driver(cuda, tuple(_read_card(library, i) for i in range(n_cards.value)), None)


def _explain_no_card(visible: str | None) -> DeviceProblem:
    """A driver without a card: hidden, or not there."""
    if visible is not None:
        return DeviceProblem(
            f"{_VISIBLE} is '{visible}' and hides every GPU", f"`unset {_VISIBLE}`"
        )
    return DeviceProblem(
        "the NVIDIA driver sees no GPU",
        "look whether `nvidia-smi` lists one (in a container: `docker run --gpus all`)",
    )


def _read_card(library: Any, index: int) -> Gpu:  # noqa: ANN401
    """One card by its place."""
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
