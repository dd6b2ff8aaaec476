"""A real server on loopback that speaks the hub's protocol as far as huggingface_hub uses it.

It serves a folder: `/{owner}/{name}/resolve/{revision}/{file}` with HEAD and GET, large files with
the headers of large storage, and plain URLs under `/plain/`. Faults are set by file name.
"""

import gzip
import hashlib
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "f3d2d295eea90f7ff6515f2d7649eb0ea0137a14"
LARGE_BYTES = 64  # what is longer lies in large storage
_RESOLVE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


@dataclass
class Fault:
    """What goes wrong with a file; `times` counts down, -1 is for ever.

    Attributes:
        cut_after: bytes of the body that are sent before the connection is closed, each time.
        status: sent instead of the file.
        headers: sent with that status.
        body: sent instead of the content.
        truncated_to: bytes that are sent, and reported as all there are.
        redirect: where GET is sent to.
        slow_s: waited before each 64 KiB.
        method: the method that the status is for; empty for all.
        stated_bytes: the length that HEAD states; -1 for that of the content, compressed.
    """

    times: int = -1
    cut_after: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    truncated_to: int | None = None
    redirect: str | None = None
    slow_s: float = 0.0
    method: str = ""
    stated_bytes: int | None = None


class HubServer:
    """Serves repositories, `owner/name` → folder, and what `plain` holds by URL path.

    Attributes:
        log: (method, path, Range header) of each request.
        tokens: the Authorization header of each request.
        sent_bytes: of bodies, by file name.
    """

    def __init__(self, repositories: dict[str, Path], plain: Path | None = None) -> None:
        self.repositories, self.plain = repositories, plain
        self.faults: dict[str, Fault] = {}
        self.has_ranges = True
        self.needs_token = ""
        self.log: list[tuple[str, str, str | None]] = []
        self.tokens: list[str | None] = []
        self.sent_bytes: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def count(self, method, name):
        return sum(each[0] == method and each[1].endswith(name) for each in self.log)

    def find(self, path):
        """The file that a path means, and whether it is of a repository."""
        found = _RESOLVE.fullmatch(path)
        if found:
            folder = self.repositories.get(found[1])
            return (folder / found[3] if folder else None), True
        if path.startswith("/plain/") and self.plain:
            return self.plain / path.removeprefix("/plain/"), False
        return None, False

    def take_fault(self, name, method):
        fault = self.faults.get(name)
        if fault is None or fault.times == 0 or fault.method not in ("", method):
            return Fault()
        if fault.times > 0:
            fault.times -= 1
        return fault


def make_etag(content):
    if len(content) > LARGE_BYTES:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer("HEAD")

    def do_GET(self):
        self._answer("GET")

    def _answer(self, method):
        path = unquote(self.path)
        self.server.hub.log.append((method, path, self.headers.get("Range")))
        self.server.hub.tokens.append(self.headers.get("Authorization"))
        file, is_repository = self.server.hub.find(path)
        name = path.rpartition("/")[2]
        fault = self.server.hub.take_fault(name, method)
        if (
            self.server.hub.needs_token
            and self.headers.get("Authorization") != f"Bearer {self.server.hub.needs_token}"
        ):
            return self._send_empty(401, {"X-Error-Message": "Invalid credentials"})
        if fault.status:
            return self._send_empty(fault.status, fault.headers)
        if file is None or not file.is_file():
            code = "EntryNotFound" if is_repository else ""
            return self._send_empty(404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
        return self._serve(method, file, fault, is_repository=is_repository)

    def _serve(self, method, file, fault, *, is_repository):
        content = file.read_bytes()
        headers = {"ETag": f'"{make_etag(content)}"', "X-Repo-Commit": COMMIT}
        if is_repository and len(content) > LARGE_BYTES:
            headers["X-Linked-ETag"] = headers["ETag"]
            headers["X-Linked-Size"] = str(len(content))
        if fault.redirect and method == "GET":
            return self._send_empty(302, {**headers, "Location": fault.redirect})
        content = content if fault.body is None else fault.body
        if fault.truncated_to is not None:
            content = content[: fault.truncated_to]
        if method == "HEAD" and fault.stated_bytes is not None:
            headers.pop("X-Linked-Size", None)
            stated = fault.stated_bytes
            if stated < 0:
                headers["Content-Encoding"] = "gzip"
                stated = len(gzip.compress(content))
            return self._send_empty(200, headers, stated)
        return self._send(method, file.name, content, headers, fault)

    def _send_empty(self, status, headers, stated_bytes=0):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(stated_bytes))
        self.end_headers()

    def _send(self, method, name, content, headers, fault):
        start, wanted = 0, self.headers.get("Range")
        if wanted and self.server.hub.has_ranges and method == "GET":
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                headers = {"Content-Range": f"bytes */{len(content)}"}
                return self._send_empty(416, headers)
            self.send_response(206)
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        else:
            self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if method == "HEAD":
            return None
        body = content[start:]
        if fault.cut_after is not None:
            body = body[: fault.cut_after]
            self.close_connection = True
        return self._send_body(name, body, fault.slow_s)

    def _send_body(self, name, body, slow_s):
        for at in range(0, len(body), 1 << 16):
            if slow_s:
                threading.Event().wait(slow_s)
            piece = body[at : at + (1 << 16)]
            try:
                self.wfile.write(piece)
            except OSError:
                return
            self.server.hub.sent_bytes[name] += len(piece)
