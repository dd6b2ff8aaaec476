"""Works that trials disturb: their command lines, and how their results are looked at."""

import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.bench.serving import connect, stream
from tests.campaign.disturbed.programs import PICTURES, Child, Ended, run_tinyv
from tests.light.serving.served import QUESTIONS, ask_of, ask_ollama
from tinyv_cli.variants.manifest import read_variant

N_PICTURES = 12
_N_CLIENTS = 3
_STARTED_S = 60
ANSWERS = "answers.jsonl"  # beside a work's folder, where no power is cut
_TRAINED = "trained"


@dataclass(frozen=True)
class Place:
    """Where a trial happens, made anew for each.

    Attributes:
        folder: pictures, questions, outputs.
        home: variants and caches.
        shared: what trials only read: sources, a server's address.
    """

    folder: Path
    home: Path
    shared: dict[str, str]


@dataclass(frozen=True)
class Work:
    """A command line that trials disturb.

    Attributes:
        words: of the command line.
        look: describes the whole result; raises where it is not whole.
        peek: raises where what is there in the middle would be taken for whole, but is not.
        program: what runs the words, in a child; returns its exit code.
    """

    words: Callable[[Place], Sequence[object]]
    look: Callable[[Place, Ended], Any]
    peek: Callable[[Place], object] = lambda place: None
    program: Callable[[Place], int] = lambda place: run_tinyv()

    def find_difference(self, place: Place, ended: Ended, usual: Any) -> str | None:
        """Says how a result differs from that of a run that nobody disturbed."""
        try:
            found = self.look(place, ended)
        except Exception as error:
            return f"no whole result: {error!r} {ended.err[-400:]}"
        if found == usual:
            return None
        if isinstance(found, dict):
            found, usual = (
                sorted(a.items() - b.items()) for a, b in ((found, usual), (usual, found))
            )
        return f"another result: {found!r}, not {usual!r}"


def check_variant(folder: Path) -> str:
    """Compares a variant's files with its manifest; returns what tells variants apart."""
    for entry in read_variant(folder).manifest.files:
        found = hashlib.sha256((folder / entry.path).read_bytes()).hexdigest()
        assert found == entry.sha256, f"{entry.path} is not whole"
    return "whole"


def peek_variant(place: Place, name: str) -> None:
    """Checks a variant, if there is one."""
    folder = place.home / "variants" / name
    if folder.exists():
        check_variant(folder)


def look_at_variant(place: Place, name: str) -> str:
    """Checks a variant that must be there."""
    return check_variant(place.home / "variants" / name)


def look_at_lines(place: Place, ended: Ended) -> list[tuple[str, str]]:
    """Reads a batch's lines: each picture has one."""
    lines = [json.loads(line) for line in (place.folder / "out.jsonl").read_text().splitlines()]
    found = sorted((Path(line["path"]).name, line["answer"]) for line in lines)
    assert len({name for name, _ in found}) == len(found) == N_PICTURES, found
    return found


def peek_lines(place: Place) -> None:
    """Every whole line is one of JSON, and no picture has two."""
    output = place.folder / "out.jsonl"
    if output.exists():
        whole = output.read_bytes().split(b"\n")[:-1]
        names = [json.loads(line)["path"] for line in whole]
        assert len(set(names)) == len(names)


def serve(place: Place) -> int:
    """Serves, while clients beside it ask their questions, and ends when all are answered."""
    clients = [threading.Thread(target=ask, args=(place, i)) for i in range(_N_CLIENTS)]

    def wait() -> None:
        for each in clients:
            each.join()
        os.kill(os.getpid(), signal.SIGTERM)

    for each in (*clients, threading.Thread(target=wait)):
        each.daemon = True
        each.start()
    run_tinyv()


