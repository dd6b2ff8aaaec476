"""Files that the user has, whatever they are called, become those of the list.

A file with a known hash is found by size and hash. The small ones without are found by their name
and by what they say of themselves, shards by the index beside them, and files that someone saved
again by the names of their tensors, which needs torch.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Progress
from tinyv_cli.variants.hashes import hash_file
from weights.pulling.catalog import PublicFile, SourceForm, SourcePart
from weights.pulling.folder import SourcesFolder, State, take_link
from weights.reading.sources import read_json_object, read_weight_map, resolve_sources

_ROUNDING = 0.05  # how far a rounded size may be from the exact one
_PHI_ONLY = ("lm_head.bias", "lm_head.linear.bias")  # other networks' heads have none
_PHI_KINDS = ("phi", "phi-msft")
_WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_TENSOR_READERS = ("torch", "safetensors", "transformers")


class LocalFiles:
    """The files below a folder; each is hashed once at most.

    Attributes:
        paths: all regular files, ordered; links to such too, since the hub's cache is made of
            them. Folders behind links are not entered.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
        self.paths = sorted(path for path in found if path.is_file())
        self._progress = progress
        self._hashes: dict[Path, str] = {}

    def find(self, file: PublicFile) -> Path | None:
        """Finds the file that is meant; None if it is not here or could be one of several."""
        if not file.sha256:
            namesakes = [path for path in self.paths if path.name == file.name]
            fitting = [path for path in namesakes if _is_of_phi(path, file)]
            contents = {path.read_bytes() for path in fitting}
            return fitting[0] if len(contents) == 1 else None
        wanted_bytes = file.planned_bytes
        rounding_bytes = 0.0 if file.size_bytes is not None else _ROUNDING * wanted_bytes
        for path in self.paths:
            size_bytes = path.stat().st_size
            if abs(size_bytes - wanted_bytes) > rounding_bytes:
                continue
            if path not in self._hashes:
                with self._progress(f"checking {path.name}", size_bytes, "bytes") as bar:
                    self._hashes[path] = hash_file(path, bar)
            if self._hashes[path] == file.sha256:
                return path
        return None

    def find_form(self, form: SourceForm) -> list[tuple[PublicFile, Path]]:
        """Finds all files of a form, shards that an index names included; none if one is missing.

        Raises:
            WeightsError: an index is damaged, or names a file elsewhere.
        """
        found: list[tuple[PublicFile, Path]] = []
        for file in form.files:
            path = self.find(file)
            if path is None:
                return []
            found.append((file, path))
            if file.is_index:
                home = file.path.rpartition("/")[0]
                names = sorted(set(read_weight_map(path).values()))
                found += [(PublicFile(f"{home}/{n}", ()), path.parent / n) for n in names]
        return found if all(path.is_file() for _, path in found) else []


@dataclass(frozen=True)
class LocalTaker:
    """Takes files from a folder of the user's into a folder of sources.

    Attributes:
        folder: where files go.
        stage: of the checkpoint that is wanted.
        progress: is told how far each file is.
        notify: takes a line worth knowing.
    """

    folder: SourcesFolder
    stage: int
    progress: Progress
    notify: Callable[[str], None]

    def take(self, origin: Path, parts: Iterable[SourcePart]) -> None:
        """Takes parts from a folder, and from nowhere else.

        Raises:
            WeightsError: it is not a folder, or something is not in it.
        """
        if not origin.is_dir():
            raise WeightsError(
                f"{origin} is not a folder", "give `--from` a folder, a URL of one, or `hub`"
            )
        here = LocalFiles(origin, self.progress)
        missing: list[SourcePart] = []
        known: set[Path] = set()
        for part in parts:
            found = next(filter(None, (here.find_form(form) for form in part.forms)), None)
            if found is None:
                missing.append(part)
                continue
            known |= {path for _, path in found}
            for file, path in found:
                self._take_file(file, path)
                self.notify(f"{file.path}: {path}, recognised")
        others = [p for p in here.paths if p.suffix in _WEIGHT_SUFFIXES and p not in known]
        if missing and others:
            missing = self._take_by_tensors(missing, others)
        if missing:
            names = ", ".join(part.forms[0].files[0].path for part in missing)
            raise WeightsError(
                f"{origin} does not hold {names}",
                f"fetch the rest: `tinyv pull --stage {self.stage} --to {self.folder.path}`",
            )

    def _take_by_tensors(
        self, parts: Sequence[SourcePart], paths: Sequence[Path]
    ) -> list[SourcePart]:
        """Takes files that were saved again; without torch, says what would be needed.

        Returns:
            The parts that are still missing.
        """
        if any(find_spec(name) is None for name in _TENSOR_READERS):
            self.notify(
                f"{len(paths)} files of weights have no known hash; to tell them by their tensors, "
                "`pip install 'tinyv[quantize]'`"
            )
            return list(parts)
        from weights.pulling.tensors import find_by_tensors

        found = find_by_tensors(paths, self.stage)
        taken: list[PublicFile] = []
        missing = []
        for part in parts:
            listed = [file.path for form in part.forms for file in form.files]
            # A file saved again as a whole can stand where the list has an index and shards.
            names = [name for path in listed for name in (path, path.removesuffix(".index.json"))]
            match = next((name for name in names if name in found), None)
            if match is None:
                missing.append(part)
                continue
            file = PublicFile(match, ())
            self._take_file(file, found[match])
            self.notify(f"{file.path}: {found[match]}, told by its tensors")
            taken.append(file)
        if taken and not missing:
            from weights.reading.checkpoint import open_weights

            try:  # whether all tensors are there, of the right shape
                open_weights(resolve_sources(self.folder.path, self.stage)).close()
            except WeightsError:
                for file in taken:
                    aside = self.folder.set_aside(file, self.folder.find(file))
                    self.notify(f"{file.path} is kept as {aside.name} and not used")
                raise
        return missing

    def _take_file(self, file: PublicFile, path: Path) -> None:
        """Puts a file of the user's in its place, linked where the disk can, else copied."""
        target = self.folder.find(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.resolve() == target.resolve():
            return
        if self.folder.check(file, self.progress) is State.WRONG:
            aside = self.folder.set_aside(file, target)
            self.notify(f"{file.path} is not the file it is called after; kept as {aside.name}")
        part = self.folder.find_part(file, "taken")
        with self.progress(f"taking {path.name}", path.stat().st_size, "bytes") as bar:
            take_link(path, part, bar)
        sha256 = hash_file(part)
        if file.sha256 not in ("", sha256):
            raise WeightsError(f"{path} changed while it was copied", "run the same command again")
        self.folder.remember(file, part.stat().st_size, sha256, str(path))
        self.folder.put_in_place(file, part)


def _is_of_phi(path: Path, file: PublicFile) -> bool:
    """Returns whether a small file belongs to Phi-2, as far as it says so itself."""
    if path.stat().st_size > max(4 * file.about_bytes, 1 << 20):
        return False
    if file.is_index:
        weight_map = _read_readable(path).get("weight_map")
        return isinstance(weight_map, dict) and any(name in weight_map for name in _PHI_ONLY)
    if file.name == "config.json":
        return _read_readable(path).get("model_type") in _PHI_KINDS
    config = path.with_name("config.json")
    return not config.exists() or _read_readable(config).get("model_type") in _PHI_KINDS


def _read_readable(path: Path) -> dict[str, Any]:
    """Reads a JSON object; empty where it is damaged."""
    try:
        return read_json_object(path)
    except WeightsError:
        return {}
