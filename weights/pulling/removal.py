"""A folder of sources becomes the list of files that tinyv may remove from it."""

from collections.abc import Iterator
from pathlib import Path

from weights.pulling.catalog import Catalog
from weights.pulling.folder import LOCK_NAME, PART_SUFFIX, RECORD_NAME, WRONG_SUFFIX
from weights.reading.sources import (
    ADDED_TOKENS_FILE,
    ARCHITECTURE_FILE,
    PHI_FOLDER,
    TOKENIZER_FILE,
    TOKENIZER_PARTS,
    is_weight_file,
)

_PHI_NAMES = frozenset({"config.json", TOKENIZER_FILE, *TOKENIZER_PARTS, ADDED_TOKENS_FILE})


def list_removable(folder: Path, catalog: Catalog) -> list[Path]:
    """Public files, beginnings of such, and what tinyv wrote beside them; nothing of the user's.

    A lock alone is left: it says only that something was tried here.
    """
    found = [path for path in _walk(folder) if _is_ours(path.relative_to(folder), catalog)]
    return [] if [path.name for path in found] == [LOCK_NAME] else found


def _walk(folder: Path) -> Iterator[Path]:
    for place in (folder, folder / PHI_FOLDER):
        if place.is_dir():
            yield from sorted(path for path in place.iterdir() if path.is_file())


def _is_ours(path: Path, catalog: Catalog) -> bool:
    name = path.as_posix()
    if name in (RECORD_NAME, f"{RECORD_NAME}{PART_SUFFIX}", LOCK_NAME, ARCHITECTURE_FILE):
        return True
    if name.endswith(PART_SUFFIX):
        name = name.removesuffix(PART_SUFFIX).rpartition(".")[0]
    name = name.removesuffix(WRONG_SUFFIX)
    if name in {file.path for file in catalog.list_files()}:
        return True
    home, _, last = name.rpartition("/")
    return home == PHI_FOLDER and (last in _PHI_NAMES or is_weight_file(last))
