"""The machine and this process become names, versions and a peak of memory; times nothing."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_PACKAGES = ("tinyv", "onnxruntime", "numpy")


def describe_machine(threads: int) -> dict[str, str | int | None]:
    """What figures depend on besides the variant.

    Args:
        threads: that the runtime works with.

    Returns:
        Names, numbers and versions for a document; None for what cannot be found out.
    """
    return {
        "processor": read_processor_name(),
        "cores": psutil.cpu_count(logical=False),
        "threads": threads,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _read_version(name) for name in _PACKAGES},
    }


def read_processor_name() -> str:
    """The processor's name as Linux tells it, else as Python does."""
    name = _read_proc_line("/proc/cpuinfo", "model name")
    return name or platform.processor() or platform.machine()


def read_peak_rss_bytes() -> int | None:
    """The most memory this process had resident until now; None on Windows.

    Mapped files count as far as they were touched. On Linux `ru_maxrss` would be the peak of the
    process that started this one, where that was larger: it is kept when a program is executed.

    Source: proc_pid_status(5), `VmHWM` in kilobytes; getrusage(2), `ru_maxrss` in kilobytes on
    Linux, in bytes on macOS.
    """
    if sys.platform == "win32":
        return None
    import resource

    number = _read_proc_line("/proc/self/status", "VmHWM").removesuffix("kB").strip()
    if number.isdecimal():
        return 1024 * int(number)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _read_proc_line(path: str, name: str) -> str:
    """What stands behind a name in a file of Linux; empty on other systems."""
    try:
        lines = Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _read_version(package: str) -> str | None:
    """The version that is installed; None of a package that goes by another name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
