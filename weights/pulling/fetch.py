"""One file of the list becomes a checked file in its place, from the first origin that has it.

Whatever a server says of a file, its size and SHA-256 are compared here once it is on the disk. One
that is wrong is kept aside under a name of its own, and the next origin is tried.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from tinyv_cli.console import to_size
from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Progress
from tinyv_cli.variants.hashes import hash_file
from weights.pulling.catalog import FileOrigin, PublicFile
from weights.pulling.failures import (
    Cause,
    FetchError,
    NotFetchedError,
    RetryPolicy,
    call_with_retries,
)
from weights.pulling.folder import SourcesFolder, State, hash_as_git, take_link
from weights.pulling.hub import (
    RemoteFileInfo,
    find_cached,
    is_offline,
    make_headers,
    read_remote_info,
    resolve_url,
)
from weights.pulling.transfer import DownloadRequest, download
from weights.reading.sources import read_json_object

_NO_KEY = "unpinned"


@dataclass(frozen=True)
class Fetcher:
    """Fetches into one folder.

    Attributes:
        folder: where files go.
        progress: is told how far each file is.
        notify: takes a line worth knowing.
        policy: how often each place is tried.
        offline: whether only what lies on this computer counts.
        unreachable: hosts that did not answer; they are not tried again.
    """

    folder: SourcesFolder
    progress: Progress
    notify: Callable[[str], None]
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    offline: bool = False
    unreachable: set[str] = field(default_factory=set)

    def fetch(self, file: PublicFile) -> None:
        """Fetches a file unless it is there; a wrong one in its place is moved aside first.

        Raises:
            NotFetchedError: no origin has it.
            WeightsError: the folder cannot be read.
            DeviceError: the disk is full.
        """
        state = self.folder.check(file, self.progress)
        if state in (State.RIGHT, State.UNKNOWN):
            return
        target = self.folder.find(file)
        if state is State.WRONG:
            self._set_aside(file, target, "is not the file it is called after")
        target.parent.mkdir(parents=True, exist_ok=True)
        failures = []
        for origin in file.origins:
            try:
                self._fetch_from(origin, file)
                return
            except FetchError as error:
                failures.append((origin.label, error))
        raise NotFetchedError(file.path, failures)

    def _fetch_from(self, origin: FileOrigin, file: PublicFile) -> None:
        """Takes a file from the hub's own cache if it is right there, or fetches it.

        Raises:
            FetchError: it could not be had from this origin.
        """
        cached = find_cached(origin, file)
        # Files of the cache are called after their hash, SHA-256 or for small ones git's SHA-1,
        # unless the disk has no symbolic links.
        n_digits = len(cached.name) if cached is not None and cached.is_file() else 0
        if cached is not None and n_digits and (file.sha256 or n_digits in (40, 64)):
            expected = replace(file, sha256=file.sha256 or (cached.name if n_digits == 64 else ""))
            part = self.folder.find_part(file, "cached")
            with self.progress(f"taking {file.name}", cached.stat().st_size, "bytes") as bar:
                take_link(cached, part, bar)
            info = RemoteFileInfo(git_sha1="" if expected.sha256 else cached.name)
            if not self._find_fault(part, expected, info):
                self._place(part, file, f"the hub's cache ({origin.label})")
                return
            part.unlink()
        if self.offline or is_offline():
            raise FetchError(Cause.OFFLINE, "may not be asked: the network is switched off")
        host = urlsplit(resolve_url(origin, file)).hostname or ""
        if host in self.unreachable:
            raise FetchError(Cause.UNREACHABLE, f"cannot be reached either ({host})")
        try:
            self._fetch_over_network(origin, file)
        except FetchError as error:
            if error.cause is Cause.UNREACHABLE:
                self.unreachable.add(host)
            raise

    def _fetch_over_network(self, origin: FileOrigin, file: PublicFile) -> None:
        """Fetches a file and checks it; once more if it was resumed and is wrong."""
        info = call_with_retries(lambda: read_remote_info(origin, file, self.policy), self.policy)
        # The hub's statement is compared with the list first, or a wrong file of 5.6 GB would be
        # fetched to its end.
        if file.sha256 and info.sha256 not in ("", file.sha256):
            reason = f"its SHA-256 starts {info.sha256[:12]}, not {file.sha256[:12]}"
            raise FetchError(Cause.WRONG, f"has another file by now: {reason}")
        # Of the size that it states only the bar makes use: to HEAD some servers answer 0, or the
        # length of something compressed. Seen in: huggingface_hub, issue 3307.
        expected = replace(file, sha256=file.sha256 or info.sha256)
        key = expected.sha256 or info.git_sha1
        part = self.folder.find_part(file, key or _NO_KEY)
        if not key:
            part.unlink(missing_ok=True)  # it may have begun another content
        was_begun = part.exists()
        total_bytes = file.size_bytes or info.size_bytes or file.about_bytes or None
        self._download(origin, expected, part, total_bytes)
        fault = self._find_fault(part, expected, info)
        if fault and was_begun:
            self.notify(f"{file.path} was resumed and {fault}; fetching it anew")
            part.unlink()
            self._download(origin, expected, part, total_bytes)
            fault = self._find_fault(part, expected, info)
        if fault:
            self._set_aside(file, part, f"came from {origin.label} and {fault}")
            raise FetchError(Cause.WRONG, f"has another file: it {fault}")
        self._place(part, file, origin.label)

    def _download(
        self, origin: FileOrigin, file: PublicFile, part: Path, total_bytes: int | None
    ) -> None:
        most_bytes = max(2 * file.about_bytes, 1 << 20) if file.about_bytes else None
        url = resolve_url(origin, file)
        request = DownloadRequest(url, make_headers(origin), file.size_bytes, most_bytes)
        if part.exists():
            self.notify(f"{file.path}: going on after {to_size(part.stat().st_size)}")
        with self.progress(f"fetching {file.name}", total_bytes, "bytes") as bar:
            download(request, part, bar, self.policy)

    def _find_fault(self, path: Path, file: PublicFile, info: RemoteFileInfo) -> str:
        """Finds a fault of a file that came whole; returns an empty text if there is none."""
        size_bytes = path.stat().st_size
        if file.size_bytes is not None and size_bytes != file.size_bytes:
            return f"has {size_bytes} bytes, not {file.size_bytes}"
        if file.sha256:
            with self.progress(f"checking {file.name}", size_bytes, "bytes") as bar:
                found = hash_file(path, bar)
            if found != file.sha256:
                return f"has a SHA-256 that starts {found[:12]}, not {file.sha256[:12]}"
        elif info.git_sha1 and hash_as_git(path) != info.git_sha1:
            return "is not what the hub says it is"
        elif file.name.endswith(".json"):
            try:
                read_json_object(path)
            except WeightsError:
                return "is not a JSON object"
        return ""

    def _set_aside(self, file: PublicFile, path: Path, why: str) -> None:
        aside = self.folder.set_aside(file, path)
        self.notify(f"{file.path} {why}; it is kept as {aside.name} and not used")

    def _place(self, part: Path, file: PublicFile, origin: str) -> None:
        sha256 = file.sha256 or hash_file(part)
        self.folder.remember(file, part.stat().st_size, sha256, origin)
        self.folder.put_in_place(file, part)
