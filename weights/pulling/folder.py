"""A folder and a list of files become the ones that are there and right, and may be removed.

`pulled.json` beside the files says which hash each had when it was taken. Of files whose hash the
list does not have, or that were saved again by someone, that is all there is to compare with.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

from tinyv_cli.disk import paths
from tinyv_cli.disk.lock import hold
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.disk.whole_file import HALF_WRITTEN, sync_file, sync_folder, write_whole
from tinyv_cli.disk.writing import make_folder, make_write_error, writing
from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Bar, Progress
from tinyv_cli.variants.hashes import CHUNK_BYTES, check_hashes, hash_file
from tinyv_cli.variants.manifest import FileEntry, make_read_error
from weights.pulling.catalog import Catalog, PublicFile
from weights.reading.sources import (
    ADDED_TOKENS_FILE,
    ARCHITECTURE_FILE,
    PHI_FOLDER,
    TOKENIZER_FILE,
    TOKENIZER_PARTS,
    is_weight_file,
)

RECORD_NAME = "pulled.json"
_PART_SUFFIX = ".part"
_WRONG_SUFFIX = ".wrong"
ELSEWHERE = "name another folder with `--to DIR`"
_PHI_NAMES = frozenset({"config.json", TOKENIZER_FILE, *TOKENIZER_PARTS, ADDED_TOKENS_FILE})
_OWN_NAMES = frozenset({RECORD_NAME, ARCHITECTURE_FILE, ".pull.lock"})  # the lock of older versions


class State(Enum):
    """The state of a file in a folder."""

    RIGHT = "right"
    WRONG = "wrong"
    MISSING = "missing"
    UNKNOWN = "there, nothing to compare with"


class SourcesFolder:
    """A folder that files are pulled into.

    Attributes:
        path: of the folder; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, file: PublicFile) -> Path:
        """Returns where a file lies, or would."""
        return self.path / file.path

    def find_part(self, file: PublicFile, key: str) -> Path:
        """Returns where the beginning of a file is kept.

        Args:
            file: the one that was begun.
            key: tells its content, so that one content is never continued as another.
        """
        target = self.find(file)
        return target.with_name(f"{target.name}.{key[:12]}{_PART_SUFFIX}")

    def list_parts(self, file: PublicFile) -> list[Path]:
        """Lists all beginnings of a file, of whichever content."""
        target = self.find(file)
        here = target.parent.iterdir() if paths.is_folder(target.parent) else ()
        # No glob: a name may hold `[`.
        part = re.compile(re.escape(target.name) + r"\.[^.]+" + re.escape(_PART_SUFFIX))
        return sorted(path for path in here if part.fullmatch(path.name))

    def check(self, file: PublicFile, progress: Progress, *, anew: bool = False) -> State:
        """Compares a file with its size and hash.

        Args:
            file: as it should be.
            progress: is told of the bytes hashed.
            anew: hashes it although nothing about it has changed since the last time.

        Raises:
            WeightsError: it cannot be read.
        """
        path = self.find(file)
        if not paths.is_file(path):
            return State.MISSING
        # It may be the listed one, or the one that was taken.
        allowed = [(file.size_bytes, file.sha256)] if file.sha256 else []
        taken = self.read_record().get(file.path)
        if isinstance(taken, dict) and isinstance(taken.get("sha256"), str):
            allowed.append((None, taken["sha256"]))
        size_bytes = path.stat().st_size
        for wanted_bytes, sha256 in dict.fromkeys(allowed):
            if wanted_bytes not in (None, size_bytes):
                continue
            try:
                if anew:
                    with progress(f"checking {file.path}", size_bytes, "bytes") as bar:
                        if hash_file(path, bar) == sha256:
                            return State.RIGHT
                    continue
                entry = FileEntry(file.path, size_bytes, sha256, "source")
                check_hashes(self.path, [entry], progress)
            except OSError as error:
                raise make_read_error(path, error) from error
            except WeightsError as error:
                if isinstance(error.__cause__, OSError):
                    raise
            else:
                return State.RIGHT
        return State.WRONG if allowed else State.UNKNOWN

    def read_record(self) -> dict[str, Any]:
        """Returns what was taken, by path; empty where no record is there or it is damaged."""
        try:
            return read_object((self.path / RECORD_NAME).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}

    def remember(self, file: PublicFile, size_bytes: int, sha256: str, origin: str) -> None:
        """Notes the hash of a file that is about to be put in its place."""
        entry = {"size_bytes": size_bytes, "sha256": sha256, "origin": origin}
        text = json.dumps({**self.read_record(), file.path: entry}, indent=1) + "\n"
        write_whole(self.path / RECORD_NAME, text)

    def set_aside(self, file: PublicFile, path: Path) -> Path:
        """Moves a wrong file away from where it would be used; an earlier one goes.

        Returns:
            Where it lies now.
        """
        target = self.find(file)
        aside = target.with_name(target.name + _WRONG_SUFFIX)
        # The system renames nothing where both names lead to one file already, as links taken twice
        # do. Source: POSIX, `rename`; seen in nfs-ganesha 4.
        if aside.exists() and aside.samefile(path):
            path.unlink()
        else:
            path.replace(aside)
        record = self.read_record()
        if record.pop(file.path, None) is not None:  # another one may come in its place
            write_whole(self.path / RECORD_NAME, json.dumps(record, indent=1) + "\n")
        return aside

    def put_in_place(self, file: PublicFile, path: Path) -> None:
        """Moves a finished file to its place for good, and removes other beginnings of it."""
        place = self.find(file)
        with writing(path):
            sync_file(path)
        path.replace(place)
        for folder in (place.parent, self.path, self.path.parent):  # each may be new
            sync_folder(folder)
        self.remove_parts(file)

    def remove_parts(self, file: PublicFile) -> None:
        """Removes all beginnings of a file."""
        for part in self.list_parts(file):
            part.unlink(missing_ok=True)


