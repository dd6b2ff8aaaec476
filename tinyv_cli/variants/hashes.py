"""Files are hashed when first seen or changed, and a stamp remembers it; knows no file's meaning.

A stamp is a file's size, its time of change and the hash it had then. Stamps lie outside the
variant, so that one in a folder without write permission is checked once too.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from tinyv_cli.disk import places
from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Bar, Progress, show_nothing
from tinyv_cli.variants.manifest import MAKE_AGAIN, FileEntry, make_read_error

CHUNK_BYTES = 4 << 20

Stamp = list[Any]  # [size in bytes, time of change in ns, SHA-256]


def check_hashes(
    folder: Path, entries: Sequence[FileEntry], progress: Progress = show_nothing
) -> None:
    """Compares each file that has no valid stamp with its SHA-256, and stamps it.

    Two processes may do this at once: a stamp file is exchanged as a whole, the last one stays.
    Where stamps cannot be written, files are hashed every time.

    Args:
        folder: what the entries' paths are relative to.
        entries: files with the size and the hash they should have.
        progress: is told of the bytes hashed.

    Raises:
        WeightsError: a file is not what its entry says, or cannot be read.
    """
    stamps = _read_stamps(folder)
    unknown = [each for each in entries if stamps.get(each.path) != _make_stamp(folder, each)]
    if not unknown:
        return
    total_bytes = sum(entry.size_bytes for entry in unknown)
    with progress("checking files", total_bytes, "bytes") as bar:
        for entry in unknown:
            stamp = _make_stamp(folder, entry)
            _check_file(folder / entry.path, entry, bar)
            stamps[entry.path] = stamp
            _write_stamps(folder, stamps)


def remember_hashes(folder: Path, entries: Sequence[FileEntry]) -> None:
    """Stamps every file without reading it: for the one who has just written and hashed them."""
    _write_stamps(folder, {entry.path: _make_stamp(folder, entry) for entry in entries})


def hash_file(path: Path, bar: Bar | None = None) -> str:
    """SHA-256 of a file as 64 hexadecimal digits; the bar advances by bytes."""
    digest, buffer = hashlib.sha256(), bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(buffer):
            digest.update(view[:n_bytes])
            if bar:
                bar.advance(n_bytes)
    return digest.hexdigest()


def _check_file(path: Path, entry: FileEntry, bar: Bar) -> None:
    """Raises a `WeightsError` unless the file has the hash of its entry."""
    try:
        found = hash_file(path, bar)
    except OSError as error:
        raise make_read_error(path, error) from error
    if found != entry.sha256:
        problem = f"{path} is damaged: its SHA-256 starts {found[:12]}, not {entry.sha256[:12]}"
        raise WeightsError(problem, MAKE_AGAIN)


def _make_stamp(folder: Path, entry: FileEntry) -> Stamp:
    """The stamp a file has as it lies there now, were it sound."""
    path = folder / entry.path
    try:
        state = path.stat()
    except OSError as error:
        raise make_read_error(path, error) from error
    return [state.st_size, state.st_mtime_ns, entry.sha256]


def _stamps_path(folder: Path) -> Path:
    """The stamp file of a folder, named after where the folder really lies."""
    place = str(folder.resolve()).encode("utf-8", "surrogateescape")
    return places.stamps_dir() / f"{hashlib.sha256(place).hexdigest()[:32]}.json"


def _read_stamps(folder: Path) -> dict[str, Stamp]:
    """Stamps by path; none where there is no file of them or it says nothing sensible."""
    try:
        stamps = json.loads(_stamps_path(folder).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _write_stamps(folder: Path, stamps: dict[str, Stamp]) -> None:
    """Exchanges the stamp file as a whole; a folder that cannot be written is let be."""
    target = _stamps_path(folder)
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=target.parent, suffix=".tmp", delete=False) as file:
            fresh = Path(file.name)
            json.dump(stamps, file)
        try:
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
