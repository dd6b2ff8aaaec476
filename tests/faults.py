"""A disk that refuses one thing, the first to the last that a program asks of it, for tests.

What is written, opened for writing, made, renamed, removed or synced below a folder is counted, and
the one with the given number fails as the system would fail it.
"""

import builtins
import errno
import io
import os
import sys
from contextlib import contextmanager
from pathlib import Path

KINDS = (errno.EIO, errno.EACCES, errno.ENOSPC)
_MAKING = {"os.mkdir", "os.rename", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_open, _fsync = io.open, os.fsync


class Disk:
    """What is asked of a disk below a folder.

    Attributes:
        folder: all of it counts.
        refused: the number that fails, from 0 on; None for none.
        code: of the refusal.
        asked: what was asked for, in its order: what and where.
    """

    def __init__(self, folder, refused=None, code=errno.EIO):
        self.folder = os.path.realpath(folder)
        self.refused = refused
        self.code = code
        self.asked = []

    def ask(self, what, path, *names):
        """Counts what is asked for; fails it with the names that the system would give."""
        if isinstance(path, int):
            return
        place = os.fsdecode(path)
        if Path(os.path.realpath(place)).is_relative_to(self.folder):
            self.asked.append((what, place))
            if len(self.asked) - 1 == self.refused:
                raise OSError(self.code, os.strerror(self.code), *names)


_disk = None
_is_hooked = False


def _audit(event, arguments):
    if _disk is None:
        return
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        _disk.ask("open", arguments[0], arguments[0])
    elif event in _MAKING:
        _disk.ask(event, arguments[0], arguments[0])


class _Raw(io.FileIO):
    """A file whose writes are asked for first."""

    place = ""

    def write(self, data):
        if _disk is not None:
            _disk.ask("write", self.place)
        return super().write(data)


def _find_name(opened):
    return str(Path(f"/proc/self/fd/{opened}").readlink())


def _open_asking(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **others):
    if not set(mode) & set("wax+"):
        return _open(file, mode, buffering, encoding, errors, newline, **others)
    file = file if isinstance(file, int) else os.fspath(file)
    raw = _Raw(file, mode.replace("b", "").replace("t", ""), **others)
    raw.place = _find_name(raw.fileno()) if isinstance(file, int) else file
    if buffering == 0:
        return raw
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


def _fsync_asking(opened):
    if _disk is not None and isinstance(opened, int):
        _disk.ask("fsync", _find_name(opened))
    return _fsync(opened)


@contextmanager
def watched(disk):
    """Has a disk asked for everything until the block ends."""
    global _disk, _is_hooked
    if not _is_hooked:
        sys.addaudithook(_audit)  # which stays, and does nothing outside such blocks
        _is_hooked = True
    builtins.open = io.open = _open_asking
    os.fsync = _fsync_asking
    _disk = disk
    try:
        yield disk
    finally:
        _disk = None
        builtins.open = io.open = _open
        os.fsync = _fsync
