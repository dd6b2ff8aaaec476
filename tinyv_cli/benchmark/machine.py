"""The machine becomes names, numbers and versions; times nothing."""

import platform
from importlib.metadata import PackageNotFoundError, version

import psutil

from tinyv_cli.variants.memory import read_proc_line

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
    name = read_proc_line("/proc/cpuinfo", "model name")
    return name or platform.processor() or platform.machine()


def _read_version(package: str) -> str | None:
    """The version that is installed; None of a package that goes by another name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
