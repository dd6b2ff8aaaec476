"""Kills and power cuts at any moment: nothing finished is lost or doubled, nothing half is used.

    python -m tests.campaign.kills --count 1000 --cuts 200 --seed 1

A power cut is a kill after which files lose what was not synced: the rest is cut off or zeros, or
by luck it is there. Names are kept, as journalling file systems keep them.
"""

import os
import random
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaign.disturbed.programs import (
    ANSWERED,
    Tally,
    list_left,
    parse_round,
    take_turns,
    warm_up,
)
from tests.campaign.disturbed.works import (
    WORKS,
    Place,
    make_place,
    prepare_shared,
    start,
)

_SIDE_S = 0.25  # a kill may come this much after the usual end


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
            child = start(work, place, prepare)
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
        ended = start(work, place).end()
        faults = [ended.find_fault(ANSWERED), work.find_difference(place, ended, usual[1])]
        faults += [f"left there: {path}" for path in list_left(place.home)]
        return f"{name} {outcome}", faults


def run_round(names: Sequence[str], n_kills: int, n_cuts: int, seed: int, minutes: float) -> Tally:
    """Disturbs runs of each work in turn."""
    warm_up()
    tally = Tally()
    with tempfile.TemporaryDirectory() as temporary:
        shared = prepare_shared(Path(temporary, "shared"), names)
        usual = {}
        for name in names:
            place = make_place(Path(temporary, name), shared)
            ended = start(WORKS[name], place).end()
            assert ended.code in ANSWERED, ended.err
            usual[name] = (ended.took_s, WORKS[name].look(place, ended))
            print(f"{name}: {ended.took_s:.1f} s", flush=True)
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
    sys.exit(
        run_round(
            told.works or list(WORKS), told.count, told.cuts, told.seed, told.minutes
        ).report()
    )
