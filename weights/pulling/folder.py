"""A folder and a list of files become what of it is there and right; fetches nothing.

`pulled.json` beside the files says which hash each had when it was taken. Of files whose hash the
list does not know, or that were saved again by someone, that is all there is to compare with.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Bar, Progress
from tinyv_cli.variants.hashes import CHUNK_BYTES, check_hashes, hash_file
from tinyv_cli.variants.manifest import FileEntry, make_read_error
from weights.pulling.catalog import PublicFile

RECORD_NAME = "pulled.json"
LOCK_NAME = ".pull.lock"
PART_SUFFIX = ".part"
WRONG_SUFFIX = ".wrong"


class State(Enum):
    """How a file lies in a folder."""

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
        """Where a file lies, or would."""
        return self.path / file.path

    def find_part(self, file: PublicFile, key: str) -> Path:
        """Where the beginning of a file is kept; the key tells its content."""
        target = self.find(file)
        return target.with_name(f"{target.name}.{key[:12]}{PART_SUFFIX}")

    def list_parts(self, file: PublicFile) -> list[Path]:
        """All beginnings of a file, of whichever content."""
        target = self.find(file)
        return sorted(target.parent.glob(f"{target.name}.*{PART_SUFFIX}"))

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
        if not path.is_file():
            return State.MISSING
        allowed = self._list_allowed(file)
        if not allowed:
            return State.UNKNOWN
        size_bytes = path.stat().st_size
        return (
            State.RIGHT
            if any(
                wanted_bytes in (None, size_bytes)
                and self._has_hash(file.path, size_bytes, sha256, progress, anew=anew)
                for wanted_bytes, sha256 in allowed
            )
            else State.WRONG
        )

    def _list_allowed(self, file: PublicFile) -> list[tuple[int | None, str]]:
        """Sizes and hashes that a file may have: the listed one, and the one it was taken with."""
        listed = [(file.size_bytes, file.sha256)] if file.sha256 else []
        taken = self.read_record().get(file.path)
        if isinstance(taken, dict) and isinstance(taken.get("sha256"), str):
            listed.append((None, taken["sha256"]))
        return list(dict.fromkeys(listed))

    def _has_hash(
        self, name: str, size_bytes: int, sha256: str, progress: Progress, *, anew: bool
    ) -> bool:
        if anew:
            with progress(f"checking {name}", size_bytes, "bytes") as bar:
                return _hash(self.path / name, bar) == sha256
        try:
            check_hashes(self.path, [FileEntry(name, size_bytes, sha256, "source")], progress)
        except WeightsError as error:
            if isinstance(error.__cause__, OSError):
                raise
            return False
        return True

    def read_record(self) -> dict[str, Any]:
        """What was taken, by path; empty where there is no record or it says nothing sensible."""
        try:
            record = json.loads((self.path / RECORD_NAME).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) else {}

    def remember(self, file: PublicFile, size_bytes: int, sha256: str, origin: str) -> None:
        """Notes the hash of a file that is about to be put in its place."""
        entry = {"size_bytes": size_bytes, "sha256": sha256, "origin": origin}
        text = json.dumps({**self.read_record(), file.path: entry}, indent=1) + "\n"
        fresh = self.path / f"{RECORD_NAME}{PART_SUFFIX}"
        fresh.write_text(text, "utf-8")
        fresh.replace(self.path / RECORD_NAME)

    def set_aside(self, file: PublicFile, path: Path) -> Path:
        """Moves a wrong file away from where it would be used; an earlier one goes.

        Returns:
            Where it lies now.
        """
        target = self.find(file)
        aside = target.with_name(target.name + WRONG_SUFFIX)
        path.replace(aside)
        return aside

    def put_in_place(self, file: PublicFile, path: Path) -> None:
        """Moves a finished file to its place, and removes other beginnings of it."""
        path.replace(self.find(file))
        for part in self.list_parts(file):
            part.unlink(missing_ok=True)


def take_link(source: Path, target: Path, bar: Bar) -> None:
    """Gives a file a second name, or copies it where the disk cannot do that."""
    target.unlink(missing_ok=True)
    size_bytes = source.stat().st_size
    with suppress(OSError, NotImplementedError):
        os.link(source.resolve(), target)
        bar.advance(size_bytes)
        return
    take_copy(source, target, bar)


def take_copy(source: Path, target: Path, bar: Bar) -> None:
    """Copies a file's content."""
    with source.open("rb") as there, target.open("wb") as here:
        while chunk := there.read(CHUNK_BYTES):
            here.write(chunk)
            bar.advance(len(chunk))


def hash_as_git(path: Path) -> str:
    """The name that git gives to a file's content.

    Source: git documentation, `git hash-object`.
    """
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def measure_free(path: Path) -> int:
    """Bytes free where a folder lies, or would lie."""
    there = next((each for each in (path, *path.parents) if each.exists()), Path())
    return shutil.disk_usage(there).free


def _hash(path: Path, bar: Bar) -> str:
    try:
        return hash_file(path, bar)
    except OSError as error:
        raise make_read_error(path, error) from error
