"""The machine is described in names, numbers and versions; times nothing."""

import platform

import psutil

from tinyv_cli.devices.choice import read_version
from tinyv_cli.machine.memory import read_main_memory
from tinyv_cli.variants.memory import read_proc_line

_PACKAGES = ("tinyv", "onnxruntime", "numpy")


def describe_machine(threads: int) -> dict[str, str | int | None]:
    """Describes what figures depend on besides the variant.

    Args:
        threads: that the runtime works with.

    Returns:
        Names, numbers and versions for a document; None for what cannot be found out.
    """
    return {
        "processor": read_processor_name(),
        "cores": psutil.cpu_count(logical=False),
        "threads": threads,
        "memory_bytes": read_main_memory().total_bytes,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: read_version(name) for name in _PACKAGES},
    }


def read_processor_name() -> str:
    """Returns the processor's name as Linux has it, else as Python does."""
    name = read_proc_line("/proc/cpuinfo", "model name")
    return name or platform.processor() or platform.machine()
