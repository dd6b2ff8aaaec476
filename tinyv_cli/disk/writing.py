"""The system's refusal to write becomes an error that names the file; bugs keep their traceback."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyv_cli.errors import DeviceError, TinyvError, check_memory, describe_os_error

WAY_OUT = "make room or allow it, or name another place; then run the same command again"

DISK_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
# What a full, broken, locked or read-only disk answers. A file that is not there, a closed file and
# the like are not among them: there the program is wrong, or somebody has removed what it made.
_REFUSALS = frozenset(
    number
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "ESTALE", "EBUSY"),
        *("ENAMETOOLONG", "ELOOP", "ENOTDIR", "EISDIR", "EMFILE", "ENFILE", "ENXIO", "EEXIST"),
    )
    if (number := getattr(errno, name, None)) is not None
)


@contextmanager
def writing(place: Path, way_out: str = WAY_OUT) -> Iterator[None]:
    """Turns a refusal while a file, or a folder's files, are written into an error that names it.

    Errors about files elsewhere, as those that are only read, are let through. The system gives no
    name where it refuses an open file: then it is the place that is named.

    Args:
        place: the file, or the folder.
        way_out: the hint.

    Raises:
        DeviceError: the system refuses.
    """
    try:
        yield
    except OSError as error:
        whole = os.path.realpath(place)
        # A number is that of an open file.
        named = [each for each in (error.filename2, error.filename) if each is not None]
        names = [os.fsdecode(each) for each in named if not isinstance(each, int)]
        below = (each for each in names if Path(os.path.realpath(each)).is_relative_to(whole))
        name = next(below, None)
        if error.errno not in _REFUSALS or (names and name is None):
            raise
        raise make_write_error(name or place, error, way_out) from error


def make_folder(folder: Path, way_out: str = WAY_OUT, *, is_new: bool = False) -> None:
    """Makes a folder and its parents where they are missing.

    Args:
        folder: the folder.
        way_out: the hint.
        is_new: whether it may not be there already.

    Raises:
        DeviceError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=not is_new)
    except OSError as error:
        failed = folder if error.filename is None else os.fsdecode(error.filename)
        raise make_write_error(failed, error, way_out) from error


def check_place(place: Path, way_out: str = WAY_OUT) -> None:
    """Checks that a file or folder may be looked at where it is, or is to be; nothing is made.

    Raises:
        DeviceError: its name is too long, links lead in a ring, or a folder above it may not be
            entered or is none.
    """
    try:
        place.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise make_write_error(place, error, way_out) from error


def to_refusal(error: Exception) -> DeviceError | None:
    """Returns what the system's refusal means, wherever it came from; None of any other error.

    Where a file is opened, what is wrong with it is said better; this is for the place that nobody
    thought of, since a path that may not be looked at is no bug.
    """
    if not isinstance(error, OSError):
        return None
    named = error.filename if isinstance(error.filename, str | bytes) else ""
    name = os.fsdecode(named)
    if error.errno in DISK_FULL:
        place = f" for {name}" if name else ""
        return DeviceError(f"the disk has no room left{place}", "free some space and try again")
    if error.errno not in _REFUSALS or not name:
        return None
    return DeviceError(f"{name} cannot be used: {describe_os_error(error)}", WAY_OUT)


def to_planned(error: Exception) -> TinyvError | None:
    """Finds the planned failure that an exception means; None where nobody planned for it."""
    try:
        check_memory(error.__cause__ if isinstance(error, TinyvError) else error)
    except DeviceError as short:
        return short
    return error if isinstance(error, TinyvError) else to_refusal(error)


def make_write_error(place: str | Path, error: OSError, way_out: str = WAY_OUT) -> DeviceError:
    """Makes the error of a file or folder that the system refuses to write."""
    return DeviceError(f"{place} cannot be written: {describe_os_error(error)}", way_out)
