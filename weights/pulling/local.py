"""A folder of any files becomes those of the list that are among them, whatever they are called.

A file with a known hash is told by size and hash. The small ones without are told by their name and
by what they say of themselves; shards by the index beside them. Knows no tensor.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tinyv_cli.progress import Progress
from tinyv_cli.variants.hashes import hash_file
from weights.pulling.catalog import PublicFile
from weights.reading.sources import read_weight_map

_ROUNDING = 0.05  # how far a rounded size may be from the exact one
_PHI_ONLY = ("lm_head.bias", "lm_head.linear.bias")  # other networks' heads have none
_PHI_KINDS = ("phi", "phi-msft")
_WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


class LocalFiles:
    """The files below a folder; each is hashed once at most.

    Attributes:
        paths: all regular files, ordered.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.paths = sorted(_walk(folder))
        self._progress = progress
        self._hashes: dict[Path, str] = {}

    def find(self, file: PublicFile) -> Path | None:
        """The file that is meant; None where it is not here, or cannot be told from others."""
        if file.sha256:
            return self._find_by_hash(file)
        namesakes = [path for path in self.paths if path.name == file.name]
        fitting = [path for path in namesakes if _fits(path, file)]
        contents = {path.read_bytes() for path in fitting}
        return fitting[0] if len(contents) == 1 else None

    def list_weights(self, known: Iterable[Path]) -> list[Path]:
        """Files of tensors, by their names, that are not among those known."""
        others = set(self.paths) - set(known)
        return sorted(path for path in others if path.suffix in _WEIGHT_SUFFIXES)

    def _find_by_hash(self, file: PublicFile) -> Path | None:
        for path in self.paths:
            if _may_be(file, path.stat().st_size) and self._hash(path) == file.sha256:
                return path
        return None

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            with self._progress(f"checking {path.name}", path.stat().st_size, "bytes") as bar:
                self._hashes[path] = hash_file(path, bar)
        return self._hashes[path]


def find_shards(index: Path) -> Sequence[Path]:
    """Shards that an index names and that lie beside it; empty where one is missing."""
    names = sorted(set(read_weight_map(index).values()))
    paths = [index.parent / name for name in names]
    return paths if all(path.is_file() for path in paths) else ()


def _walk(folder: Path) -> Iterable[Path]:
    """Regular files below a folder, links to such included; folders behind links are not entered.

    Links matter: the hub's cache is made of them.
    """
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(place, name)
            if path.is_file():
                yield path


def _may_be(file: PublicFile, size_bytes: int) -> bool:
    if file.size_bytes is not None:
        return size_bytes == file.size_bytes
    return abs(size_bytes - file.about_bytes) <= _ROUNDING * file.about_bytes


def _fits(path: Path, file: PublicFile) -> bool:
    """Whether a small file belongs to Phi-2, as far as it says so itself."""
    if path.stat().st_size > max(4 * file.about_bytes, 1 << 20):
        return False
    if file.name == "config.json":
        return _read_object(path).get("model_type") in _PHI_KINDS
    if file.is_index:
        weight_map = _read_object(path).get("weight_map")
        return isinstance(weight_map, dict) and any(name in weight_map for name in _PHI_ONLY)
    config = path.with_name("config.json")
    return not config.exists() or _read_object(config).get("model_type") in _PHI_KINDS


def _read_object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
