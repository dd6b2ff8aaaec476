"""Requests are let in or refused before anything is done for them; each becomes a line of the log.

The host's name is checked against a page whose name was led to this computer, the origin against
any other page, the key against everybody else.
"""

import hashlib
import hmac
import re
import socket
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from time import perf_counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from tinyv_cli.engine import Notify
from tinyv_cli.serving.dialects import ollama, openai
from tinyv_cli.serving.dialects.asking import RefusedError
from tinyv_cli.serving.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXAMPLES = "/examples/"
OPEN_PATHS = frozenset({"/", "/page.css", "/page.js", "/health", "/ready"})  # without a key
# What the openai libraries send beside the usual headers; browsers take no pattern together with
# a key.
_STAINLESS = "arch async custom-poll-interval helper-method lang os package-version poll-helper "
_STAINLESS += "raw-response read-timeout retry-count runtime runtime-version timeout"
_HEADERS = "Authorization Content-Type Accept User-Agent OpenAI-Organization OpenAI-Project"
CORS_HEADERS = ", ".join(
    [*_HEADERS.split(), *(f"X-Stainless-{each}" for each in _STAINLESS.split())]
)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/@\s]+))(?::\d{1,5})?")
_WHOLE_URL = re.compile(r"https?://([^/]*)", re.IGNORECASE)
_SAFE = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_LEFT = 499  # nginx's number of a client that left before there was an answer
_LONGEST_SHOWN = 200  # letters of a path in the log
_LONGEST_ORIGIN = 300  # letters: a scheme, a name of 253 and a port


@dataclass(frozen=True)
class Gate:
    """Who is let in.

    Attributes:
        keys: of which a request has to bring one; none are asked for where there are none.
        hosts: names of this server, beside its addresses and `localhost`.
        origins: of pages that may ask, beside its own and those on this computer.
    """

    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def check_host(self, host: str) -> None:
        """Checks the name that a request was sent to; raises a `RefusedError`.

        A name that a foreign page's owner lets point here is none of these: DNS rebinding.
        """
        found = _HOST.fullmatch(host)
        name = (found[1] or found[2]).lower().rstrip(".") if found else ""
        own = socket.gethostname().lower()
        known = {"localhost", own, f"{own}.local", *(each.lower() for each in self.hosts)}
        is_known = name in known or name.endswith(".localhost") or _is_address(name)
        if not name or not is_known:
            shown = name[:100] or "an empty name"
            raise RefusedError(403, f"this server does not answer as {shown}; see `--allow-host`")

    def check_origin(self, origin: str, host: str) -> None:
        """Checks the page that a browser says a request is from; raises a `RefusedError`."""
        try:
            # It remembers the last 128 that it was given, however long.
            parts = urlsplit(origin if len(origin) <= _LONGEST_ORIGIN else "")
            name = parts.hostname or ""
        except ValueError:
            name = ""
        is_page = name and parts.scheme in ("http", "https")
        is_own = is_page and parts.netloc.lower() == host.lower()
        is_here = is_page and (name == "localhost" or name.endswith(".localhost"))
        is_here = is_here or (is_page and _is_address(name) and ip_address(name).is_loopback)
        if not (is_own or is_here or origin.lower() in {each.lower() for each in self.origins}):
            problem = "pages from elsewhere may not ask this server"
            raise RefusedError(403, f"{problem}; see `--allow-origin`")

    def find_owner(self, authorization: str) -> str:
        """Returns whose key a request brought; the same for all where none is asked for.

        Every key is compared, in a time that does not depend on what was sent.

        Raises:
            RefusedError: none of the keys, or none at all.
        """
        if not self.keys:
            return ""
        kind, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "replace")).digest()
        found = [
            str(i)
            for i, each in enumerate(self.keys)
            if hmac.compare_digest(digest, hashlib.sha256(each.encode()).digest())
        ]
        if kind.lower() != "bearer" or not found:
            problem = "the key is missing or wrong: `Authorization: Bearer KEY`"
            raise RefusedError(401, problem, "invalid_api_key")
        return found[0]


