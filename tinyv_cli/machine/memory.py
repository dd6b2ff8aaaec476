"""This computer's main memory: how much a process may take of it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
# Names of the files that hold the limit and the use: of version 2 and of version 1.
_FILES = {
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
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
    for limit_bytes, used_bytes in list_limits(groups, own_groups):
        total_bytes = min(total_bytes, limit_bytes)
        available_bytes = min(available_bytes, max(0, limit_bytes - used_bytes))
    return MainMemory(total_bytes, available_bytes)


def list_limits(groups: Path, own_groups: Path) -> Iterator[tuple[int, int]]:
    """Lists limits that hold for this process, and what is taken of each, in bytes.

    Args:
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
        root = groups / controllers
        folder = root / path.lstrip("/")
        for each in (folder, *folder.parents):  # a parent's limit holds for its children
            # Whole numbers; "max", a file that is missing or strange: no limit.
            with suppress(OSError, ValueError, KeyError):
                limit_bytes, used_bytes = (int((each / n).read_text()) for n in _FILES[controllers])
                words = (each / "memory.stat").read_text().split()
                kinds = dict(zip(words[::2], words[1::2], strict=False))
                given_back = sum(int(kinds.get(kind, 0)) for kind in _GIVEN_BACK)
                yield limit_bytes, used_bytes - given_back
            if each == root:
                break
