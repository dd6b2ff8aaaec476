"""Who is let in, and what nobody gets through: names, pages, keys, sizes, slow and many senders."""

import json
import socket
import struct
import time
import zlib
from base64 import b64encode

import httpx
import psutil
import pytest

from tests.light.serving.served import PICTURES, ask_of, serve

CHAT = "/v1/chat/completions"
HOSTS = [
    ("127.0.0.1:80", 200),
    ("[::1]:11435", 200),
    ("192.168.1.7", 200),
    ("localhost", 200),
    ("LOCALHOST:5", 200),
    ("tinyv.localhost", 200),
    ("my.server", 200),
    ("evil.example", 403),
    ("localhost.evil.example", 403),
    ("notlocalhost", 403),
    ("127.0.0.1.evil.example", 403),
    ("localhost@evil.example", 403),
    ("", 403),
]
ORIGINS = [
    ("http://localhost:3000", 200),
    ("http://127.0.0.1:9", 200),
    ("http://[::1]", 200),
    ("https://chat.example", 200),
    ("https://chat.example.evil.example", 403),
    ("http://chat.example", 403),
    ("https://evil.example", 403),
    ("http://192.168.1.9", 403),
    ("null", 403),
    ("file://", 403),
    ("http://[", 403),
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with two keys, and a name and a page of its own."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text("one-key\n\ntwo-key\n")
    words = ["--api-key-file", str(folder / "keys"), "--allow-host", "my.server"]
    words += ["--allow-origin", "https://chat.example/", "--host", "0.0.0.0"]
    with serve(folder, *words) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(guarded):
    with guarded.client(headers={"authorization": "Bearer one-key"}) as client:
        yield client


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_only_own_names_are_answered(keyed, host, status):
    response = keyed.get("/api/tags", headers={"host": host})
    assert response.status_code == status
    assert ("error" in response.json()) == (status == 403)


@pytest.mark.parametrize(("origin", "status"), ORIGINS)
def test_only_known_pages_may_ask_also_without_a_preflight(keyed, origin, status):
    headers = {"origin": origin, "content-type": "text/plain"}
    body = json.dumps(ask_of(None, "hello", max_tokens=1))
    response = keyed.post(CHAT, content=body, headers=headers)
    assert response.status_code == status
    allowed = response.headers.get("access-control-allow-origin")
    assert allowed == (origin if status == 200 else None)
    before = keyed.options(CHAT, headers={**headers, "access-control-request-method": "POST"})
    assert before.status_code == (204 if status == 200 else 403)
    if status == 200:
        assert "authorization" in before.headers["access-control-allow-headers"].lower()
        assert "x-stainless-lang" in before.headers["access-control-allow-headers"].lower()


def test_a_page_of_the_server_itself_may_ask(keyed):
    for host in ("my.server", "192.168.1.7:11435"):
        headers = {"host": host, "origin": f"http://{host}"}
        assert keyed.get("/api/tags", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer one-key", 200),
        ("bearer two-key", 200),
        ("Bearer three-key", 401),
        ("Bearer", 401),
        ("Basic one-key", 401),
        ("one-key", 401),
        (None, 401),
        ("Bearer one-key two-key", 401),
        ("Bearer ön", 401),
    ],
)
def test_a_key_is_asked_for(guarded, given, status):
    with guarded.client() as client:
        headers = {} if given is None else {"authorization": given.encode()}
        for path in ("/api/tags", "/v1/models", "/metrics", "/nothing"):
            wanted = 404 if status == 200 and path == "/nothing" else status
            response = client.get(path, headers=headers)
            assert response.status_code == wanted
            if status == 401:
                assert response.headers["www-authenticate"] == "Bearer"
                error = response.json()["error"]
                assert path == "/api/tags" or error["code"] == "invalid_api_key"
        for path in ("/", "/health", "/examples/cat.png"):
            assert client.get(path, headers=headers).status_code == 200


def test_one_key_takes_nothing_over_from_another(guarded):
    cached = {}
    for key in ("one-key", "one-key", "two-key", "one-key"):
        with guarded.client(headers={"authorization": f"Bearer {key}"}) as client:
            usage = client.post(CHAT, json=ask_of("cat", "what is this?")).json()["usage"]
        cached.setdefault(key, []).append(usage["prompt_tokens_details"]["cached_tokens"])
    assert cached["one-key"][1] > 32
    assert cached["two-key"] == [0]
    assert cached["one-key"][2] == 0


def test_neither_prompts_nor_keys_nor_pictures_are_logged(guarded, keyed):
    keyed.post(CHAT, json=ask_of("cat", "where is the hidden treasure?"))
    keyed.post(CHAT, content=b'{"hidden treasure":')
    keyed.get("/nothing?key=hidden-treasure", headers={"authorization": "Bearer hidden-treasure"})
    guarded.wait_for(r"GET /nothing 401")
    text = "".join(guarded.lines)
    assert "treasure" not in text
    assert "one-key" not in text


