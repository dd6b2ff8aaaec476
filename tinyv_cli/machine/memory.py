"""This computer's main memory: how much a process may take of it, and what it gives back."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tinyv_cli.console import to_size
from tinyv_cli.errors import MEMORY_HINT, DeviceError

# Of addresses, that numpy and the CPU's runtime take: with two cores the miniature's answers ended
# in the middle within 350 MB, and were given within 400.
ANSWERING_BYTES = 350_000_000
_CORE_BYTES = 50_000_000  # of addresses that libraries' threads take for each core: stacks, arenas
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
# Names of the files that hold the limit and the use: of version 2 and of version 1.
_FILES = {
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
_M_MMAP_THRESHOLD = -3  # glibc's number
_GIVEN_BACK = ("inactive_file", "active_file")  # copies of files, which go when memory is short


@dataclass(frozen=True)
class MainMemory:
    """Bytes of main memory.

    Attributes:
        total_bytes: there is.
        available_bytes: of it that can be taken without anything being moved out.
    """

    total_bytes: int
    available_bytes: int


def read_main_memory(groups: Path = _GROUPS, own_groups: Path = _OWN_GROUPS) -> MainMemory:
    """Reads what there is and what is free.

    A container's limit counts as the computer's own: the system ends whoever takes more. Where a
    sandbox hides /proc, the C library is asked.

    Args:
        groups: where Linux shows control groups.
        own_groups: which of them are the process's.
    """
    try:
        found = psutil.virtual_memory()
        total_bytes, available_bytes = found.total, found.available
    except OSError:
        total_bytes, available_bytes = (
            os.sysconf("SC_PAGE_SIZE") * os.sysconf(name)
            for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES")
        )
    for limit_bytes, used_bytes in list_limits(total_bytes, groups, own_groups):
        total_bytes = min(total_bytes, limit_bytes)
        available_bytes = min(available_bytes, max(0, limit_bytes - used_bytes))
    return MainMemory(total_bytes, available_bytes)


def check_free_memory(work: str, needed_bytes: int) -> None:
    """Checks that as much memory is free as a work takes, before the system ends it for want of it.

    Args:
        work: that is begun, as "quantising".
        needed_bytes: that it takes.

    Raises:
        DeviceError: less is free.
    """
    free_bytes = read_main_memory().available_bytes
    if free_bytes < needed_bytes:
        raise DeviceError(
            f"{to_size(free_bytes, 2)} of memory are free, {work} takes {to_size(needed_bytes, 2)}",
            MEMORY_HINT,
        )


def check_address_space(work: str, needed_bytes: int) -> None:
    """Checks that a limit on this process (`ulimit -v`) leaves room for what it is about to load.

    Libraries raise errors for what they cannot map, but their threads, where one cannot be started
    or finds no memory, end the process or wait for ever.

    Args:
        work: that is begun, as "answering".
        needed_bytes: of addresses, but for those that each core's thread takes.

    Raises:
        DeviceError: it does not.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limits
        return
    limit_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
    needed_bytes += _CORE_BYTES * (os.cpu_count() or 1)
    if limit_bytes != resource.RLIM_INFINITY and limit_bytes < needed_bytes:
        raise DeviceError(
            f"this process may have {to_size(limit_bytes, 2)} of memory, {work} takes "
            f"{to_size(needed_bytes, 2)}",
            MEMORY_HINT,
        )


def give_back_freed() -> None:
    """Gives the system what was freed: glibc keeps blocks of up to 32 MB for the next ones.

    Does nothing with another C library.
    """
    import ctypes  # 4 ms, and only heavy code comes here

    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def return_large_blocks() -> None:
    """Has blocks from 1 MiB on given back to the system whenever they are freed.

    glibc raises that limit to the largest block freed so far, up to 32 MiB, and then cuts such
    blocks out of what it keeps for each thread, in pieces that never come together again. Does
    nothing with another C library. Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    import ctypes

    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def list_limits(below_bytes: int, groups: Path, own_groups: Path) -> Iterator[tuple[int, int]]:
    """Lists limits that hold for this process, and what is taken of each, in bytes.

    Args:
        below_bytes: limits from here on are none. What is taken of them is not asked, since the
            kernel needs half a millisecond for it, and pictures are decoded by the thousand.
        groups: where Linux shows control groups.
        own_groups: which of them are the process's.

    Source: the kernel's Documentation, admin-guide/cgroup-v1/memory and cgroup-v2.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = own_groups.read_text("utf-8", "replace").splitlines()
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers not in _FILES:
            continue
        root, (limit_name, used_name) = groups / controllers, _FILES[controllers]
        folder = root / path.lstrip("/")
        for each in (folder, *folder.parents):  # a parent's limit holds for its children
            # Whole numbers; "max", a file that is missing or strange: no limit.
            with suppress(OSError, ValueError):
                limit_bytes = int((each / limit_name).read_text())
                if limit_bytes < below_bytes:
                    yield limit_bytes, _read_used(each, used_name)
            if each == root:
                break


def _read_used(group: Path, name: str) -> int:
    """Reads the bytes that a group has taken, but for copies of files."""
    used_bytes = int((group / name).read_text())
    words = (group / "memory.stat").read_text().split()
    kinds = dict(zip(words[::2], words[1::2], strict=False))
    return used_bytes - sum(int(kinds.get(kind, 0)) for kind in _GIVEN_BACK)