def list_removable(folder: Path, catalog: Catalog) -> list[Path]:
    """Lists public files, beginnings of such, and what tinyv wrote beside them.

    Nothing of the user's is among them.
    """
    listed = {file.path for file in catalog.list_files()}
    found = []
    for place in (folder, folder / PHI_FOLDER):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            name = path.relative_to(folder).as_posix()
            is_own = name in _OWN_NAMES or HALF_WRITTEN.fullmatch(path.name)
            if name.endswith(_PART_SUFFIX):
                name = name.removesuffix(_PART_SUFFIX).rpartition(".")[0]
            name = name.removesuffix(_WRONG_SUFFIX)
            home, _, last = name.rpartition("/")
            is_of_phi = home == PHI_FOLDER and (last in _PHI_NAMES or is_weight_file(last))
            if path.is_file() and (is_own or is_of_phi or name in listed):
                found.append(path)
    return found


@contextmanager
def hold_place(place: Path, folder: Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Holds what is pulled for this process; a second pull waits, and finds it done.

    Args:
        place: the folder of sources, or the variant's.
        folder: is made if it is not there.
        notify: is told when another process has to be waited for.

    Raises:
        DeviceError: the folder, or a file in it, cannot be made or written.
    """
    make_folder(folder, ELSEWHERE)
    if not os.access(folder, os.W_OK):
        error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        raise make_write_error(folder, error, ELSEWHERE)
    wait = f"another tinyv is pulling into {place}; waiting for it"
    with hold(place, lambda: notify(wait)), writing(folder):
        yield


def take_link(source: Path, target: Path, bar: Bar) -> None:
    """Links a file under a second name, or copies it where the disk cannot do that."""
    target.unlink(missing_ok=True)
    size_bytes = source.stat().st_size
    with suppress(OSError, NotImplementedError):
        os.link(source.resolve(), target)
        bar.advance(size_bytes)
        return
    take_copy(source, target, bar)


def take_copy(source: Path, target: Path, bar: Bar) -> None:
    """Copies a file's content.

    Raises:
        WeightsError: it cannot be read.
        DeviceError: the copy cannot be written.
    """
    try:
        there = source.open("rb")
    except OSError as error:
        raise make_read_error(source, error) from error
    with there, writing(target), target.open("wb") as here:
        while True:
            try:
                chunk = there.read(CHUNK_BYTES)
            except OSError as error:
                raise make_read_error(source, error) from error
            if not chunk:
                return
            here.write(chunk)
            bar.advance(len(chunk))


def hash_as_git(path: Path) -> str:
    """Returns the name that git gives to a file's content.

    Source: git documentation, `git hash-object`.
    """
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def measure_free(path: Path) -> int:
    """Returns the bytes free where a folder lies, or would lie."""
    there = next((each for each in (path, *path.parents) if each.exists()), Path())
    return shutil.disk_usage(there).free