class Guard:
    """Stands before an application: tidies paths, lets in, logs, and lays out what went wrong.

    Args:
        app: gets the requests that are let in, each with its `owner` in the scope.
        gate: who is let in.
        metrics: counts.
        log: takes a line a request.
    """

    def __init__(self, app: "ASGIApp", gate: Gate, metrics: Metrics, log: Notify) -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        started = perf_counter()
        scope = to_origin_form(scope)
        path = re.sub("/+", "/", scope["path"]).rstrip("/") or "/"
        scope = {**scope, "path": path, "raw_path": path.encode(), "tinyv": {}}
        headers = Headers(scope=scope)
        # A proxy may find the end of such a body elsewhere than this server does: what follows is
        # no request.
        is_ambiguous = "content-length" in headers and "transfer-encoding" in headers
        origin = headers.get("origin")
        status = _LEFT

        async def send_guarded(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                for name, value in _SAFE.items():
                    out.setdefault(name, value)
                out.setdefault("cache-control", "no-store")
                if origin is not None and status != 403:
                    out["access-control-allow-origin"] = origin
                    out["vary"] = "Origin"
                if is_ambiguous:
                    out["connection"] = "close"
            await send(message)

        try:
            if is_ambiguous:
                raise RefusedError(400, "the body's length is told in two ways")
            response = self._check(scope["method"], path, headers, scope)
            await (response or self._app)(scope, receive, send_guarded)
        except RefusedError as refusal:
            await make_error(path, refusal)(scope, receive, send_guarded)
        except ClientDisconnect:  # in the middle of its body
            status = _LEFT
        except TimeoutError:  # the client takes nothing any more
            pass
        except Exception:  # noqa: BLE001 - whoever asked was told, the log gets the traceback
            self._log(f"a bug:\n{traceback.format_exc()}")
        label = scope["tinyv"].get("path", "other")
        self._metrics.count_request(label, status)
        shown = path[:_LONGEST_SHOWN].encode("unicode_escape").decode()
        tokens = f" {scope['tinyv']['n_tokens']} tokens" if "n_tokens" in scope["tinyv"] else ""
        elapsed_s = perf_counter() - started
        self._log(f"{scope['method']} {shown} {status}{tokens} {elapsed_s:.3f} s")

    def _check(self, method: str, path: str, headers: Headers, scope: "Scope") -> Response | None:
        """Lets a request in, or answers a browser that asks whether it may.

        Raises:
            RefusedError: it is not let in.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        self._gate.check_host(host)
        if origin is not None:
            self._gate.check_origin(origin, host)
        if method == "OPTIONS":
            allowed = {"allow": "GET, HEAD, POST, OPTIONS"}
            allowed["access-control-allow-methods"] = allowed["allow"]
            allowed["access-control-allow-headers"] = CORS_HEADERS
            return Response(status_code=204, headers=allowed)
        scope["tinyv"]["owner"] = ""
        if path not in OPEN_PATHS and not path.startswith(EXAMPLES):
            scope["tinyv"]["owner"] = self._gate.find_owner(headers.get("authorization", ""))
        return None


def to_origin_form(scope: "Scope") -> "Scope":
    """Makes a request for a whole URL, as proxies are asked, one for a path of the host in it.

    Source: RFC 9112, section 3.2.2.
    """
    found = _WHOLE_URL.match(scope["path"])
    if not found:
        return scope
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    headers.append((b"host", found[1].encode()))
    return {**scope, "path": scope["path"][found.end() :] or "/", "headers": headers}


def make_error(path: str, refusal: RefusedError) -> Response:
    """Makes the answer that tells a refusal in the words of the dialect that was asked in."""
    dialect = ollama if path.startswith("/api") else openai
    status, document = dialect.describe_error(refusal)
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(refusal.retry_after_s)
    media_type = "application/json; charset=utf-8"
    return JSONResponse(document, status, headers, media_type)


def check_public(host: str, keys: Sequence[str], *, is_open: bool) -> bool:
    """Returns whether a server that others can reach may be started."""
    is_here = host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)
    return is_here or bool(keys) or is_open


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
