"""What the user, the environment and the machine say becomes a number of threads."""

import os

import psutil

from tinyv_cli.errors import UsageError


def resolve_threads(asked: int | None) -> int:
    """Chooses the number of threads: asked for, else OMP_NUM_THREADS, else the physical cores.

    Two threads on one core share its multipliers and its path to memory, and gain nothing.

    Args:
        asked: the value of `--threads`, None where it was not given.

    Returns:
        At least 1, and, when nobody asked, at most the cores that this process may use.

    Raises:
        UsageError: fewer than one thread was asked for.
    """
    if asked is not None:
        if asked < 1:
            raise UsageError(f"{asked} threads compute nothing", "use `--threads 1` or more")
        return asked
    from_environment = os.environ.get("OMP_NUM_THREADS", "")
    if from_environment.isdecimal() and int(from_environment) > 0:
        return int(from_environment)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, allowed or 1))