def ask(place: Place, number: int) -> None:
    """Asks a client's share of the questions, each in both dialects, and notes each answer."""
    url, until_s = f"http://127.0.0.1:{place.shared['port']}", time.monotonic() + _STARTED_S
    notes = os.open(place.folder.parent / ANSWERS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    is_ready = False
    while not is_ready and time.monotonic() < until_s:
        time.sleep(0.01)
        with suppress(OSError, HTTPException), connect(url) as connection:
            connection.request("GET", "/ready")
            is_ready = connection.getresponse().status == 200
    for name, question in QUESTIONS[number::_N_CLIENTS]:
        for dialect in ("openai", "ollama"):
            try:
                with connect(url) as connection:
                    if dialect == "openai":
                        answer = stream(connection, ask_of(name, question))[0]
                    else:
                        body = json.dumps(ask_ollama(name, question))
                        connection.request("POST", "/api/generate", body)
                        answer = json.loads(connection.getresponse().read())["response"]
            except Exception as error:
                answer = f"none: {error!r}"
            os.write(notes, (json.dumps([dialect, name, question, answer]) + "\n").encode())


def look_at_answers(place: Place) -> list[list[str]]:
    """Reads what was answered, by killed servers too: each question has one answer."""
    lines = (place.folder.parent / ANSWERS).read_text("utf-8").splitlines()
    return sorted(map(json.loads, set(lines)))


def train(place: Place) -> int:
    """Runs the command line of a training."""
    from weights.training.__main__ import main

    try:
        main(sys.argv[1:])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def look_at_training(place: Place) -> dict[str, str]:
    """Returns the hashes of all that a training leaves: checkpoints, states, logs."""
    files = [path for path in (place.folder / _TRAINED).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(place.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.startswith(".tinyv-")  # which a killed process may leave
    }


def peek_training(place: Place) -> None:
    """Reads every checkpoint and every state there is."""
    import torch

    for path in (place.folder / _TRAINED).rglob("*.p[t]*"):
        torch.load(path, weights_only=True)


WORKS = {
    "ask": Work(
        lambda place: ["ask", place.folder / "0.png", "what is this?", "-q"],
        lambda place, ended: ended.out,
    ),
    "batch": Work(
        lambda place: ["batch", place.folder, "what is this?", "-o", place.folder / "out.jsonl"],
        look_at_lines,
        peek_lines,
    ),
    "eval": Work(
        lambda place: ["eval", place.folder / "questions.jsonl", "--json", "-q"],
        lambda place, ended: json.loads(ended.out)["tasks"],
    ),
    "quantize": Work(
        lambda place: [
            *("quantize", "--bits", "4", "--quick", "-t", "1", "--force", "-q"),
            *("--sources", place.shared["sources"], "-o", place.home / "variants" / "made"),
        ],
        lambda place, ended: look_at_variant(place, "made"),
        lambda place: peek_variant(place, "made"),
    ),
    "pull": Work(
        lambda place: ["pull", place.shared["address"], "-q"],
        lambda place, ended: look_at_variant(place, "miniature"),
        lambda place: peek_variant(place, "miniature"),
    ),
    "serve": Work(
        lambda place: ["serve", "--port", place.shared["port"], "-q"],
        lambda place, ended: look_at_answers(place),
        program=serve,
    ),
    "train": Work(
        lambda place: [place.folder / _TRAINED / "recipe.toml", "--out", place.folder / _TRAINED],
        lambda place, ended: look_at_training(place),
        peek_training,
        program=train,
    ),
}


def make_place(folder: Path, shared: dict[str, str]) -> Place:
    """Fills a folder with pictures and questions."""
    place = Place(folder / "work", folder / "home", shared)
    place.folder.mkdir(parents=True)
    place.home.mkdir()
    if "untrained" in shared:
        shutil.copytree(shared["untrained"], place.folder / _TRAINED)
    lines = []
    for index in range(N_PICTURES):
        name = f"{index}.png"
        shutil.copy(PICTURES[index % len(PICTURES)], place.folder / name)
        about = {"picture": name, "task": "what", "question": "what is this?", "answer": "a cat"}
        lines.append(json.dumps(about) + "\n")
    (place.folder / "questions.jsonl").write_text("".join(lines), "utf-8")
    return place


def find_port() -> int:
    """Finds a free port among those that the system lends to nobody."""
    for port in range(20_000 + os.getpid() % 8_000, 32_000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def serve_variant(folder: Path) -> str:
    """Serves a copy of the miniature on loopback; returns its address."""
    ended = Child(["push", "miniature", folder / "miniature"], folder).end()
    assert ended.code == 0, ended.err

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    class Patient(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # who asked was killed

    server = Patient(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/miniature"


def prepare_shared(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Makes what the works of these names only read."""
    from tests.torch.quantize.tiny_sources import write_tiny
    from tests.torch.training.test_training import write_recipe

    folder.mkdir()
    shared = {"port": str(find_port())}
    if "train" in names:
        untrained = write_tiny(folder / "untrained", stage=1)
        write_recipe(untrained, (2, 1), (3, 2))
        shared["untrained"] = str(untrained)
    if "quantize" in names:
        shared["sources"] = str(write_tiny(folder / "sources"))
    if "pull" in names:
        (folder / "served").mkdir()
        shared["address"] = serve_variant(folder / "served")
    return shared


def start(work: Work, place: Place, prepare: Callable[[], object] = lambda: None) -> Child:
    """Starts a work's program."""
    return Child(work.words(place), place.home, prepare, partial(work.program, place))
