"""A file becomes its bytes; a pipe is read to its end, and what would never end is refused.

A pipe that nobody writes into, a device and a socket can be named as a file, by accident or by a
pattern, and reading them waits for ever or fills the memory.
"""

import errno
import os
import select
import stat
from collections.abc import Callable
from pathlib import Path

WRITER_COMES_WITHIN_S = 0.2
_LOOK_EVERY_S = 0.1
_CHUNK_BYTES = 1 << 16


def read_bytes(path: Path, is_wanted: Callable[[], bool] = lambda: True) -> bytes:
    """Reads a file, a terminal, or a pipe that somebody writes into (`<(…)` of a shell).

    Args:
        path: of the file.
        is_wanted: is asked while a pipe keeps its reader waiting.

    Raises:
        OSError: it cannot be read; or it is a folder, a device, a socket or a pipe that nobody
            writes into, or is not wanted any more.
    """
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode):
        return _read_pipe(path, is_wanted)
    if stat.S_ISCHR(mode):
        with path.open("rb") as file:
            if file.isatty():
                return file.read()
    elif not stat.S_ISSOCK(mode) and not stat.S_ISBLK(mode):
        return path.read_bytes()
    raise OSError(errno.EINVAL, "it is a device or a socket, not a file", str(path))


def is_pipe(path: Path) -> bool:
    """Returns whether a path leads to a pipe."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _read_pipe(path: Path, is_wanted: Callable[[], bool]) -> bytes:
    """Reads a pipe to its end, without waiting for somebody to open its other side."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    content = bytearray()
    try:
        # A shell starts the program that writes and the one that reads at the same time.
        select.select([opened], [], [], WRITER_COMES_WITHIN_S)
        while is_wanted():
            try:
                piece = os.read(opened, _CHUNK_BYTES)
            except BlockingIOError:  # somebody has it open, and has nothing to say yet
                select.select([opened], [], [], _LOOK_EVERY_S)
                continue
            if piece:
                content += piece
            elif content:
                return bytes(content)
            else:
                raise OSError(errno.ENXIO, "nobody writes into this pipe", str(path))
    finally:
        os.close(opened)
    raise OSError(errno.ECANCELED, "it was not waited for", str(path))
