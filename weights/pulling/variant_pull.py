"""A variant on the hub, at a URL or in a folder becomes a variant of one's own.

The manifest is read first: it is checked as any other, so that no path leaves the folder, and says
how long each file is and which hash it has. Files are only copied and compared; nothing of them is
executed or unpickled. The folder gets its name when all of them are right.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from tinyv_cli.addresses import to_shown
from tinyv_cli.console import to_size
from tinyv_cli.disk.paths import expand, is_folder
from tinyv_cli.disk.staging import clean_up, move_in
from tinyv_cli.disk.whole_file import write_whole
from tinyv_cli.disk.writing import make_folder
from tinyv_cli.errors import DeviceError, UsageError, WeightsError
from tinyv_cli.progress import Progress
from tinyv_cli.variants.hashes import check_hashes
from tinyv_cli.variants.home import check_replaceable
from tinyv_cli.variants.manifest import MANIFEST_NAME, FileEntry, Manifest, Variant, read_variant
from weights.pulling.catalog import FileOrigin, PublicFile, extend_url, is_url
from weights.pulling.failures import NotFetchedError, RetryPolicy, to_weights_error
from weights.pulling.fetch import Fetcher
from weights.pulling.folder import (
    ELSEWHERE,
    RECORD_NAME,
    SourcesFolder,
    hold_place,
    measure_free,
    take_copy,
)

_MANIFEST_BYTES = 1 << 20
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class VariantPullOptions:
    """Options of a pull of a variant.

    Attributes:
        origin: `owner/name` or `owner/name@revision` on the hub, a URL, or a folder.
        target: the variant's folder.
        force: whether a variant that stands there is replaced.
        offline: whether the network may not be used.
        retry_policy: how often the place is tried.
        manifest_sha256: of the manifest there; empty where it is not known.
    """

    origin: str
    target: Path
    force: bool = False
    offline: bool = False
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    manifest_sha256: str = ""


def name_variant(origin: str) -> str:
    """Names a variant after where it comes from.

    Raises:
        UsageError: the origin is neither a folder nor a URL nor a repository.
    """
    if is_url(origin):
        name = urlsplit(origin).path.rstrip("/").rpartition("/")[2]
    elif origin and is_folder(expand(origin)):
        name = expand(origin).resolve().name
    else:
        name = _split_repository(origin)[0].rpartition("/")[2]
    name = re.sub(r"[^\w.-]+", "-", name).strip(".-")
    if not name:
        raise UsageError(
            f"'{to_shown(origin)}' gives the variant no name", "name it with `--to NAME`"
        )
    return name


def pull_variant(
    options: VariantPullOptions, progress: Progress, notify: Callable[[str], None]
) -> Variant:
    """Fetches a finished variant and checks it.

    Args:
        options: what is asked for.
        progress: is told how far each file is.
        notify: takes a line worth knowing.

    Raises:
        WeightsError: it could not be had, is not a variant, or is damaged; or another variant
            stands in its place.
        UsageError: the origin is neither a folder nor a URL nor a repository; or what would be
            replaced is no variant.
        DeviceError: the disk is too small, or refuses a file.
    """
    target = options.target
    building = target.with_name(f".{target.name}.tinyv-pulling")
    with hold_place(target, target.parent, notify):
        clean_up(target)
        make_folder(building, ELSEWHERE)
        try:
            _pull_into(building, options, progress, notify)
        finally:
            with suppress(OSError):  # what was begun stays for the next time
                building.rmdir()
    return read_variant(target)


def _pull_into(
    building: Path,
    options: VariantPullOptions,
    progress: Progress,
    notify: Callable[[str], None],
) -> None:
    """Fetches what is missing in a folder beside the target, and moves it there."""
    target, folder = options.target, SourcesFolder(building)
    (building / MANIFEST_NAME).unlink(missing_ok=True)  # it may have changed since
    fetcher = Fetcher(folder, progress, notify, options.retry_policy, options.offline)
    source: _RemoteVariant | _LocalVariant
    if is_url(options.origin):
        source = _RemoteVariant(FileOrigin(url=options.origin), fetcher, options.manifest_sha256)
    elif is_folder(expand(options.origin)):
        source = _LocalVariant(expand(options.origin), fetcher)
    else:
        repository, revision = _split_repository(options.origin)
        origin = FileOrigin(repository=repository, revision=revision)
        source = _RemoteVariant(origin, fetcher, options.manifest_sha256)
    manifest = source.read_manifest()
    try:
        there = read_variant(target)
        check_hashes(target, there.manifest.files, progress)
        is_same = there.manifest == manifest
    except WeightsError:
        is_same = False
    if is_same:
        notify(f"{target} is this variant already")
        shutil.rmtree(building)
        return
    if target.exists():
        if not options.force:
            raise WeightsError(
                f"{target} exists already and is not this variant",
                "use `--force` to replace it, or `--to` with another name",
            )
        check_replaceable(target, "--to")
    begun_bytes = sum(path.stat().st_size for path in building.rglob("*") if path.is_file())
    needed, free = manifest.size_bytes - begun_bytes, measure_free(building)
    if needed > free:
        raise DeviceError(
            f"the disk has {to_size(free, 2)} free, the variant needs {to_size(needed, 2)}",
            "free some space, or name a folder on another disk with `--to DIR`",
        )
    for entry in manifest.files:
        source.take(entry)
    read_variant(building)
    check_hashes(building, manifest.files, progress)
    named = {building / entry.path for entry in manifest.files} | {building / MANIFEST_NAME}
    for path in list(building.rglob("*")):
        if path not in named and not path.is_dir():  # our record, and files that were set aside
            path.unlink()
    move_in(building, target, replace=options.force)


class _RemoteVariant:
    """A variant on the hub or at a URL."""

    def __init__(self, origin: FileOrigin, fetcher: Fetcher, manifest_sha256: str) -> None:
        self._origin = origin
        self._fetcher = fetcher
        self._manifest_sha256 = manifest_sha256

    def read_manifest(self) -> Manifest:
        origins = (self._locate(MANIFEST_NAME),)
        file = PublicFile(
            MANIFEST_NAME, origins, about_bytes=_MANIFEST_BYTES, sha256=self._manifest_sha256
        )
        self._fetch(file)
        label = self._origin.label
        hint = "do not use this variant; ask its publisher for a new one"
        content = self._fetcher.folder.find(file).read_bytes()
        try:
            manifest = Manifest.from_json(content, f"{MANIFEST_NAME} of {label}")
        except WeightsError as error:
            raise WeightsError(error.problem, hint) from error
        if any(entry.path == RECORD_NAME for entry in manifest.files):
            raise WeightsError(f"the variant at {label} has a file called {RECORD_NAME}", hint)
        return manifest

    def take(self, entry: FileEntry) -> None:
        origins = (self._locate(entry.path),)
        self._fetch(
            PublicFile(entry.path, origins, size_bytes=entry.size_bytes, sha256=entry.sha256)
        )

    def _locate(self, path: str) -> FileOrigin:
        if self._origin.url:
            return replace(self._origin, url=extend_url(self._origin.url, path))
        return replace(self._origin, name=path)

    def _fetch(self, file: PublicFile) -> None:
        try:
            self._fetcher.fetch(file)
        except NotFetchedError as error:
            raise to_weights_error([error]) from error


class _LocalVariant:
    """A variant in a folder; it is copied, since someone else may change the original."""

    def __init__(self, folder: Path, fetcher: Fetcher) -> None:
        self._folder = folder
        self._fetcher = fetcher

    def read_manifest(self) -> Manifest:
        manifest = read_variant(self._folder, is_copied=True).manifest
        content = (self._folder / MANIFEST_NAME).read_bytes()
        write_whole(self._fetcher.folder.path / MANIFEST_NAME, content)
        return manifest

    def take(self, entry: FileEntry) -> None:
        target = self._fetcher.folder.path / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._fetcher.progress(f"taking {entry.path}", entry.size_bytes, "bytes") as bar:
            take_copy(self._folder / entry.path, target, bar)


def _split_repository(text: str) -> tuple[str, str]:
    found = _REPOSITORY.fullmatch(text)
    if found is None:
        raise UsageError(
            f"'{to_shown(text)}' is not a repository, a URL or a folder of a variant",
            "give `owner/name` on the hub, `https://…`, or a folder; alone, `tinyv pull` fetches "
            "the public weights",
        )
    return found[1], found[2] or "main"
