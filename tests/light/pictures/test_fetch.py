import gzip
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from tests.light.pictures.picture_server import END, Server, ok, redirect
from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.pictures import fetch as fetching
from tinyv_cli.pictures.fetch import FetchLimits, fetch

LIMITS = FetchLimits(timeout_s=5, allow_private=True)


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        if isinstance(answer, bytes):
            content = answer
            server = Server(lambda connection: connection.sendall(content))
        else:
            server = Server(answer)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


def fails(url, limits=LIMITS):
    with pytest.raises(InputError) as caught:
        fetch(url, limits)
    assert caught.value.hint
    return caught.value


def test_what_lies_there_is_given_whatever_the_server_calls_it(serve):
    server = serve(ok(b"\x89PNG", "Content-Type: text/html"))
    assert fetch(server.url, LIMITS) == b"\x89PNG"
    [request] = server.requests
    assert request.startswith("GET /cat.png HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n" in request
    assert "Accept-Encoding: identity\r\n" in request


def test_the_question_of_a_url_is_sent_and_its_fragment_is_not(serve):
    server = serve(ok(b"x"))
    fetch(f"{server.url}?a=1&b=%20#part", LIMITS)
    assert server.requests[0].startswith("GET /cat.png?a=1&b=%20 HTTP/1.1\r\n")


def test_a_name_and_password_are_sent_and_never_shown(serve):
    server = serve(b"HTTP/1.1 401 No\r\nContent-Length: 0" + END)
    error = fails(f"http://me:secret@127.0.0.1:{server.port}/x")
    assert "authorization: basic bwu6c2vjcmv0\r\n" in server.requests[0].lower()
    assert "secret" not in error.problem + error.hint


def test_content_in_chunks_and_content_to_the_end_are_whole(serve):
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked" + END
    assert fetch(serve(chunked + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").url, LIMITS) == b"abcde"
    assert fetch(serve(b"HTTP/1.0 200 OK" + END + b"abc").url, LIMITS) == b"abc"


def test_content_compressed_in_spite_of_the_request_is_unpacked(serve):
    """Source: a URL answered compressed in spite of `identity` was no picture."""
    content = bytes(range(256)) * 500
    for packed, name in ((gzip.compress(content), "gzip"), (zlib.compress(content), "deflate")):
        assert fetch(serve(ok(packed, f"Content-Encoding: {name}")).url, LIMITS) == content
    bomb = gzip.compress(bytes(20 << 20))
    limits = replace(LIMITS, max_bytes=1 << 20)
    assert (
        "sends more than 1 MiB"
        in fails(serve(ok(bomb, "Content-Encoding: gzip")).url, limits).problem
    )
    broken = serve(ok(b"no gzip at all", "Content-Encoding: gzip"))
    assert "could not be fetched" in fails(broken.url).problem


# Size


def test_a_length_above_the_limit_is_refused_before_anything_is_read(serve):
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999" + END)
    assert "sends more than 64 MiB" in fails(server.url).problem


@pytest.mark.parametrize("headers", ["", "\r\nTransfer-Encoding: chunked", "\r\nContent-Length: x"])
def test_content_without_a_true_length_is_cut_at_the_limit(serve, headers):
    sent = 0

    def pour(connection):
        nonlocal sent
        connection.sendall(f"HTTP/1.1 200 OK{headers}".encode() + END)
        piece = b"x" * 65536
        while True:
            connection.sendall(b"10000\r\n" + piece + b"\r\n" if "chunked" in headers else piece)
            sent += len(piece)

    limits = replace(LIMITS, max_bytes=1 << 20)
    assert "sends more than 1 MiB" in fails(serve(pour).url, limits).problem
    assert sent < 64 << 20  # what buffers of both ends hold, not the limit many times


def test_content_shorter_than_announced_is_refused(serve):
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 10" + END + b"abc")
    assert "could not be fetched" in fails(server.url).problem


def test_a_chunk_that_breaks_off_is_refused(serve):
    server = serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked" + END + b"10\r\nabc")
    assert "could not be fetched" in fails(server.url).problem


# Time


@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 500" + END],
    ids=["silent", "headers", "content"],
)
def test_a_server_that_drips_is_left_when_time_is_up(serve, beginning):
    gone = threading.Event()

    def drip(connection):
        connection.sendall(beginning)
        try:
            while not gone.wait(0.05):
                connection.sendall(b"x" if beginning else b"")
        finally:
            gone.set()

    started = time.monotonic()
    error = fails(serve(drip).url, replace(LIMITS, timeout_s=0.4))
    gone.set()
    assert time.monotonic() - started < 2
    assert "took longer than 0.4 s" in error.problem


def test_redirects_share_the_time(serve):
    server = serve(lambda connection: (time.sleep(0.15), connection.sendall(redirect("/again"))))
    started = time.monotonic()
    assert "took longer" in fails(server.url, replace(LIMITS, timeout_s=0.4)).problem
    assert time.monotonic() - started < 2


def test_a_name_that_nobody_answers_for_does_not_hang(monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: [done.wait(20)][1:])
    started = time.monotonic()
    assert "took longer" in fails("http://host.test/x", replace(LIMITS, timeout_s=0.2)).problem
    assert time.monotonic() - started < 2
    done.set()


# Redirects


def test_redirects_are_followed_also_relative_ones(serve):
    last = serve(ok(b"cat"))
    middle = serve(redirect(last.url, "308 Permanent Redirect"))
    assert fetch(serve(redirect(middle.url)).url, LIMITS) == b"cat"
    answers = [redirect("dog.png?x=1"), ok(b"dog")]
    server = serve(lambda connection: connection.sendall(answers.pop(0)))
    assert fetch(server.url, LIMITS) == b"dog"
    assert server.requests[1].startswith("GET /dog.png?x=1 ")


def test_a_loop_of_redirects_ends(serve):
    server = serve(redirect("/cat.png"))
    assert "redirected more than 5 times" in fails(server.url).problem
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "to",
    [
        "/cat.png?token=hidden",
        "http://me:secret@[bad/?token=hidden",
        "http://me:secret@host:port/?token=hidden",
        "file://me:secret@host/?token=hidden",
    ],
)
def test_no_redirect_that_fails_shows_a_password_or_a_query(serve, to):
    # Source: `ask http://user:secret@host/a.png?token=…` on a redirect loop printed both.
    server = serve(redirect(to))
    error = fails(f"http://me:secret@127.0.0.1:{server.port}/cat.png?token=hidden")
    text = error.problem + error.hint
    assert "secret" not in text
    assert "hidden" not in text


def test_a_redirect_to_a_file_is_refused(serve):
    assert "not a URL of http" in fails(serve(redirect("file:///etc/passwd")).url).problem


def test_a_url_of_any_length_is_not_asked_for_nor_remembered(serve):
    server = serve(redirect(f"/{'a' * 20_000}"))
    assert "which is not a URL" in fails(server.url).problem
    n_asked, remembered = len(server.requests), urlsplit.cache_info().currsize
    told = fails(f"{server.url}/{'a' * 9_000}").problem
    assert "9,0" in told
    assert len(told) < 300
    assert (len(server.requests), urlsplit.cache_info().currsize) == (n_asked, remembered)


def test_a_password_does_not_follow_a_redirect(serve):
    other = serve(ok(b"cat"))
    server = serve(redirect(other.url))
    fetch(f"http://me:secret@127.0.0.1:{server.port}/", LIMITS)
    assert "authorization" not in other.requests[0].lower()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1"],
)
def test_this_computer_is_not_reached_however_it_is_written(serve, host):
    server = serve(ok(b"secret"))
    error = fails(f"http://{host}:{server.port}/", replace(LIMITS, allow_private=False))
    assert server.requests == []
    assert "--allow-private" in error.hint or "could not be fetched" in error.problem


