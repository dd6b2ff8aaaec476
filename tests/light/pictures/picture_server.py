"""A server on loopback that answers a picture's request with whatever a test wants."""

import contextlib
import socket
import threading

END = b"\r\n\r\n"


class Server:
    """Answers each connection of 127.0.0.1 with what `answer` does to its socket."""

    def __init__(self, answer):
        self.requests = []
        self.wrap = contextlib.nullcontext
        self._answer = answer
        self._closing = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/cat.png"

    def _serve(self):
        while not self._closing.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection):
        with connection, contextlib.suppress(OSError), self.wrap(connection) as stream:
            request = b""
            while END not in request and not request.startswith(b"\x16"):  # TLS's greeting
                piece = stream.recv(4096)
                if not piece:
                    return
                request += piece
            self.requests.append(request.decode("latin-1"))
            self._answer(stream)

    def close(self):
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # or `accept` waits on in its thread
        self._listening.close()
        self._serving.join(10)


def ok(content, *headers):
    lines = ["HTTP/1.1 200 OK", *headers, f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode() + END + content


def redirect(to, status="302 Found"):
    return f"HTTP/1.1 {status}\r\nLocation: {to}\r\nContent-Length: 0".encode() + END
