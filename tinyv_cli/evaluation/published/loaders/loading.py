"""A path and a benchmark's name become its records; what is missing of them is named."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

from tinyv_cli.disk.paths import exists, is_file
from tinyv_cli.errors import InputError
from tinyv_cli.evaluation.published.loaders.fields import Draft
from tinyv_cli.evaluation.published.loaders.layouts import (
    LAYOUTS,
    Layout,
    find_files,
    make_missing,
)
from tinyv_cli.evaluation.published.loaders.rows import Row
from tinyv_cli.evaluation.published.records import Picture, Record, Region

_SUFFIXES = ("json", "jsonl", "tsv", "parquet")
_N_SHOWN = 5


@dataclass(frozen=True)
class Loaded:
    """A benchmark as it was found.

    Attributes:
        files: that the records are from.
        records: in the files' order.
        left_out: places of records whose fields contradict each other, with their index.
        note: what the user is to know of these files; empty where there is nothing.
    """

    files: tuple[Path, ...]
    records: tuple[Record, ...]
    left_out: tuple[str, ...]
    note: str


def load_benchmark(name: str, root: Path) -> Loaded:
    """Reads all records of a benchmark; pictures are read when they are needed.

    Args:
        name: one of `LAYOUTS`.
        root: a folder with its files, or one of these.

    Raises:
        InputError: there is no such file, it is damaged, or a record lacks a field.
        UsageError: what reads such files is not installed.
    """
    if not exists(root):
        raise InputError(f"there is no file or folder {root}", "name the benchmark's own folder")
    layout, files = _find_layout(name, root)
    records: list[Record] = []
    left_out: list[str] = []
    indices = count()
    for row in layout.read(files):
        drafts = layout.to_drafts(row)
        if not drafts:
            left_out.append(f"{row.place} (record {next(indices)})")
        for draft in drafts:
            records.append(_to_record(draft, next(indices), row, root, layout))
    if not records:
        shown = ", ".join(map(str, files[:_N_SHOWN]))
        raise InputError(f"{shown} holds no question of {name}", "fetch it again")
    return Loaded(tuple(files), tuple(records), tuple(left_out), layout.note)


def take_sample(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    """Draws some records by chance, each at most once, and leaves them in their order.

    Args:
        records: to draw from.
        n: that are wanted; all where there are no more.
        seed: the same one draws the same records.
    """
    chosen = random.Random(seed).sample(range(len(records)), min(n, len(records)))
    return [records[i] for i in sorted(chosen)]


def _find_layout(name: str, root: Path) -> tuple[Layout, list[Path]]:
    """Finds the first layout whose files are there."""
    for layout in LAYOUTS[name]:
        if files := layout.find(root):
            return layout, files
    wanted = ", ".join(pattern for each in LAYOUTS[name] for pattern in each.files[:2])
    if is_file(root):
        problem = f"{root} is no file of {name}, which are {wanted}"
    else:
        other = [each.name for suffix in _SUFFIXES for each in find_files(root, f"*.{suffix}")]
        instead = f"; there is {', '.join(other[:_N_SHOWN])}" if other else ""
        problem = f"{root} holds no file of {name}, which are {wanted}{instead}"
    raise InputError(problem, "name the folder of the right split, as it was published")


def _to_record(draft: Draft, index: int, row: Row, root: Path, layout: Layout) -> Record:
    """Completes a draft: its picture is found, and the place where it lies."""
    region = None
    if draft.box is not None and draft.size is not None:
        x, y, width, height = draft.box
        region = Region(x, y, width, height, *draft.size)
    return Record(
        index=index,
        place=row.place,
        picture=_find_picture(draft, row, root, layout),
        question=draft.question,
        references=draft.references,
        group=draft.group,
        choices=draft.choices,
        right_choice=draft.right_choice,
        region=region,
    )


def _find_picture(draft: Draft, row: Row, root: Path, layout: Layout) -> Picture:
    """Takes the picture that a row holds, or looks for it in each folder it may lie in."""
    if row.picture is not None:
        return replace(row.picture, name=draft.shared_name or row.picture.name)
    bases = dict.fromkeys((row.path.parent, row.path.parent.parent, root))
    for base in bases:
        for folder in layout.folders:
            for name in draft.files:
                path = base / folder / name
                if is_file(path):
                    return Picture(str(path), partial(Path, path))
    return make_missing(row, draft.files[0])
