"""A repository, a revision and a name become a URL, headers and an open answer.

The only file that imports huggingface_hub, once something is asked for: it reads HF_HOME, HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE and the proxies, and its client opens plain URLs too. Its errors and
those of its transport become `FetchError` here, a setting that cannot be used a `UsageError`. The
body is not read.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tinyv_cli.addresses import to_shown
from tinyv_cli.errors import UsageError, describe_os_error
from tinyv_cli.network.certificates import check_certificates
from tinyv_cli.network.settings import check_hub_settings, check_proxies
from weights.pulling.catalog import FileOrigin, PublicFile
from weights.pulling.failures import Cause, FetchError, RetryPolicy

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_PIECE_BYTES = 65536  # at most at once, where the transport does not choose itself


@dataclass(frozen=True)
class RemoteFileInfo:
    """A file's size and hash as the hub states them before it is fetched.

    Attributes:
        size_bytes: None where it does not say; not to be relied on.
        sha256: of a file in large storage, else empty.
        git_sha1: of a file in the repository itself, git's name for its content, else empty.
    """

    size_bytes: int | None = None
    sha256: str = ""
    git_sha1: str = ""


def is_offline() -> bool:
    """Returns whether HF_HUB_OFFLINE forbids the network."""
    return bool(_load_library().constants.HF_HUB_OFFLINE)


def resolve_url(origin: FileOrigin, file: PublicFile) -> str:
    """Returns the URL of a file at an origin.

    Raises:
        FetchError: the repository's name cannot be one.
    """
    if origin.url:
        return origin.url
    hub = _load_library()
    try:
        url: str = hub.hf_hub_url(origin.repository, file.name_at(origin), revision=origin.revision)
    except hub.errors.HFValidationError as error:
        raise FetchError(Cause.MISSING, "is not a name of a repository") from error
    return url


def make_headers(origin: FileOrigin) -> dict[str, str]:
    """Makes the headers of every request; the token goes to the hub alone.

    Raises:
        UsageError: the token cannot be one, or its file cannot be read.
    """
    hub = _load_library()
    # Since 2.4 the library asks `/api/agent-harnesses` which program it runs in when it builds a
    # header; this is what HF_HUB_DISABLE_TELEMETRY sets.
    hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    given = (name for name in _TOKEN_VARIABLES if os.environ.get(name))
    source = next(given, f"the token in {hub.constants.HF_TOKEN_PATH}")
    fault = ""
    try:
        headers: dict[str, str] = hub.utils.build_hf_headers(
            library_name="tinyv",
            library_version=version("tinyv"),
            token=None if origin.repository else False,
        )
        if not all(
            char.isascii() and char.isprintable() for char in headers.get("authorization", "")
        ):
            fault = "it has characters that no token has"
    except UnicodeDecodeError:
        fault = "it is not UTF-8"
    except OSError as error:
        fault = describe_os_error(error)
    if fault:
        raise UsageError(
            f"{source} cannot be used: {fault}",
            "set the token as https://huggingface.co/settings/tokens shows it, or do without: "
            "`export HF_HUB_DISABLE_IMPLICIT_TOKEN=1`",
        )
    return {**headers, "Accept-Encoding": "identity"}


def read_remote_info(origin: FileOrigin, file: PublicFile, policy: RetryPolicy) -> RemoteFileInfo:
    """Asks the hub for a file's size and hash; of a plain URL nothing is known.

    Raises:
        FetchError: the hub cannot be reached, or refuses.
        UsageError: the environment's settings of the network cannot be used.
    """
    if not origin.repository:
        return RemoteFileInfo()
    url, hub = resolve_url(origin, file), _load_library()
    with _translated(url):
        try:
            said = hub.get_hf_file_metadata(
                url, timeout=policy.connect_s + policy.read_s, headers=make_headers(origin)
            )
        except hub.errors.HfHubHTTPError as error:
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
    hub = _load_library()
    try:
        found = hub.try_to_load_from_cache(
            origin.repository, file.name_at(origin), revision=origin.revision
        )
    except (hub.errors.HFValidationError, OSError):
        return None
    return Path(found).resolve() if isinstance(found, str) else None


@contextmanager
def open_url(url: str, headers: Mapping[str, str], policy: RetryPolicy) -> Iterator[Any]:
    """Asks for a URL with GET and follows redirects; to another host without the token.

    Returns:
        An answer with httpx's `status_code`, `headers` and `iter_raw`; its body is still to be
        read.

    Raises:
        FetchError: the server cannot be reached, or breaks off while the body is read.
        UsageError: the environment's settings of the network cannot be used.
    """
    client = _load_with_network().get_session()
    library = _find_transport(client)
    with _translated(url):
        if library.__name__ == "requests":
            limits = (policy.connect_s, policy.read_s)
            with client.get(url, headers=dict(headers), timeout=limits, stream=True) as answer:
                yield _RequestsAnswer(answer.status_code, answer.headers, answer.raw)
            return
        timeout = library.Timeout(policy.read_s, connect=policy.connect_s)
        with client.stream("GET", url, headers=dict(headers), timeout=timeout) as response:
            yield response


@dataclass(frozen=True)
class _RequestsAnswer:
    """An answer of requests, read as one of httpx is.

    Attributes:
        status_code: of HTTP.
        headers: of the answer.
        raw: urllib3's.
    """

    status_code: int
    headers: Mapping[str, str]
    raw: Any

    def iter_raw(self) -> Iterator[bytes]:
        """Yields pieces of the body as they arrive."""
        while chunk := self.raw.read1(_PIECE_BYTES, decode_content=False):
            yield chunk


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
    hub = _load_with_network()
    raised = _list_errors(_find_transport(hub.get_session()))
    host = urlsplit(url).hostname or to_shown(url)
    try:
        yield
    except hub.errors.OfflineModeIsEnabled as error:
        raise FetchError(Cause.OFFLINE, "may not be asked: the network is switched off") from error
    except raised.away as error:
        if raised.broken_before and isinstance(error.args[0], raised.broken_before):
            raise FetchError(Cause.CUT, f"broke off: {_shorten(error)}") from error
        reason = f"cannot be reached: {_shorten(error)} ({host})"
        raise FetchError(Cause.UNREACHABLE, reason) from error
    except raised.no_url as error:
        # The reason may quote a part of a password.
        reason = "" if "@" in url else f": {_shorten(error)}"
        raise FetchError(Cause.MISSING, f"is not a URL{reason}") from error
    except raised.circles as error:
        raise FetchError(Cause.MISSING, "leads in circles") from error
    except raised.silence as error:
        raise FetchError(Cause.CUT, "stopped answering") from error
    except raised.others as error:
        raise FetchError(Cause.CUT, f"broke off: {_shorten(error)}") from error


def _shorten(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


def _load_library() -> ModuleType:
    """Imports huggingface_hub, which reads its settings at that moment.

    Raises:
        UsageError: one of them cannot be used.
    """
    check_hub_settings()
    import huggingface_hub.constants  # 2.4.0 brings none of these along by itself
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def _load_with_network() -> ModuleType:
    """Imports huggingface_hub and opens its client, which reads proxies and certificates.

    Raises:
        UsageError: they cannot be used.
    """
    check_proxies()
    check_certificates()
    hub = _load_library()
    name = "no_proxy" if os.environ.get("no_proxy") else "NO_PROXY"
    value = os.environ.get(name)
    try:
        session = hub.get_session()
    except Exception as error:
        # What is left to stumble over: up to 0.28, httpx takes no IPv6 address in brackets there.
        if not value:
            raise
        raise UsageError(
            f"{name}={value} cannot be used: {_shorten(error)}",
            f"name hosts without brackets or ports, or unset it: `unset {name}`",
        ) from error
    own = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    if own and _find_transport(session).__name__ == "requests":  # which has variables of its own
        session.verify = own
    return hub


def _find_transport(client: object) -> ModuleType:
    """Returns the library that the hub's client is of.

    It is httpx2; with earlier releases httpx; below 1.0, which transformers 4 asks for, requests.
    """
    return sys.modules[type(client).__module__.partition(".")[0]]


class _TransportErrors(NamedTuple):
    """What a transport raises, by what is told of it.

    Attributes:
        away: there is no connection.
        no_url: it is none.
        circles: redirects lead nowhere.
        silence: nothing comes any more.
        others: anything else, of which the above are kinds.
        broken_before: reasons of `away` that are none, since there was a connection.
    """

    away: tuple[type[Exception], ...]
    no_url: tuple[type[Exception], ...]
    circles: type[Exception]
    silence: tuple[type[Exception], ...]
    others: tuple[type[Exception], ...]
    broken_before: tuple[type[Exception], ...] = ()


def _list_errors(transport: ModuleType) -> _TransportErrors:
    if transport.__name__ != "requests":
        return _TransportErrors(
            away=(transport.ConnectError, transport.ConnectTimeout, transport.ProxyError),
            no_url=(transport.InvalidURL, transport.UnsupportedProtocol),
            circles=transport.TooManyRedirects,
            silence=(transport.TimeoutException,),
            others=(transport.HTTPError,),
        )
    from urllib3 import exceptions as below

    found = transport.exceptions
    return _TransportErrors(
        away=(found.ConnectionError,),
        no_url=(found.InvalidURL, found.MissingSchema, found.InvalidSchema),
        circles=found.TooManyRedirects,
        silence=(found.Timeout, below.ReadTimeoutError),
        others=(found.RequestException, below.HTTPError),
        broken_before=(below.ProtocolError,),
    )
