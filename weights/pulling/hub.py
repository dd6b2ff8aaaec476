"""A repository, a revision and a name become a URL, headers and an open answer.

The only file that imports huggingface_hub, which reads HF_HOME, HF_TOKEN, HF_ENDPOINT,
HF_HUB_OFFLINE and the proxies, and whose client opens plain URLs too. Its errors and those of its
transport become `FetchError` here. The body is not read.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented

from tinyv_cli.addresses import to_shown
from weights.pulling.catalog import FileOrigin, PublicFile
from weights.pulling.failures import Cause, FetchError, RetryPolicy

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFileInfo:
    """A file's size and hash as the hub states them before it is fetched.

    Attributes:
        size_bytes: None where it does not say.
        sha256: of a file in large storage, else empty.
        git_sha1: of a file in the repository itself, git's name for its content, else empty.
    """

    size_bytes: int | None = None
    sha256: str = ""
    git_sha1: str = ""


def is_offline() -> bool:
    """Returns whether HF_HUB_OFFLINE forbids the network."""
    return bool(constants.HF_HUB_OFFLINE)


def resolve_url(origin: FileOrigin, file: PublicFile) -> str:
    """Returns the URL of a file at an origin.

    Raises:
        FetchError: the repository's name cannot be one.
    """
    if origin.url:
        return origin.url
    try:
        return hf_hub_url(origin.repository, file.name_at(origin), revision=origin.revision)
    except HFValidationError as error:
        raise FetchError(Cause.MISSING, "is not a name of a repository") from error


def make_headers(origin: FileOrigin) -> dict[str, str]:
    """Makes the headers of every request; the token goes to the hub alone."""
    # Since 2.4 the library asks `/api/agent-harnesses` which program it runs in when it builds a
    # header; this is what HF_HUB_DISABLE_TELEMETRY sets.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    headers = build_hf_headers(
        library_name="tinyv",
        library_version=version("tinyv"),
        token=None if origin.repository else False,
    )
    return {**headers, "Accept-Encoding": "identity"}


def read_remote_info(origin: FileOrigin, file: PublicFile, policy: RetryPolicy) -> RemoteFileInfo:
    """Asks the hub for a file's size and hash; of a plain URL nothing is known.

    Raises:
        FetchError: the hub cannot be reached, or refuses.
    """
    if not origin.repository:
        return RemoteFileInfo()
    url = resolve_url(origin, file)
    with _translated(url):
        try:
            said = get_hf_file_metadata(
                url, timeout=policy.connect_s + policy.read_s, headers=make_headers(origin)
            )
        except HfHubHTTPError as error:
            check_status(error.response.status_code, error.response.headers)
            return RemoteFileInfo()  # a server that has no HEAD may have GET
    etag = said.etag or ""
    return RemoteFileInfo(
        size_bytes=said.size,
        sha256=etag if _SHA256.fullmatch(etag) else "",
        git_sha1=etag if _GIT_SHA1.fullmatch(etag) else "",
    )


def find_cached(origin: FileOrigin, file: PublicFile) -> Path | None:
    """Finds a file in the hub's own cache, without reading it."""
    if not origin.repository:
        return None
    try:
        found = try_to_load_from_cache(
            origin.repository, file.name_at(origin), revision=origin.revision
        )
    except (HFValidationError, OSError):
        return None
    return Path(found).resolve() if isinstance(found, str) else None


@contextmanager
def open_url(url: str, headers: Mapping[str, str], policy: RetryPolicy) -> Iterator[Any]:
    """Asks for a URL with GET and follows redirects; to another host without the token.

    Returns:
        A `Response` of httpx or httpx2, whose body is still to be read.

    Raises:
        FetchError: the server cannot be reached, or breaks off while the body is read.
    """
    client = get_session()
    limits = _find_transport(client).Timeout(policy.read_s, connect=policy.connect_s)
    with (
        _translated(url),
        client.stream("GET", url, headers=dict(headers), timeout=limits) as response,
    ):
        yield response


def check_status(status: int, headers: Mapping[str, str]) -> None:
    """Raises a `FetchError` for an answer that brings no file.

    Args:
        status: of HTTP.
        headers: of the answer, for how long to wait.
    """
    if status in (401, 403):
        why = "has it for those with a token only, or not at all"
        raise FetchError(Cause.DENIED, f"{why} (HTTP {status})")
    if status in (404, 410):
        raise FetchError(Cause.MISSING, f"does not have it (HTTP {status})")
    if status == 429 or status >= 500:
        text = headers.get("retry-after", "").strip()
        wait_s = float(text) if text.isascii() and text.isdigit() else None  # it may be a date
        raise FetchError(Cause.BUSY, f"answers HTTP {status}", wait_s)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turns what the hub's library and its transport raise into `FetchError`."""
    transport = _find_transport(get_session())
    host = urlsplit(url).hostname or to_shown(url)
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise FetchError(Cause.OFFLINE, "may not be asked: the network is switched off") from error
    except (transport.ConnectError, transport.ConnectTimeout, transport.ProxyError) as error:
        reason = f"cannot be reached: {_shorten(error)} ({host})"
        raise FetchError(Cause.UNREACHABLE, reason) from error
    except (transport.InvalidURL, transport.UnsupportedProtocol) as error:
        # The reason may quote a part of a password.
        reason = "" if "@" in url else f": {_shorten(error)}"
        raise FetchError(Cause.MISSING, f"is not a URL{reason}") from error
    except transport.TooManyRedirects as error:
        raise FetchError(Cause.MISSING, "leads in circles") from error
    except transport.TimeoutException as error:
        raise FetchError(Cause.CUT, "stopped answering") from error
    except transport.HTTPError as error:
        raise FetchError(Cause.CUT, f"broke off: {_shorten(error)}") from error


def _shorten(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


def _find_transport(client: object) -> ModuleType:
    """Returns the library that the hub's client is of: httpx, or of late httpx2, its heir."""
    return sys.modules[type(client).__module__.partition(".")[0]]
