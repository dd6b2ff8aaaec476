"""A file is written beside its place and moved there when it is whole.

Whatever moment the process is killed at, the place holds what it held before or all that is new;
beside it may lie a file of a random name, `.tinyv-….tmp`, which the killed process left.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

HALF_WRITTEN = re.compile(r"\.tinyv-[0-9a-f]{16}\.tmp")  # names of what a killed process left
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@contextmanager
def open_whole(path: Path, *, is_durable: bool = True) -> Iterator[IO[bytes]]:
    """Opens a file that takes another one's place when the block ends without an error.

    It is written under a random name in the same folder, so that nothing there is touched. Where
    `path` is a link, the file that it leads to is replaced. Permissions stay those of the file
    that was there; a new file has what the process's umask allows. A pipe or a device, which holds
    nothing that could be kept, is written as it comes; a pipe that nobody reads is refused.

    Args:
        path: the place; its folder exists.
        is_durable: whether content and name survive a power cut from the end of the block on.
            What can be computed again does without: it costs milliseconds a file.

    Raises:
        OSError: it cannot be written, and its name says so; the place is as it was.
    """
    kind = None
    with suppress(FileNotFoundError):
        kind = stat.S_IFMT(path.stat().st_mode)
    if kind not in (None, stat.S_IFREG, stat.S_IFDIR):
        # Moving a file there would put a file in the place of /dev/null, for everybody.
        with _open_as_it_is(path) as file:
            yield file
        return
    place = Path(os.path.realpath(path))
    # A name of its own, since one derived from the place's could be longer than the system takes.
    fresh = place.with_name(f".tinyv-{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(os.open(fresh, _NEW_FILE, 0o666), "wb") as file:
            yield file
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        with suppress(OSError):
            fresh.chmod(stat.S_IMODE(place.stat().st_mode))
        fresh.replace(place)
        if is_durable:
            sync_folder(place.parent)
    except OSError as error:
        # The system says a name that is nobody's, or none at all where the file is open.
        if error.filename is None or Path(os.fsdecode(error.filename)) == fresh:
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            fresh.unlink()


def _open_as_it_is(path: Path) -> IO[bytes]:
    """Opens a pipe or a device, without waiting for somebody to read a pipe."""
    try:
        opened = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO and path.is_fifo():
            raise OSError(errno.ENXIO, "nobody reads from this pipe", str(path)) from error
        raise
    os.set_blocking(opened, True)
    return os.fdopen(opened, "wb")


def write_whole(path: Path, content: bytes | str, *, is_durable: bool = True) -> None:
    """Writes a file as a whole or not at all; text is written as UTF-8.

    Raises:
        OSError: it cannot be written; the place is as it was.
    """
    with open_whole(path, is_durable=is_durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync_file(path: Path) -> None:
    """Makes a file's content survive a power cut.

    Raises:
        OSError: it does not reach the disk.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut, where the system can."""
    if os.name == "nt":
        return  # Windows opens no folder, and keeps names in a journal
    with suppress(OSError):  # some network file systems refuse it
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
