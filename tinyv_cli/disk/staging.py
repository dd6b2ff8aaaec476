"""A folder is built beside its place and moved there when it is whole; knows no content.

Whatever moment the process is killed at, the target is as it was, or absent, or complete. Folders
that a killed process left are removed, or put back, by the next one (`clean_up`).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tinyv_cli.errors import WeightsError

_BUILDING, _REPLACED = "building", "replaced"


@contextmanager
def build_beside(target: Path) -> Iterator[Path]:
    """Gives an empty folder beside the target, and removes it if it is still there at the end.

    Args:
        target: where the folder is to stand in the end; its parents are made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clean_up(target)
    building = _beside(target, _BUILDING)
    building.mkdir()
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def move_in(building: Path, target: Path, *, replace: bool) -> None:
    """Renames a finished folder to its place.

    Args:
        building: as `build_beside` gave it.
        target: its place.
        replace: whether a folder that stands there may go.

    Raises:
        WeightsError: the target exists and may not be replaced; it is left as it is.
    """
    if not target.exists():
        building.rename(target)
        return
    if not replace:
        raise WeightsError(
            f"{target} exists already", "use `--force` to replace it, or `-o` with another name"
        )
    replaced = _beside(target, _REPLACED)
    target.rename(replaced)
    try:
        building.rename(target)
    except OSError:
        replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def clean_up(target: Path) -> None:
    """Removes what killed processes left beside the target; puts back what one had set aside."""
    for left_over in target.parent.glob(f".{target.name}.*-*"):
        kind, _, owner = left_over.name.removeprefix(f".{target.name}.").partition("-")
        if kind not in (_BUILDING, _REPLACED) or not owner.isdecimal():
            continue
        if psutil.pid_exists(int(owner)) and int(owner) != os.getpid():
            continue
        if kind == _REPLACED and not target.exists():
            left_over.rename(target)
        else:
            shutil.rmtree(left_over, ignore_errors=True)


def _beside(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.{kind}-{os.getpid()}"
