"""An http(s) URL becomes the bytes it names, within limits; decodes none of them.

A host's addresses are looked up once and checked, and a checked one is connected to: a name that
answers otherwise the second time gains nothing. Each redirect is checked anew. Of a server's
headers only status, location and length are used. Proxies are not used, since the address connected
to would be theirs.
"""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urljoin

from tinyv_cli.addresses import quote_whole, to_shown
from tinyv_cli.errors import InputError
from tinyv_cli.network.certificates import check_certificates

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection
    from urllib3.response import BaseHTTPResponse
    from urllib3.util import Url

Address: TypeAlias = IPv4Address | IPv6Address

_DOWNLOAD = "download it yourself: `curl -LO URL`, then name the file"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE_BYTES = 1 << 16
# Letters; servers refuse longer lines. `urljoin` remembers the last 128 that it was given.
_LONGEST_URL = 8192
_LONGEST_SHOWN = 200  # letters, in messages

# Source: RFC 6052; how networks with IPv6 alone write IPv4 addresses.
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class FetchLimits:
    """Limits of one fetch.

    Attributes:
        max_bytes: of the content, as announced and as counted.
        timeout_s: of everything together: looking up, connecting, redirects, content.
        max_redirects: followed at most.
        allow_private: whether addresses of this computer and its own network are allowed too.
    """

    max_bytes: int = 64 << 20
    timeout_s: float = 30.0
    max_redirects: int = 5
    allow_private: bool = False


DEFAULT_LIMITS = FetchLimits()


def fetch(url: str, limits: FetchLimits = DEFAULT_LIMITS) -> bytes:
    """Downloads the content of a URL.

    Args:
        url: of http or https.
        limits: size, time, redirects, addresses.

    Raises:
        UsageError: the environment names certificates that cannot be used.
        InputError: it is not such a URL, the host cannot be reached or is not to be reached, the
            server refuses or sends half, or a limit is exceeded.
    """
    deadline = time.monotonic() + limits.timeout_s
    first = url
    if len(url) > _LONGEST_URL:
        shown = to_shown(url)[:_LONGEST_SHOWN]
        problem = f"{shown}… has {len(url):,} letters, a URL has at most {_LONGEST_URL:,}"
        raise InputError(problem, _DOWNLOAD)
    for _ in range(limits.max_redirects + 1):
        content = _fetch_once(url, limits, deadline)
        if isinstance(content, bytes):
            return content
        try:
            if len(content) > _LONGEST_URL:
                raise ValueError
            url = urljoin(url, content)
        except ValueError as error:
            shown = to_shown(content)[:_LONGEST_SHOWN]
            problem = f"{to_shown(url)} redirects to {shown}, which is not a URL"
            raise InputError(problem, _DOWNLOAD) from error
    problem = f"{to_shown(first)} was redirected more than {limits.max_redirects} times"
    raise InputError(problem, _DOWNLOAD)


def is_public(address: Address) -> bool:
    """Returns whether an address belongs to the open Internet.

    IPv4 inside IPv6 (mapped, 6to4, Teredo, NAT64) is judged as IPv4. Site-local, multicast and
    reserved addresses are refused beside what `is_global` refuses.
    """
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:  # reserved to Python, but all there is in networks with IPv6 alone
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _fetch_once(url: str, limits: FetchLimits, deadline: float) -> bytes | str:
    """Returns the content, or the address that the server redirects to."""
    from http.client import HTTPException

    from urllib3.exceptions import HTTPError, LocationParseError
    from urllib3.util import parse_url

    try:
        parts = parse_url(url)
    except (LocationParseError, ValueError) as error:
        problem = f"{to_shown(url)} is not a URL"
        raise InputError(problem, "give one as https://host/picture.png") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InputError(
            f"{to_shown(url)} is not a URL of http or https",
            "name a file by its path: `tinyv ask PICTURE …`",
        )
    where = to_shown(url)
    way_out = f"look at what it sends: `curl -IL {quote_whole(url)}`"
    try:
        with _open_response(parts, limits, deadline) as response:
            if response.status in _REDIRECTS and "Location" in response.headers:
                return response.headers["Location"]
            if response.status != 200:
                reason = f"{response.status} {response.reason or ''}".strip()
                raise InputError(f"{where} answered {reason}", way_out)
            content = bytearray()
            n_bytes = response.length_remaining or 0  # what the server announces
            while n_bytes <= limits.max_bytes:
                # Compressed although it was not asked for, it is unpacked, and counted so.
                piece = response.read1(_PIECE_BYTES, decode_content=True)
                if time.monotonic() >= deadline:
                    raise TimeoutError
                if not piece:
                    return bytes(content)
                content += piece
                n_bytes = len(content)
            raise InputError(
                f"{where} sends more than {limits.max_bytes >> 20} MiB",
                f"make it smaller: `curl -L {quote_whole(url)} | magick - -resize 2048x2048 "
                "small.png`, then name small.png",
            )
    except (HTTPError, HTTPException, OSError) as error:
        if time.monotonic() >= deadline:
            problem = f"{where} took longer than {limits.timeout_s:g} s"
            raise InputError(problem, _DOWNLOAD) from error
        # urllib3 wraps the system's error, and puts an object's name before the reason.
        inner = error.args[-1] if error.args and isinstance(error.args[-1], Exception) else error
        reason = getattr(inner, "strerror", None) or str(inner).rpartition(": ")[2]
        reason = reason.rstrip(".") or type(inner).__name__
        raise InputError(f"{where} could not be fetched: {reason}", way_out) from error


