"""An http(s) URL becomes the bytes that lie there, within limits; knows no picture.

A host's addresses are looked up once and checked, and one that was checked is what is connected
to: a name that answers otherwise the second time gains nothing. Each redirect is checked anew.
What a server says of its content is believed in nothing but its length. Proxies are not used,
since the address connected to would be theirs.
"""

import queue
import shlex
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

from tinyv_cli.errors import InputError

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection
    from urllib3.response import BaseHTTPResponse
    from urllib3.util import Url

Address: TypeAlias = IPv4Address | IPv6Address

_DOWNLOAD = "download it yourself: `curl -LO URL`, then name the file"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE_BYTES = 1 << 16

# Source: RFC 6052; how networks with IPv6 alone write IPv4 addresses.
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class FetchLimits:
    """What a fetch may take.

    Attributes:
        max_bytes: of the content.
        timeout_s: of everything together: looking up, connecting, redirects, content.
        max_redirects: followed.
        allow_private: also addresses of this computer and its own network.
    """

    max_bytes: int = 64 << 20
    timeout_s: float = 30.0
    max_redirects: int = 5
    allow_private: bool = False


DEFAULT_LIMITS = FetchLimits()


def fetch(url: str, limits: FetchLimits = DEFAULT_LIMITS) -> bytes:
    """Gets what lies at a URL.

    Args:
        url: of http or https.
        limits: what it may take.

    Raises:
        InputError: it is no such URL, the host cannot be reached or is not to be reached, the
            server refuses or sends half, or a limit is exceeded.
    """
    deadline = time.monotonic() + limits.timeout_s
    first, n_followed = url, 0
    while True:
        content = _fetch_once(url, limits, deadline)
        if isinstance(content, bytes):
            return content
        if n_followed == limits.max_redirects:
            raise InputError(f"{first} was redirected more than {n_followed} times", _DOWNLOAD)
        url, n_followed = urljoin(url, content), n_followed + 1


def is_public(address: Address) -> bool:
    """Whether an address is one of the open Internet, also behind an IPv4 address inside it."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _fetch_once(url: str, limits: FetchLimits, deadline: float) -> bytes | str:
    """Content, or where the server says it lies."""
    from http.client import HTTPException

    from urllib3.exceptions import HTTPError

    parts = _parse(url)
    host = str(parts.host).strip("[]")
    where = f"{parts.scheme}://{parts.netloc}{parts.path or '/'}"
    try:
        connection = _connect(parts, _list_addresses(host, parts, limits, deadline), deadline)
        with _cut_at(connection, deadline), closing(_request(connection, parts)) as response:
            if response.status in _REDIRECTS and "Location" in response.headers:
                return response.headers["Location"]
            if response.status != 200:
                reason = f"{response.status} {response.reason or ''}".strip()
                raise InputError(f"{where} answered {reason}", _to_look_at(where))
            return _read(response, where, limits, deadline)
    except (HTTPError, HTTPException, OSError) as error:
        if time.monotonic() >= deadline:
            raise InputError(
                f"{where} took longer than {limits.timeout_s:g} s", _DOWNLOAD
            ) from error
        raise InputError(
            f"{where} could not be fetched: {_tell(error)}", _to_look_at(where)
        ) from error


def _parse(url: str) -> "Url":
    """Takes a URL apart.

    Raises:
        InputError: it is none of http or https.
    """
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        parts = parse_url(url)
        if parts.scheme in ("http", "https") and parts.host:
            return parts
    except (LocationParseError, ValueError) as error:
        raise InputError(f"{url} is not a URL", "give one as https://host/picture.png") from error
    raise InputError(
        f"{url} is not a URL of http or https", "name a file by its path: `tinyv ask PICTURE …`"
    )


def _list_addresses(host: str, parts: "Url", limits: FetchLimits, deadline: float) -> list[str]:
    """Looks up a host, in a thread since a look-up knows no limit of time.

    Returns:
        At least one address that may be connected to.

    Raises:
        InputError: the host has none.
        OSError: it is not known, or the look-up takes too long.
    """
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(each[4][0]) for each in found])
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else OSError(str(error)))

    threading.Thread(target=look_up, daemon=True).start()
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
    return allowed


def _connect(parts: "Url", addresses: list[str], deadline: float) -> "HTTPConnection":
    """Connects to the first address that answers, with TLS for the host's own name.

    Raises:
        OSError, urllib3.exceptions.HTTPError: none does; the last one's reason.
    """
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.exceptions import HTTPError

    name = str(parts.host).strip("[]")
    failure: Exception = TimeoutError("there was no time left to connect")
    for address in addresses:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        if parts.scheme == "https":
            connection: HTTPConnection = HTTPSConnection(
                address,
                parts.port or 443,
                timeout=left_s,
                server_hostname=name,
                ssl_context=ssl.create_default_context(),
            )
        else:
            connection = HTTPConnection(address, parts.port or 80, timeout=left_s)
        try:
            connection.connect()
        except (HTTPError, OSError) as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


@contextmanager
def _cut_at(connection: "HTTPConnection", deadline: float) -> Iterator[None]:
    """Shuts the connection down when time is up, however slowly something still comes."""
    opened: socket.socket | None = connection.sock
    assert opened is not None

    def cut() -> None:
        with suppress(OSError):  # the plain socket's: a TLS one would first forget its own state
            socket.socket.shutdown(opened, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        connection.close()


def _request(connection: "HTTPConnection", parts: "Url") -> "BaseHTTPResponse":
    """Asks for the content as it lies there, not compressed once more."""
    from urllib3.util import make_headers

    headers = {
        "Host": str(parts.netloc),
        "User-Agent": "tinyv",
        "Accept": "image/*, */*;q=0.1",
        "Accept-Encoding": "identity",
    }
    if parts.auth:
        headers |= make_headers(basic_auth=parts.auth)
    connection.request(
        "GET", parts.request_uri, headers=headers, preload_content=False, decode_content=False
    )
    return connection.getresponse()


def _read(response: "BaseHTTPResponse", where: str, limits: FetchLimits, deadline: float) -> bytes:
    """Reads the content piece by piece.

    Raises:
        InputError: it is, or says it is, longer than allowed.
        OSError, urllib3.exceptions.HTTPError: it breaks off.
    """
    content = bytearray()
    n_bytes = response.length_remaining or 0  # what the server announces
    while n_bytes <= limits.max_bytes:
        piece = response.read1(_PIECE_BYTES)
        if time.monotonic() >= deadline:
            raise TimeoutError
        if not piece:
            return bytes(content)
        content += piece
        n_bytes = len(content)
    raise InputError(
        f"{where} sends more than {limits.max_bytes >> 20} MiB",
        "download it and make it smaller: `magick PICTURE -resize 2048x2048 small.png`",
    )


def _to_look_at(where: str) -> str:
    """The way out where a server is to blame."""
    return f"look at what it sends: `curl -IL {shlex.quote(where)}`"


def _tell(error: Exception) -> str:
    """The reason in a few words, without an object's name in it."""
    inner = error.args[-1] if error.args and isinstance(error.args[-1], Exception) else error
    reason = getattr(inner, "strerror", None) or str(inner).rpartition(": ")[2]
    return reason.rstrip(".") or type(inner).__name__