def test_a_redirect_into_the_private_network_is_refused(serve, monkeypatch):
    inner = serve(ok(b"secret"))
    outer = serve(redirect(inner.url.replace("127.0.0.1", "localhost")))
    # The outer server stands for one of the open Internet.
    monkeypatch.setattr(
        fetching, "is_public", lambda address: answer_for[-1] == "open.test" and bool(address)
    )
    answer_for = name_hosts(monkeypatch, {"open.test": "127.0.0.1", "localhost": "127.0.0.1"})
    url = f"http://open.test:{outer.port}/"
    error = fails(url, replace(LIMITS, allow_private=False))
    assert "localhost is 127.0.0.1" in error.problem
    assert len(outer.requests) == 1
    assert inner.requests == []


def name_hosts(monkeypatch, addresses):
    """Gives names addresses; returns the names asked for."""
    asked = []

    def look_up(host, port, **_):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[host], port))]

    original = socket.getaddrinfo

    def look_up_or_pass(host, port, *rest, **named):
        return look_up(host, port) if host in addresses else original(host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_or_pass)
    return asked


def test_a_name_is_looked_up_once_and_sent_as_the_host(serve, monkeypatch):
    server = serve(ok(b"cat"))
    asked = name_hosts(monkeypatch, {"open.test": "127.0.0.1"})
    assert fetch(f"http://open.test:{server.port}/", LIMITS) == b"cat"
    assert asked == ["open.test"]
    assert f"Host: open.test:{server.port}\r\n" in server.requests[0]


