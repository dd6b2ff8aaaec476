"""Files that the user has, whatever they are called, become those of the list.

A file with a known hash is found by size and hash. The small ones without are found by their name
and by what they say of themselves, shards by the index beside them, and files that someone saved
again by the names of their tensors, which needs torch.
"""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinyv_cli.disk import paths
from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Progress, show_nothing
from tinyv_cli.variants.hashes import hash_file
from tinyv_cli.variants.manifest import MANIFEST_NAME, make_read_error
from weights.pulling.catalog import Catalog, PublicFile, SourceForm, SourcePart
from weights.pulling.folder import SourcesFolder, State, list_removable, take_link
from weights.reading.sources import (
    ARCHITECTURE_FILE,
    is_weight_file,
    read_json_object,
    read_weight_map,
    resolve_sources,
)

_ROUNDING = 0.05  # how far a rounded size may be from the exact one
_PHI_ONLY = ("lm_head.bias", "lm_head.linear.bias")  # other networks' heads have none
_PHI_KINDS = ("phi", "phi-msft")
_WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_TENSOR_READERS = ("torch", "safetensors")


class LocalFiles:
    """The files below a folder; each is hashed once at most.

    Attributes:
        paths: all regular files, ordered; links to such too, since the hub's cache is made of
            them. Folders behind links are not entered.
        unknown: those of them that may be told by their names or tensors.
        weights: those of Phi-2, as far as they were found.
        taken: the files that were found.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
        self.paths = sorted(path for path in found if paths.is_file(path))
        self.unknown = self.paths
        self.weights: list[Path] = []
        self.taken: set[str] = set()
        self._progress = progress
        self._hashes: dict[str, str] = {}

    def leave_out_networks(self) -> list[Path]:
        """Leaves out variants and the sources of networks of other sizes, but for known hashes.

        Returns:
            The files that tell of such.
        """
        marks = [path for path in self.paths if path.name == ARCHITECTURE_FILE]
        manifests = [path for path in self.paths if path.name == MANIFEST_NAME]
        marks += [path for path in manifests if "format_version" in _read_readable(path)]
        folders = [path.parent for path in marks]
        self.unknown = [p for p in self.unknown if not any(map(p.is_relative_to, folders))]
        return marks

    def find(self, file: PublicFile) -> Path | None:
        """Finds the file that is meant; None if it is not here.

        Raises:
            WeightsError: it could be one of several.
        """
        if file.sha256:
            wanted_bytes = file.planned_bytes
            rounding_bytes = 0.0 if file.size_bytes is not None else _ROUNDING * wanted_bytes
            for path in self.paths:
                is_alike = abs(path.stat().st_size - wanted_bytes) <= rounding_bytes
                if is_alike and self._hash(path) == file.sha256:
                    return path
            return None
        fitting = [p for p in self.unknown if p.name == file.name and _is_of_phi(p, file)]
        if len(fitting) > 1:
            near = [path for path in fitting if self._lies_beside_weights(path)]
            # Of one content, the first stands for all; shards are part of what an index is.
            contents = {
                tuple(map(self._hash, (path, *(_list_shards(path) if file.is_index else ())))): path
                for path in reversed(near or fitting)
            }
            fitting = sorted(contents.values())
        if len(fitting) > 1:
            raise WeightsError(
                f"there are {len(fitting)} different {file.name} of a Phi: "
                f"{', '.join(map(str, fitting))}",
                "name the folder of the right one with `--from`, or move the other away",
            )
        return fitting[0] if fitting else None

    def find_form(self, form: SourceForm) -> list[tuple[PublicFile, Path]]:
        """Finds all files of a form, shards that an index names included; none if one is missing.

        Raises:
            WeightsError: an index is damaged, or names a file elsewhere; or a file could be one of
                several.
        """
        found: list[tuple[PublicFile, Path]] = []
        for file in form.files:
            path = self.find(file)
            if path is None:
                return []
            found.append((file, path))
            if file.is_index:
                home = file.path.rpartition("/")[0]
                found += [(PublicFile(f"{home}/{p.name}", ()), p) for p in _list_shards(path)]
        return found

    def note(self, file: PublicFile, path: Path) -> None:
        """Notes a file that was found."""
        self.taken.add(os.path.realpath(path))
        if is_weight_file(file.name):
            self.weights.append(path)

    def _lies_beside_weights(self, path: Path) -> bool:
        """Returns whether Phi-2's weights lie in a file's folder, under whichever name."""
        for each in (each for each in self.paths if each.parent == path.parent):
            size_bytes = each.stat().st_size
            for weights in self.weights:
                is_alike = weights.stat().st_size == size_bytes
                if is_alike and self._hash(each) == self._hash(weights):
                    return True
        return False

    def _hash(self, path: Path) -> str:
        place = os.path.realpath(path)  # in the hub's cache several links lead to one file
        if place not in self._hashes:
            with self._progress(f"checking {path.name}", path.stat().st_size, "bytes") as bar:
                try:
                    self._hashes[place] = hash_file(path, bar)
                except OSError as error:
                    raise make_read_error(path, error) from error
        return self._hashes[place]


@dataclass(frozen=True)
class LocalTaker:
    """Takes files from a folder of the user's into a folder of sources.

    Attributes:
        folder: where files go.
        catalog: the public files.
        stage: of the checkpoint that is wanted.
        progress: is told how far each file is.
        notify: takes a line worth knowing.
    """

    folder: SourcesFolder
    catalog: Catalog
    stage: int
    progress: Progress
    notify: Callable[[str], None]

    def take(self, origin: Path, parts: Sequence[SourcePart]) -> None:
        """Takes parts from a folder, and from nowhere else.

        Raises:
            WeightsError: it is not a folder, or something is not in it or could be one of several.
        """
        if not paths.is_folder(origin):
            raise WeightsError(
                f"{origin} is not a folder", "give `--from` a folder, a URL of one, or `hub`"
            )
        here = LocalFiles(origin, self.progress)
        is_listed = any(file.path == ARCHITECTURE_FILE for file in self.catalog.list_files())
        networks = [] if is_listed else here.leave_out_networks()
        # Weights first: the small files are those that lie beside them.
        large: list[SourcePart] = []
        small: list[SourcePart] = []
        for part in parts:
            files = [file for form in part.forms for file in form.files]
            is_large = any(each.is_index or each.path.endswith(_WEIGHT_SUFFIXES) for each in files)
            (large if is_large else small).append(part)
        missing = self._take_parts(large, here)
        told = self._take_by_tensors(missing, here)
        missing = [part for part in missing if part not in told]
        missing += self._take_parts(small, here)
        if missing and networks:
            folder = networks[0].parent
            kind, command = "is a variant", "tinyv pull"
            if networks[0].name == ARCHITECTURE_FILE:
                kind = f"holds the sources of a network of other sizes ({ARCHITECTURE_FILE})"
                command = "tinyv quantize --sources"
            raise WeightsError(
                f"{folder} {kind}, not the public files",
                f"use it as it is: `{command} {shlex.quote(str(folder))}`",
            )
        if missing:
            names = ", ".join(part.forms[0].files[0].path for part in missing)
            raise WeightsError(
                f"{origin} does not hold {names}",
                f"fetch the rest: `tinyv pull --stage {self.stage} --to {self.folder.path}`",
            )

    def _take_parts(self, parts: Sequence[SourcePart], here: LocalFiles) -> list[SourcePart]:
        """Takes what is told by its hash, its name or an index; returns the parts not found."""
        missing = []
        for part in parts:
            found = next(filter(None, (here.find_form(form) for form in part.forms)), None)
            if found is None:
                missing.append(part)
                continue
            for file, path in found:
                here.note(file, path)
                self._take_file(file, path)
                self.notify(f"{file.path}: {path}, recognised")
        return missing

    def _take_by_tensors(self, parts: Sequence[SourcePart], here: LocalFiles) -> list[SourcePart]:
        """Takes files that were saved again; without torch, says what would be needed.

        Returns:
            The parts that were found.
        """
        others = [path for path in here.unknown if path.suffix in _WEIGHT_SUFFIXES]
        others = [path for path in others if os.path.realpath(path) not in here.taken]
        if not parts or not others:
            return []
        if any(find_spec(name) is None for name in _TENSOR_READERS):
            self.notify(
                f"{len(others)} files of weights have no known hash; to tell them by their "
                "tensors, `pip install 'tinyv[quantize]'`"
            )
            return []
        from weights.pulling.tensors import find_by_tensors

        found = find_by_tensors(others, self.stage)
        told = []
        for part in parts:
            listed = [file.path for form in part.forms for file in form.files]
            # A file saved again as a whole can stand where the list has an index and shards.
            names = [name for path in listed for name in (path, path.removesuffix(".index.json"))]
            match = next((name for name in names if name in found), None)
            if match is None:
                continue
            file = PublicFile(match, ())
            here.note(file, found[match])
            self._take_file(file, found[match])
            self.notify(f"{file.path}: {found[match]}, told by its tensors")
            told.append(part)
        return told

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
        self.folder.remember(file, part.stat().st_size, sha256, str(path.absolute()))
        self.folder.put_in_place(file, part)


def _list_shards(index: Path) -> list[Path]:
    """Lists the files that an index names.

    Raises:
        WeightsError: it is damaged, or names a file elsewhere.
    """
    return [index.parent / name for name in sorted(set(read_weight_map(index).values()))]


def check_together(
    folder: SourcesFolder, catalog: Catalog, stage: int, notify: Callable[[str], None]
) -> None:
    """Checks files that were told by their tensors: all tensors are there, of the right shape.

    Raises:
        WeightsError: they do not belong together. What was taken from a disk and has no published
            hash is set aside, so that the next pull takes or fetches it anew.
    """
    published = {file.sha256 for file in catalog.list_files()}
    record = folder.read_record()
    doubtful = []
    for path in list_removable(folder.path, catalog):
        file = PublicFile(path.relative_to(folder.path).as_posix(), ())
        taken = record.get(file.path)
        # What came from the hub or a URL was checked there.
        is_local = isinstance(taken, dict) and Path(str(taken.get("origin"))).is_absolute()
        if is_local and record[file.path].get("sha256") not in published:
            doubtful.append(file)
    is_told = any(f.name.endswith(_WEIGHT_SUFFIXES) and "-of-" not in f.name for f in doubtful)
    if not is_told or any(find_spec(name) is None for name in _TENSOR_READERS):
        return
    from weights.reading.checkpoint import open_weights

    try:
        open_weights(resolve_sources(folder.path, stage)).close()
    except WeightsError:
        for file in doubtful:
            if folder.check(file, show_nothing) is State.RIGHT:  # still the one that was taken
                aside = folder.set_aside(file, folder.find(file))
                notify(f"{file.path} is kept as {aside.name} and not used")
        raise


def _is_of_phi(path: Path, file: PublicFile) -> bool:
    """Returns whether a small file belongs to Phi-2, as far as it says so itself."""
    if path.stat().st_size > max(4 * file.about_bytes, 1 << 20):
        return False
    if file.is_index:
        weight_map = _read_readable(path).get("weight_map")
        is_of_phi = isinstance(weight_map, dict) and any(name in weight_map for name in _PHI_ONLY)
        return is_of_phi and all(map(Path.is_file, _list_shards(path)))
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
