"""A folder is built beside its place and moved there when it is whole.

Whatever moment the process is killed at, the place is as it was, or absent, or complete. What a
killed process left is removed, or put back, by the next one that builds there. Where the place is a
link, the folder that it leads to is meant: the link stays.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyv_cli.disk.lock import hold
from tinyv_cli.disk.whole_file import sync_file, sync_folder
from tinyv_cli.disk.writing import make_folder, writing
from tinyv_cli.errors import WeightsError

_WAY_OUT = "make room or allow it, or name another place: `-o DIR`"


@contextmanager
def build_beside(target: Path) -> Iterator[Path]:
    """Makes an empty folder beside the target, and removes it if it is still there at the end.

    Args:
        target: where the folder is to stand in the end; its parents are made.

    Raises:
        WeightsError: another process is building it.
        DeviceError: it, or a file in it, cannot be written.
    """

    def refuse() -> None:
        raise WeightsError(
            f"another tinyv is making {target}", "wait for it, or name another: `-o NAME`"
        )

    building = _beside(target, "building")
    with hold(target, refuse), writing(target, _WAY_OUT), writing(building, _WAY_OUT):
        clean_up(target)
        make_folder(building.parent, _WAY_OUT)
        make_folder(building, _WAY_OUT, is_new=True)
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
    place, replaced = Path(os.path.realpath(target)), _beside(target, "replaced")
    for path in building.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with writing(path):
                sync_file(path)
    sync_folder(building)
    try:
        if place.exists():
            place.rename(replaced)
        building.rename(place)
    except BaseException:  # a Ctrl-C between the two as well
        if replaced.exists() and not place.exists():
            replaced.rename(place)
        raise
    sync_folder(place.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def clean_up(target: Path) -> None:
    """Removes what a killed process left beside the target; puts back what it had set aside.

    Args:
        target: a place that this process holds (`lock.hold`), so that nobody works on it.
    """
    place, replaced = Path(os.path.realpath(target)), _beside(target, "replaced")
    if replaced.exists() and not place.exists():
        replaced.rename(place)
    for left_over in (replaced, _beside(target, "building")):
        shutil.rmtree(left_over, ignore_errors=True)


def _beside(target: Path, kind: str) -> Path:
    """Returns the folder's name, on the disk of what the target leads to."""
    place = Path(os.path.realpath(target))
    return place.with_name(f".{place.name}.tinyv-{kind}")
