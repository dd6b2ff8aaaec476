"""Files are hashed when first seen or changed, and a stamp of each is kept.

A stamp is a file's size, its time of change and the hash it had then. Stamps lie outside the
variant, so that one in a folder without write permission is checked once too.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinyv_cli.disk import places
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.disk.whole_file import write_whole
from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Bar, Progress, show_nothing
from tinyv_cli.variants.manifest import MAKE_AGAIN, FileEntry, make_read_error

CHUNK_BYTES = 4 << 20

Stamp = list[Any]  # [size in bytes, time of change in ns, SHA-256]


def check_hashes(
    folder: Path,
    entries: Sequence[FileEntry],
    progress: Progress = show_nothing,
    hint: str = MAKE_AGAIN,
) -> None:
    """Compares each file that has no valid stamp with its SHA-256, and stamps it.

    Two processes may do this at once: a stamp file is replaced as a whole, the last one stays.
    Where stamps cannot be written, files are hashed every time.

    Args:
        folder: what the entries' paths are relative to.
        entries: files with the size and the hash they should have.
        progress: counts the bytes hashed.
        hint: what to do about a damaged file.

    Raises:
        WeightsError: a file is not what its entry says, or cannot be read.
    """
    try:
        stamps = read_object(read_bytes(_stamps_path(folder)))
    except (OSError, ValueError, RecursionError):
        stamps = {}
    unknown = [each for each in entries if stamps.get(each.path) != _make_stamp(folder, each)]
    if not unknown:
        return
    total_bytes = sum(entry.size_bytes for entry in unknown)
    with progress("checking files", total_bytes, "bytes") as bar:
        for entry in unknown:
            stamp = _make_stamp(folder, entry)  # before it is read: it may change meanwhile
            path = folder / entry.path
            try:
                found = hash_file(path, bar)
            except OSError as error:
                raise make_read_error(path, error) from error
            if found != entry.sha256:
                known = entry.sha256[:12]
                problem = f"{path} is damaged: its SHA-256 starts {found[:12]}, not {known}"
                raise WeightsError(problem, hint)
            stamps[entry.path] = stamp
            _write_stamps(folder, stamps)


def remember_hashes(folder: Path, entries: Sequence[FileEntry]) -> None:
    """Stamps every file without reading it, for a caller that has just written and hashed them."""
    _write_stamps(folder, {entry.path: _make_stamp(folder, entry) for entry in entries})


def hash_file(path: Path, bar: Bar | None = None) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits; the bar advances by bytes."""
    digest, buffer = hashlib.sha256(), bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(buffer):
            digest.update(view[:n_bytes])
            if bar:
                bar.advance(n_bytes)
    return digest.hexdigest()


def _make_stamp(folder: Path, entry: FileEntry) -> Stamp:
    """Returns the stamp that a file gets as it is now if its hash is right."""
    path = folder / entry.path
    try:
        state = path.stat()
    except OSError as error:
        raise make_read_error(path, error) from error
    return [state.st_size, state.st_mtime_ns, entry.sha256]


def _stamps_path(folder: Path) -> Path:
    """Returns the stamp file of a folder, named after where the folder really lies."""
    place = str(folder.resolve()).encode("utf-8", "surrogateescape")
    return places.stamps_dir() / f"{hashlib.sha256(place).hexdigest()[:32]}.json"


def _write_stamps(folder: Path, stamps: dict[str, Stamp]) -> None:
    target = _stamps_path(folder)
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, json.dumps(stamps), is_durable=False)
