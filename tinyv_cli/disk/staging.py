"""A folder is built beside its place and moved there when it is whole; knows no content.

Whatever moment the process is killed at, the place is as it was, or absent, or complete. What a
killed process left is removed, or put back, by the next one that builds there.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyv_cli.disk.lock import hold
from tinyv_cli.disk.whole_file import sync_folder
from tinyv_cli.errors import WeightsError


@contextmanager
def build_beside(target: Path) -> Iterator[Path]:
    """Gives an empty folder beside the target, and removes it if it is still there at the end.

    Args:
        target: where the folder is to stand in the end; its parents are made.

    Raises:
        WeightsError: another process is building it.
        OSError: it cannot be made.
    """

    def refuse() -> None:
        raise WeightsError(
            f"another tinyv is making {target}", "wait for it, or name another: `-o NAME`"
        )

    target.parent.mkdir(parents=True, exist_ok=True)
    with hold(target, refuse):
        clean_up(target)
        building = _beside(target, "building")
        building.mkdir()
        try:
            yield building
        finally:
            shutil.rmtree(building, ignore_errors=True)


def move_in(building: Path, target: Path, *, replace: bool) -> None:
    """Renames a finished folder to its place, once its content is surely on disk.

    Args:
        building: on the same disk as the target, which this process holds (`lock.hold`).
        target: its place.
        replace: whether a folder that stands there may go.

    Raises:
        WeightsError: the target exists and may not be replaced; it is left as it is.
        OSError: it cannot be moved; the target is as it was.
    """
    if target.exists() and not replace:
        raise WeightsError(
            f"{target} exists already", "use `--force` to replace it, or `-o` with another name"
        )
    _sync(building)
    replaced = _beside(target, "replaced")
    if target.exists():
        target.rename(replaced)
    try:
        building.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def clean_up(target: Path) -> None:
    """Removes what a killed process left beside the target; puts back what it had set aside.

    Args:
        target: a place that this process holds (`lock.hold`), so that nobody works on it.
    """
    replaced = _beside(target, "replaced")
    if replaced.exists() and not target.exists():
        replaced.rename(target)
    for left_over in (replaced, _beside(target, "building")):
        shutil.rmtree(left_over, ignore_errors=True)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.tinyv-{kind}")


def _sync(folder: Path) -> None:
    """Makes everything in a folder survive a power cut."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