def test_of_several_addresses_private_ones_are_passed_over(monkeypatch):
    tried = []

    def connect(self):
        tried.append(self.host)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("urllib3.connection.HTTPConnection.connect", connect)
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_, **__: [
            (2, 1, 6, "", (a, 80)) for a in ("10.0.0.1", "8.8.8.8", "::1", "9.9.9.9")
        ],
    )
    error = fails("http://open.test/", replace(LIMITS, allow_private=False))
    assert tried == ["8.8.8.8", "9.9.9.9"]
    assert "Connection refused" in error.problem


# What goes wrong


@pytest.mark.parametrize("status", ["404 Not Found", "500 Server Error", "204 No Content"])
def test_a_status_that_brings_nothing_is_told(serve, status):
    server = serve(f"HTTP/1.1 {status}\r\nContent-Length: 0".encode() + END)
    error = fails(f"{server.url}?token=hidden")
    assert f"answered {status}" in error.problem
    assert "curl -IL" in error.hint
    assert "hidden" not in error.problem


@pytest.mark.parametrize("answer", [b"", b"hello\r\n\r\n", b"HTTP/9.9 abc" + END, b"\x16\x03\x01"])
def test_a_server_of_another_kind_is_told(serve, answer):
    assert "could not be fetched" in fails(serve(answer).url).problem


def test_no_server_is_told(serve):
    server = serve(b"")
    server.close()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "Connection refused" in fails(f"http://127.0.0.1:{port}/").problem


def test_tls_with_a_server_that_speaks_none_is_told(serve):
    server = serve(ok(b"x"))
    assert "could not be fetched" in fails(f"https://127.0.0.1:{server.port}/").problem


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A certificate for open.test with its key, trusted in this test."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=open.test"]
    words += ["-addext", "subjectAltName=DNS:open.test", "-keyout", key, "-out", certificate]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate, key


def test_a_certificate_is_held_against_the_name_and_not_the_address(
    serve, certificate, monkeypatch
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    names = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server = serve(ok(b"cat"))
    server.wrap = lambda connection: context.wrap_socket(connection, server_side=True)
    name_hosts(monkeypatch, {"open.test": "127.0.0.1", "other.test": "127.0.0.1"})
    assert fetch(f"https://open.test:{server.port}/", LIMITS) == b"cat"
    assert names == ["open.test"]
    assert "certificate is not valid" in fails(f"https://other.test:{server.port}/").problem


def test_certificates_that_cannot_be_used_are_named_where_some_are_needed(serve, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    with pytest.raises(UsageError, match=r"SSL_CERT_FILE=/nowhere/certificates\.pem cannot"):
        fetch("https://127.0.0.1:9/", LIMITS)
    assert fetch(serve(ok(b"cat")).url, LIMITS) == b"cat"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/x", "http://", "http://[::1", "x"])
def test_what_is_no_url_of_http_is_refused(url):
    assert "URL" in fails(url).problem


def test_the_library_is_loaded_only_when_something_is_fetched():
    names = "{'urllib3', 'av', 'pypdfium2'}"
    code = f"import sys, tinyv_cli.pictures.opening; print({names} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