def make_bomb(side):
    """A PNG that says it is a square of this side, and is a few bytes."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 10_000)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_a_picture_of_a_billion_pixels_is_refused_unseen(client):
    url = "data:image/png;base64," + b64encode(make_bomb(32_000)).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    started = time.monotonic()
    response = client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})
    assert response.status_code == 400
    body = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]}
    response = client.post(CHAT, json=body)
    assert response.status_code == 400
    assert "pixels" in response.json()["error"]["message"]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe{}",
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "\\udc00x", "messages": []}',
        b'{"messages": [{"role": "user", "content": "a\\u0000"}]}',
        b'{"model": ' + b"9" * 400 + b', "stream": ' + b"9" * 400 + b"}",
        b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/api/chat", "/api/generate", "/api/show"])
def test_what_is_no_usable_json_is_refused(client, path, content):
    response = client.post(path, content=content)
    assert response.status_code == 400, response.text


def send(served, content, wait_s=20.0):
    """Sends bytes as they are; returns what comes back until the end."""
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        connection.sendall(content)
        received = b""
        try:
            while piece := connection.recv(1 << 16):
                received += piece
                if b"\r\n\r\n" in received and b"HTTP/1.1 100" not in received:
                    break
        except (TimeoutError, ConnectionResetError):
            pass
        return received


def test_a_body_is_refused_by_what_is_announced_and_by_what_comes(served, client):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n"
    answer = send(served, f"{head}Content-Length: 99999999999\r\n\r\n".encode())
    assert b" 413 " in answer.partition(b"\r\n")[0]

    def endless():
        for _ in range(1000):
            yield b" " * (1 << 20)

    try:
        response = client.post(CHAT, content=endless())
    except (OSError, httpx.TransportError):
        pass  # the connection may be cut before the answer is read
    else:
        assert response.status_code == 413
    assert client.get("/health").status_code == 200


def test_a_header_without_end_is_cut_off(served, client):
    answer = send(served, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000)
    assert not answer or b" 400 " in answer.partition(b"\r\n")[0]
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("place", ["path", "origin"])
def test_nothing_that_was_asked_for_is_kept(served, client, place):
    process = psutil.Process(served.process.pid)

    def ask(n):
        long = f"{n}{'a' * 60_000}"
        headers = {"origin": f"http://{long}"} if place == "origin" else {}
        response = client.get("/" if headers else f"/{long}", headers=headers)
        assert response.status_code == (403 if headers else 404)

    for n in range(10):
        ask(n)
    before = process.memory_info().rss
    for n in range(10, 150):
        ask(n)
    assert process.memory_info().rss < before + 4e6


def test_whoever_leaves_within_a_body_is_no_bug(served):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as leaving:
        leaving.sendall(head.encode() + b"{")
    served.wait_for(f"POST {CHAT} 499 ")
    assert not any("a bug" in line for line in served.lines)


def test_a_body_with_two_lengths_is_refused_and_hides_no_request(served):
    hidden = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    both = b"Host: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n"
    head = b"POST /v1/models HTTP/1.1\r\n" + both % (len(hidden) + 5)
    heard = send(served, head + b"0\r\n\r\n" + hidden)
    assert heard.startswith(b"HTTP/1.1 400 ")
    assert heard.count(b"HTTP/1.1 ") == 1
    assert not any("/hidden" in line for line in served.lines)


@pytest.mark.parametrize(
    ("host", "named", "status"),
    [
        ("localhost", "localhost", 200),
        ("evil.example", "LOCALHOST:80", 200),
        ("localhost", "evil.example", 403),
        ("localhost", "", 403),
    ],
)
def test_a_whole_url_is_answered_as_the_host_in_it(served, host, named, status):
    words = f"GET http://{named}/health?a=b HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert send(served, words.encode()).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.fixture
def many_descriptors():
    """Room for a thousand connections in this process."""
    resource = pytest.importorskip("resource", reason="descriptors are counted elsewise here")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"this system allows {hard} descriptors a process")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_half_open_connections_do_not_keep_the_next_question_out(served):
    port = int(served.url.rpartition(":")[2])
    opened = []
    try:
        for i in range(1000):
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            opened.append(connection)
            if i % 2:
                connection.sendall(b"POST / HTTP/1.1\r\nHost: loc")
        with served.client() as client:
            response = client.post(CHAT, json=ask_of("cat", "what is this?"))
            assert response.json()["choices"][0]["message"]["content"] == "a cat"
    finally:
        for each in opened:
            each.close()


@pytest.mark.parametrize("name", ["nothing.png", "%2e%2e", "..%2fvariant%2fmanifest.json", ""])
def test_only_the_pictures_that_come_along_are_examples(client, name):
    found = client.get("/examples/cat.png")
    assert (found.content, found.headers["content-type"]) == (PICTURES["cat"], "image/png")
    assert client.get(f"/examples/{name}").status_code == 404


def test_the_page_lets_nothing_in_from_outside(client):
    page = client.get("/", headers={"accept": "text/html"})
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "http://" not in page.text
    assert "https://" not in page.text
