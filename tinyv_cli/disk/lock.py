"""One process at a time works on a place on disk; the system frees it should the process die."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tinyv_cli.disk.places import locks_dir
from tinyv_cli.disk.writing import make_folder, writing

_LOOK_EVERY_S = 0.2
_ALLOW_LOCKS = "name a folder that can be written: `export TINYV_HOME=DIR`"


@contextmanager
def hold(place: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Holds a file or folder for this process, whether it exists or not.

    Lock files lie with tinyv's own files and stay there, empty: one in the user's folder would be
    a file that nobody asked for, and a lock file cannot be removed without a race.

    Args:
        place: what is worked on.
        wait: is called once where another process holds it, and may raise instead of waiting.

    Raises:
        DeviceError: no lock file can be made.
    """
    file = _find_lock_file(place)
    lock = FileLock(file)
    with writing(file, _ALLOW_LOCKS):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            wait()
            lock.acquire(poll_interval=_LOOK_EVERY_S)
    try:
        yield
    finally:
        lock.release()


def _find_lock_file(place: Path) -> Path:
    """Returns a place's lock file, among temporary files where tinyv's own folder is read-only."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(place))).hexdigest()[:32] + ".lock"
    folder = locks_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(folder, os.W_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        # By number, since a folder shared by users without a name would be the first one's alone.
        user = os.getuid() if hasattr(os, "getuid") else "locks"
        folder = Path(tempfile.gettempdir()) / f"tinyv-locks-{user}"
        make_folder(folder, _ALLOW_LOCKS)
    return folder / name
