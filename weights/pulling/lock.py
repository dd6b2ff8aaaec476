"""One folder is pulled into by one process at a time; the others wait and find it done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tinyv_cli.errors import WeightsError
from weights.pulling.folder import LOCK_NAME

_LOOK_EVERY_S = 0.2


@contextmanager
def hold_lock(folder: Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Holds a folder for this process; the system frees it should the process be killed.

    Args:
        folder: is made if it is not there.
        notify: is told when another process has to be waited for.

    Raises:
        WeightsError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            notify(f"another tinyv is pulling into {folder}; waiting for it")
            lock.acquire(poll_interval=_LOOK_EVERY_S)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WeightsError(
            f"{folder} cannot be written: {reason}", "name another folder with `--to DIR`"
        ) from error
    try:
        yield
    finally:
        lock.release()