@contextmanager
def _open_response(
    parts: "Url", limits: FetchLimits, deadline: float
) -> "Iterator[BaseHTTPResponse]":
    """Connects, asks for the content, and closes both when the block ends.

    Raises:
        InputError: the host has no address that may be connected to.
        OSError, urllib3.exceptions.HTTPError: it cannot be reached in time.
    """
    from urllib3.util import make_headers

    # No compression is asked for, so that none can unpack into more than the limit.
    headers = {
        "Host": str(parts.netloc),
        "User-Agent": "tinyv",
        "Accept": "image/*, */*;q=0.1",
        "Accept-Encoding": "identity",
    }
    if parts.auth:  # of this URL alone; a redirect leads to one without
        headers |= make_headers(basic_auth=parts.auth)
    connection = _connect(parts, limits, deadline)
    opened: socket.socket | None = connection.sock
    assert opened is not None

    def shut_down() -> None:
        # The plain socket: `SSLSocket.shutdown` first forgets its state under the reading thread.
        with suppress(OSError):
            socket.socket.shutdown(opened, socket.SHUT_RDWR)

    # A server may drip headers or bytes for ever: a limit for each read, as libraries have it,
    # does not end that.
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut_down)
    timer.daemon = True
    timer.start()
    try:
        connection.request(
            "GET", parts.request_uri, headers=headers, preload_content=False, decode_content=False
        )
        # One left half read would keep its socket open beyond `connection.close()`.
        with closing(connection.getresponse()) as response:
            yield response
    finally:
        timer.cancel()
        connection.close()


def _connect(parts: "Url", limits: FetchLimits, deadline: float) -> "HTTPConnection":
    """Looks up a host once and connects to its first allowed address that answers.

    Raises:
        InputError: it has none.
        UsageError: the environment names certificates that cannot be used.
        OSError, urllib3.exceptions.HTTPError: none answers in time; the last one's reason.
    """
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.exceptions import HTTPError

    is_secure = parts.scheme == "https"
    if is_secure:
        check_certificates()
    host = str(parts.host).strip("[]")
    port = parts.port or (443 if is_secure else 80)
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(each[4][0]) for each in found])
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else OSError(str(error)))

    threading.Thread(target=look_up, daemon=True).start()  # getaddrinfo has no limit of time
    try:
        found = answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise TimeoutError("the name was not found in time") from None
    if isinstance(found, OSError):
        raise found
    allowed = [each for each in found if limits.allow_private or is_public(ip_address(each))]
    if not allowed:
        raise InputError(
            f"{host} is {found[0] if found else 'nowhere'}, an address of this computer or of a "
            "private network",
            "if you trust it, allow it: `--allow-private`",
        )
    failure: Exception = TimeoutError("there was no time left to connect")
    for address in allowed:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        connection = HTTPConnection(address, port, timeout=left_s)
        if is_secure:
            # With `server_hostname` OpenSSL compares the name, and a mismatch is an OSError; with
            # `assert_hostname` urllib3 does it and raises a ValueError.
            context = ssl.create_default_context()
            connection = HTTPSConnection(
                address, port, timeout=left_s, server_hostname=host, ssl_context=context
            )
        try:
            connection.connect()
        except (HTTPError, OSError) as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure
