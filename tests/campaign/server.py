"""Hostile clients on `tinyv serve`: each is told off or dropped, and others hear what they should.

    python -m tests.campaign.server --count 100000 --minutes 5 --seed 1

Requests that end at any byte, slow and half-open ones, damaged ones, and forms of HTTP/1.1 by which
two readers of a stream may disagree where a request ends. What only one of them would see asks for
a path that must never turn up in the server's log.
"""

import itertools
import json
import random
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import psutil

from tests.bench.serving import CHAT, connect, run_all, stream
from tests.campaign.disturbed.programs import Tally, parse_round
from tests.light.serving.served import QUESTIONS, Served, ask_of, serve

_N_HOSTILE, _N_HONEST = 4, 2
_LONGEST_S = 45.0  # of an exchange: a connection at rest is kept 30 s
_MOST_HELD = 40  # half-open connections at once
_MOST_GROWTH = 1.02  # of the process, over rounds of five minutes or more
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
# 501 for codings of a body that it does not know, 503 with a time to come again where it is busy.
_EXPLAINED = {501, 503, 505}
_HEAD = "POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"


@dataclass(frozen=True)
class Exchange:
    """What a client sends and may hear.

    Attributes:
        sent: all bytes.
        most: answers that may come.
        statuses: that one of them must have; empty where any refusal is right.
        cut: the client leaves after so many bytes of its own; None to stay.
        heard: it leaves after so many bytes of the answer; None to hear all.
        pause_s: between pieces of what it sends.
        hidden: a path that the server may not be asked for.
        kind: of it, as counted.
    """

    sent: bytes
    most: int = 1
    statuses: Sequence[int] = ()
    cut: int | None = None
    heard: int | None = None
    pause_s: float = 0.0
    hidden: str = ""
    kind: str = ""


def write_request(chance: random.Random, *, closes: bool = True) -> bytes:
    """Writes a request that is right: a question in either form, or a look at what there is."""
    ending = "Connection: close\r\n" if closes else ""
    if chance.random() < 0.4:
        path = chance.choice(("/health", "/v1/models", "/api/tags", "/ready", "/", "/api/version"))
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{ending}\r\n".encode()
    is_stream = chance.random() < 0.5
    body = json.dumps(ask_of(*chance.choice(QUESTIONS), stream=is_stream)).encode()
    headers = "Content-Type: application/json\r\n" + ending
    if chance.random() < 0.5:
        head = _HEAD.format(path=CHAT, headers=f"{headers}Content-Length: {len(body)}\r\n")
        return head.encode() + body
    head = _HEAD.format(path=CHAT, headers=f"{headers}Transfer-Encoding: chunked\r\n")
    pieces, place = [head.encode()], 0
    while place < len(body):
        piece = body[place : place + chance.randrange(1, 40_000)]
        pieces.append(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        place += len(piece)
    return b"".join([*pieces, b"0\r\n\r\n"])


def post(headers: str, body: str) -> bytes:
    """Writes a request with these headers, as they are."""
    return (_HEAD.format(path="/v1/nothing", headers=headers) + body).encode("latin-1")


def smuggle(chance: random.Random) -> Exchange:
    """Hides a request where only a reader who errs finds one."""
    hidden = f"/hidden{chance.randrange(10**12)}"
    smuggled = f"GET {hidden} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    n = len(smuggled)
    both = f"Content-Length: {n + 5}\r\nTransfer-Encoding: chunked\r\n"
    size = chance.choice(
        ("+{:x}", "-{:x}", "0x{:x}", " {:x}", "{:x} ;", "{:x}_0", "{:x}g", "")
    ).format(n)
    coding = chance.choice(
        ("xchunked", "chunked, identity", "identity", "\x0bchunked", "chunked\x00")
    )
    lengths = chance.choice((f"0\r\nContent-Length: {n}", f"{n}\r\nContent-Length: 0", f"0, {n}"))
    number = chance.choice((f"+{n}", f"-{n}", f"{n}.0", f"0x{n:x}", f"{n} 0", f"{n}_0", "\xb2"))
    chunked = "Transfer-Encoding: chunked\r\n"
    forms = {
        "length and chunks": post(both, f"0\r\n\r\n{smuggled}"),
        "chunks and length": post(
            f"{chunked}Content-Length: 0\r\n", f"{n:x}\r\n{smuggled}\r\n0\r\n\r\n"
        ),
        "two lengths": post(f"Content-Length: {lengths}\r\n", smuggled),
        "length of no number": post(f"Content-Length: {number}\r\n", smuggled),
        "unknown coding": post(f"Transfer-Encoding: {coding}\r\n", f"0\r\n\r\n{smuggled}"),
        "chunk of no size": post(chunked, f"{size}\r\n{smuggled}\r\n0\r\n\r\n{smuggled}"),
        "chunk too long": post(chunked, f"1\r\nxyz\r\n0\r\n\r\n{smuggled}"),
        "endless chunk size": post(chunked, "f" * 40 + f"\r\n{smuggled}"),
        "blank before colon": post(f"Content-Length : {n}\r\n", smuggled),
        "name with a blank": post(f"Content Length: {n}\r\nContent-Length: {n}\r\n", smuggled),
        "carriage return alone": post(f"X: y\rContent-Length: {n}\r\n", smuggled),
        "zero byte": post(f"X: y\x00z\r\nContent-Length: {n}\r\n", smuggled),
        "folded": post(f"X: y\r\n Content-Length: 0\r\nContent-Length: {n}\r\n", smuggled),
        "folded coding": post(
            f"Transfer-Encoding:\r\n chunked\r\nContent-Length: {n}\r\n", smuggled
        ),
        "trailer": post(chunked, f"0\r\nContent-Length: {n}\r\nX: {hidden}\r\n\r\n"),
        "old version": post(f"Content-Length: {n}\r\n", smuggled).replace(b"1.1", b"1.0", 1),
    }
    kind = chance.choice(list(forms))
    return Exchange(forms[kind], hidden=hidden, kind=kind)


def shape(chance: random.Random) -> Exchange:
    """Writes what is unusual, and no more than that."""
    close = "Host: localhost\r\nConnection: close\r\n"
    many = "".join(f"X-{i}: {i}\r\n" for i in range(chance.randrange(10, 5_000)))
    requests = [write_request(chance, closes=False) for _ in range(chance.randrange(1, 6))]
    last = f"GET /health HTTP/1.1\r\n{close}\r\n"
    shapes = {
        "pipelined": Exchange(b"".join(requests) + last.encode(), len(requests) + 1, [200]),
        "absolute form": Exchange(
            f"GET http://localhost/health HTTP/1.1\r\n{close}\r\n".encode(), 1, [200]
        ),
        "absolute form of another": Exchange(
            f"GET http://example.org/v1/models HTTP/1.1\r\n{close}\r\n".encode(), 1, [403]
        ),
        "another host": Exchange(
            b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n", 1, [403]
        ),
        "two hosts": Exchange(
            f"GET / HTTP/1.1\r\nHost: a.org\r\n{close}\r\n".encode(), 1, [400, 403]
        ),
        "bare line feeds": Exchange(last.replace("\r\n", "\n").encode(), 1, [200, 400]),
        "many headers": Exchange(f"GET /health HTTP/1.1\r\n{many}{close}\r\n".encode()),
        "long path": Exchange(
            f"GET /{'a' * chance.randrange(9, 200_000)} HTTP/1.1\r\n{close}\r\n".encode()
        ),
        "large promise": Exchange(
            post(f"Content-Length: {10 ** chance.randrange(9, 40)}\r\n", "x")
        ),
        "expects to go on": Exchange(
            post("Expect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n", "{}"), 2
        ),
        "upgrade": Exchange(last.replace("close\r\n", "Upgrade\r\nUpgrade: h2c\r\n").encode()),
        "HTTP/2": Exchange(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + chance.randbytes(40), 2),
        "TLS": Exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500)),
        "noise": Exchange(chance.randbytes(chance.randrange(1, 5_000)) + b"\r\n\r\n"),
        "odd method": Exchange(
            f"{chance.choice(('TRACE', 'CONNECT', 'get', 'PUT'))} {last[4:]}".encode()
        ),
    }
    kind = chance.choice(list(shapes))
    return replace(shapes[kind], kind=kind)


def damage(chance: random.Random) -> Exchange:
    """Changes some bytes of a head that is right."""
    sent = bytearray(write_request(chance))
    for _ in range(chance.randrange(1, 6)):
        sent[chance.randrange(min(len(sent), 250))] = chance.randrange(256)
    # A damaged length lets a body pass for requests.
    return Exchange(bytes(sent), most=9, kind="damaged")


def leave(chance: random.Random) -> Exchange:
    """Leaves at any byte, of its own or of the answer."""
    sent = write_request(chance)
    if chance.random() < 0.5:
        return Exchange(sent, cut=chance.randrange(len(sent)), kind="left while asking")
    return Exchange(sent, heard=chance.randrange(1, 1_000), kind="left while hearing")


def dawdle(chance: random.Random) -> Exchange:
    """Sends a right request in pieces, with pauses that a slow line has."""
    return Exchange(write_request(chance), 1, [200], pause_s=chance.uniform(0.01, 0.3), kind="slow")


def hold(chance: random.Random) -> Exchange:
    """Sends a part, and keeps the connection."""
    sent = write_request(chance)
    return Exchange(sent[: chance.randrange(min(len(sent), 400))], 0, kind="half open")


MAKERS: tuple[Callable[[random.Random], Exchange], ...] = (
    smuggle,
    shape,
    damage,
    leave,
    dawdle,
    hold,
)


def talk(address: tuple[str, int], exchange: Exchange, chance: random.Random) -> bytes | None:
    """Sends what is to be sent; returns all that is heard, None where the client left."""
    until_s = time.monotonic() + _LONGEST_S
    with socket.create_connection(address, timeout=_LONGEST_S) as client:
        if chance.random() < 0.3:  # it leaves with a reset instead of an end
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        heard = b""
        with suppress(BrokenPipeError, ConnectionResetError):
            if exchange.pause_s:
                step = len(exchange.sent) // 5 + 1
                for place in range(0, len(exchange.sent), step):
                    client.sendall(exchange.sent[place : place + step])
                    time.sleep(exchange.pause_s)
            else:
                client.sendall(exchange.sent[: exchange.cut])
            if exchange.cut is not None:
                return None
            while exchange.heard is None or len(heard) < exchange.heard:
                piece = client.recv(65_536)
                if not piece:
                    break
                heard += piece
                if time.monotonic() > until_s:
                    raise TimeoutError
                if exchange.heard is None and ends(heard, exchange.most):
                    break
        return None if exchange.heard is not None else heard


def ends(heard: bytes, most: int) -> bool:
    """Returns whether all answers are there, on a connection that stays open."""
    found = _STATUS.findall(heard)
    return (
        len(found) >= most
        and b"Connection: close" not in heard
        and b"connection: close" not in heard
    )


def judge(exchange: Exchange, heard: bytes) -> list[str | None]:
    """Says what was wrong in an answer."""
    found = [int(each) for each in _STATUS.findall(heard) if each != b"100"]
    shown = f"{exchange.sent[:300]!r} -> {heard[:200]!r}"
    faults: list[str | None] = []
    if len(found) > exchange.most:
        faults.append(f"{exchange.kind}: {len(found)} answers: {shown}")
    if any(each >= 500 and each not in _EXPLAINED for each in found):
        faults.append(f"{exchange.kind}: {found}: {shown}")
    if exchange.statuses and not set(found) & {*exchange.statuses, 503}:
        faults.append(f"{exchange.kind}: {found}, not {exchange.statuses}: {shown}")
    return faults


class Round:
    """One server, its hostile clients, and honest ones beside them."""

    def __init__(self, served: Served, count: int, seed: int, minutes: float) -> None:
        self.tally = Tally()
        self._served, self._seed, self._count = served, seed, count
        self._numbers = itertools.count()
        self._until_s = time.monotonic() + 60 * minutes
        self._lock = threading.Lock()
        parts = urlsplit(served.url)
        self._address = (parts.hostname, parts.port)
        self._held: list[socket.socket] = []
        self.hidden: dict[str, str] = {}
        self._right = {}
        for name, question in QUESTIONS:
            with connect(served.url) as connection:
                self._right[name, question] = stream(connection, ask_of(name, question))[0]
        self.samples: list[tuple[float, int, int]] = []

    def _is_over(self) -> bool:
        is_late = time.monotonic() > self._until_s
        return is_late or sum(self.tally.outcomes.values()) >= self._count

    def _note(self, outcome: str, trial: str, faults: Sequence[str | None]) -> None:
        with self._lock:
            self.tally.note(outcome, trial, faults)

    def attack(self) -> None:
        """Makes hostile exchanges, one after another."""
        while not self._is_over():
            trial = f"{self._seed}-{next(self._numbers)}"
            chance = random.Random(trial)
            exchange = chance.choice(MAKERS)(chance)
            self.hidden[exchange.hidden] = f"{trial}, {exchange.kind}"
            try:
                if exchange.most == 0:
                    client = socket.create_connection(self._address, timeout=_LONGEST_S)
                    client.sendall(exchange.sent)
                    with self._lock:
                        self._held.append(client)
                        gone = self._held.pop(0) if len(self._held) > _MOST_HELD else None
                    if gone:
                        gone.close()
                    faults = []
                else:
                    heard = talk(self._address, exchange, chance)
                    faults = [] if heard is None else judge(exchange, heard)
            except OSError as error:
                faults = [f"{exchange.kind}: {error!r}: {exchange.sent[:300]!r}"]
            self._note(exchange.kind, trial, faults)

    def ask(self, number: int) -> None:
        """Asks as an honest client does; every answer has to be its own."""
        chance = random.Random(f"{self._seed} honest {number}")
        while not self._is_over():
            about = chance.choice(QUESTIONS)
            try:
                with connect(self._served.url) as connection:
                    text = stream(connection, ask_of(*about))[0]
                faults = [] if text == self._right[about] else [f"{about}: {text!r}"]
            except Exception as error:
                faults = [f"{about}: {error!r}"]
            self._note("honest", f"{self._seed}-honest-{number}", faults)

    def watch(self) -> None:
        """Notes memory, descriptors and threads each second."""
        process = psutil.Process(self._served.process.pid)
        while not self._is_over():
            self.samples.append(
                (process.memory_info().rss / 1e6, process.num_fds(), process.num_threads())
            )
            time.sleep(1)

    def close(self) -> None:
        """Closes what was held open."""
        for each in self._held:
            each.close()


def run_round(count: int, seed: int, minutes: float) -> Tally:
    """Lets hostile and honest clients meet one server, and looks at what is left of it."""
    with tempfile.TemporaryDirectory() as home, serve(home, "--queue", "64") as served:
        meeting = Round(served, count, seed, minutes)
        hostile = [meeting.attack] * _N_HOSTILE
        honest = [lambda number=number: meeting.ask(number) for number in range(_N_HONEST)]
        run_all([meeting.watch, *hostile, *honest])
        meeting.close()
        time.sleep(1)
        n_descriptors = psutil.Process(served.process.pid).num_fds()
        code = served.end()
        log = "".join(served.lines)
    faults = [f"exit {code}"] if code else []
    faults += [f"in the log: {each}" for each in re.findall(r"a bug:\n(?:.*\n){,60}", log)]
    seen = re.findall(r"/hidden\d+", log)
    faults += [f"{meeting.hidden[path]}: a hidden request was answered" for path in seen]
    if n_descriptors > meeting.samples[0][1] + 8:
        faults.append(f"{n_descriptors} descriptors at rest, {meeting.samples[0][1]} before")
    sizes = [each[0] for each in meeting.samples]
    if len(sizes) >= 270:
        first, last = statistics.median(sizes[60:90]), statistics.median(sizes[-30:])
        print(f"memory: {first:.1f} MB after a minute, {last:.1f} at the end")
        if last > _MOST_GROWTH * first:
            faults.append(f"{last:.1f} MB at the end, {first:.1f} after a minute")
    meeting.tally.note("server ended", str(seed), faults)
    return meeting.tally


if __name__ == "__main__":
    told = parse_round(__doc__, 100_000)
    sys.exit(run_round(told.count, told.seed, told.minutes).report())
