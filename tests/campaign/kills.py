"""Kills and power cuts at any moment: nothing finished is lost or doubled, nothing half is used.

    python -m tests.campaign.kills --count 1000 --cuts 200 --seed 1

A power cut is a kill after which files lose what was not synced: the rest is cut off or zeros, or
by luck it is there. Names are kept, as journalling file systems keep them.
"""

import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.campaign.disturbed.programs import (
    ANSWERED,
    PICTURES,
    Child,
    Ended,
    Tally,
    list_left,
    parse_round,
    take_turns,
    warm_up,
)
from tinyv_cli.variants.manifest import read_variant

N_PICTURES = 12
_SIDE_S = 0.25  # a kill may come this much after the usual end


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
    """

    words: Callable[[Place], Sequence[object]]
    look: Callable[[Place, Ended], Any]
    peek: Callable[[Place], object] = lambda place: None


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
}


def make_place(folder: Path, shared: dict[str, str]) -> Place:
    """Fills a folder with pictures and questions."""
    place = Place(folder / "work", folder / "home", shared)
    place.folder.mkdir(parents=True)
    place.home.mkdir()
    lines = []
    for index in range(N_PICTURES):
        name = f"{index}.png"
        shutil.copy(PICTURES[index % len(PICTURES)], place.folder / name)
        about = {"picture": name, "task": "what", "question": "what is this?", "answer": "a cat"}
        lines.append(json.dumps(about) + "\n")
    (place.folder / "questions.jsonl").write_text("".join(lines), "utf-8")
    return place


def note_syncs(log: Path) -> None:
    """Has every fsync of this process noted: the file's number, and how much of it is safe."""
    sync = os.fsync
    notes = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def sync_and_note(file: Any) -> None:
        sync(file)
        found = os.fstat(file if isinstance(file, int) else file.fileno())
        os.write(notes, f"{found.st_ino} {found.st_size}\n".encode())

    os.fsync = os.fdatasync = sync_and_note


def stamp(place: Place) -> dict[int, tuple[int, int]]:
    """Lists the files there are: number, size and time of change."""
    roots = (place.folder, place.home)
    found = (path.stat() for root in roots for path in root.rglob("*") if path.is_file())
    return {each.st_ino: (each.st_size, each.st_mtime_ns) for each in found}


def drop_unsynced(
    place: Place, before: dict[int, tuple[int, int]], log: Path, chance: random.Random
) -> None:
    """Takes from files what a power cut may take."""
    synced: dict[int, int] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        number, size = map(int, line.split())
        synced[number] = size
    for root in (place.folder, place.home):
        for path in root.rglob("*"):
            status = path.lstat()
            if not path.is_file() or before.get(status.st_ino) == (
                status.st_size,
                status.st_mtime_ns,
            ):
                continue
            safe = synced.get(status.st_ino, 0)
            lost, luck = status.st_size - safe, chance.random()
            if lost <= 0 or luck < 0.3:
                continue
            with path.open("r+b") as file:
                file.truncate(safe + (chance.randrange(lost) if luck < 0.5 else 0))
                if luck > 0.75:
                    file.truncate(status.st_size)  # zeros


def disturb(
    name: str, usual: tuple[float, Any], shared: dict[str, str], seed: str, *, cuts: bool
) -> tuple[str, list[str | None]]:
    """Disturbs a run once or twice, and lets the same command end.

    Returns:
        What became of it, and faults.
    """
    chance, work = random.Random(seed), WORKS[name]
    with tempfile.TemporaryDirectory() as temporary:
        place = make_place(Path(temporary), shared)
        outcome = "over before"
        for turn in range(chance.choice((1, 1, 2))):
            log, before = Path(temporary, f"syncs{turn}"), stamp(place)
            prepare = partial(note_syncs, log) if cuts else lambda: None
            child = Child(work.words(place), place.home, prepare)
            ended = child.end(chance.uniform(0, usual[0] + _SIDE_S))
            if ended.code < 0:
                outcome = "cut" if cuts else "killed"
                if cuts:
                    drop_unsynced(place, before, log, chance)
            else:
                fault = ended.find_fault(ANSWERED)
                if fault:
                    return outcome, [fault]
            try:
                work.peek(place)
            except Exception as error:
                return outcome, [f"half is taken for whole: {error!r}"]
        ended = Child(work.words(place), place.home).end()
        faults = [ended.find_fault(ANSWERED)]
        try:
            found = work.look(place, ended)
            if found != usual[1]:
                faults.append(f"another result: {found!r}, not {usual[1]!r}")
        except Exception as error:
            faults.append(f"no whole result: {error!r} {ended.err[-400:]}")
        faults += [f"left there: {path}" for path in list_left(place.home)]
        return f"{name} {outcome}", faults


def serve_variant(folder: Path) -> str:
    """Serves a copy of the miniature on loopback; returns its address."""
    ended = Child(["push", "miniature", folder / "miniature"], folder).end()
    assert ended.code == 0, ended.err

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/miniature"


def run_round(names: Sequence[str], n_kills: int, n_cuts: int, seed: int, minutes: float) -> Tally:
    """Disturbs runs of each work in turn."""
    from tests.torch.quantize.tiny_sources import write_tiny

    warm_up()
    tally = Tally()
    with tempfile.TemporaryDirectory() as temporary:
        shared = {}
        if "quantize" in names:
            shared["sources"] = str(write_tiny(Path(temporary, "sources")))
        if "pull" in names:
            Path(temporary, "served").mkdir()
            shared["address"] = serve_variant(Path(temporary, "served"))
        usual = {}
        for name in names:
            place = make_place(Path(temporary, name), shared)
            ended = Child(WORKS[name].words(place), place.home).end()
            assert ended.code in ANSWERED, ended.err
            usual[name] = (ended.took_s, WORKS[name].look(place, ended))
        are_cuts = [False] * n_kills + [True] * n_cuts
        random.Random(seed).shuffle(are_cuts)
        for index in take_turns(len(are_cuts), minutes):
            name, cuts = names[index % len(names)], are_cuts[index]
            trial = f"{seed}-{index}-{name}"
            outcome, faults = disturb(name, usual[name], shared, trial, cuts=cuts)
            tally.note(outcome, trial, faults)
    return tally


if __name__ == "__main__":
    told = parse_round(__doc__, 100)
    sys.exit(run_round(list(WORKS), told.count, told.cuts, told.seed, told.minutes).report())
