"""A disk that refuses one thing, the first to the last that a program asks of it.

    python -m tests.campaign.writes --count 10000 --minutes 5 --seed 1

Each work runs in a place of its own, new or with what an earlier run left there; one write, sync,
opening, renaming or making of a folder fails. The program says so in two lines or does without;
what was there before is there, old or new, and whole; and the same command then goes on to the
usual end.
"""

import errno
import json
import os
import random
import shutil
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaign.disturbed.programs import (
    ANSWERED,
    REFUSED,
    Tally,
    list_left,
    parse_round,
    take_turns,
    warm_up,
)
from tests.campaign.disturbed.works import ANSWERS, WORKS, Place, make_place, prepare_shared, start
from tests.faults import Disk, watched

_WATCHES = ExitStack()  # in a child, which ends with them
KINDS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class NotedDisk(Disk):
    """A disk that notes in a file outside of it what is asked, whoever ends the process how."""

    def __init__(self, folder: Path, notes: Path, refused: int | None, code: int) -> None:
        super().__init__(folder, refused, code)
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def ask(self, what: str, path: Any, *names: object) -> None:
        """Counts what is asked for, and fails it; our own notes are no work's."""
        if not isinstance(path, int) and Path(os.fsdecode(path)).name == ANSWERS:
            return
        before = len(self.asked)
        try:
            super().ask(what, path, *names)
        finally:
            for each in self.asked[before:]:
                os.write(self._notes, (json.dumps(each) + "\n").encode())


def watch(place: Place, notes: Path, refused: int | None, code: int) -> None:
    """Has this process's disk watched until it ends."""
    _WATCHES.enter_context(watched(NotedDisk(place.folder.parent, notes, refused, code)))


def hold(name: str, folder: Path, shared: dict[str, str], left: Path | None) -> Place:
    """Makes a work's place, or copies what an earlier run left; of its lines, the first half."""
    if left is None:
        return make_place(folder, shared)
    shutil.copytree(left, folder, symlinks=True, dirs_exist_ok=True)
    place = Place(folder / "work", folder / "home", shared)
    output = place.folder / "out.jsonl"
    if name == "batch":
        content = output.read_bytes().replace(str(left).encode(), str(folder).encode())
        lines = content.splitlines(keepends=True)
        output.write_bytes(b"".join(lines[: len(lines) // 2]))
    return place


def refuse(
    name: str, usual: Any, shared: dict[str, str], left: Path | None, refused: int, code: int
) -> tuple[str, list[str | None]]:
    """Runs a work with one refusal, then without; returns what became of it, and faults."""
    work = WORKS[name]
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as aside:
        place, notes = hold(name, Path(temporary), shared, left), Path(aside, "asked")
        kept = read_lines(place)
        ended = start(work, place, partial(watch, place, notes, refused, code)).end()
        asked = notes.read_text().splitlines() if notes.exists() else []
        if len(asked) <= refused:
            return f"{name}: not asked so often", [ended.find_fault(ANSWERED)]
        about = f"{errno.errorcode[code]} at {asked[refused]}: "
        faults = [ended.find_fault(ANSWERED | REFUSED)]
        words = [line.partition(":")[0] for line in ended.err.splitlines()[-2:]]
        if ended.code and words != ["error", "hint"]:
            faults.append(f"not two lines: {ended.err[-400:]!r}")
        try:
            work.peek(place)
            assert set(kept) <= set(read_lines(place)), "lines that were there are lost"
            if left is not None and name == "quantize":
                assert (place.home / "variants" / "made").exists(), "the variant is lost"
        except Exception as error:
            faults.append(f"not whole: {error!r}")
        again = start(work, place).end()
        faults += [again.find_fault(ANSWERED), work.find_difference(place, again, usual)]
        faults += [f"left there: {path}" for path in list_left(place.home)]
        return f"{name}: exit {ended.code}", [each and about + each for each in faults]


def read_lines(place: Place) -> list[bytes]:
    """Reads the whole lines of a batch that are there."""
    output = place.folder / "out.jsonl"
    return output.read_bytes().split(b"\n")[:-1] if output.exists() else []


def run_round(names: list[str], count: int, seed: int, minutes: float) -> Tally:
    """Refuses each thing that each work asks for, each kind at each path first."""
    warm_up()
    tally, chance = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        shared = prepare_shared(Path(temporary, "shared"), names)
        trials = []
        for name in names:
            first = left = Path(temporary, name)
            usual: Any = None
            for turn in range(2):
                folder = first if turn == 0 else Path(temporary, f"{name}-again")
                place = hold(name, folder, shared, None if turn == 0 else first)
                notes = Path(temporary, f"{name}-{turn}")
                ended = start(WORKS[name], place, partial(watch, place, notes, None, 0)).end()
                assert ended.code in ANSWERED, ended.err
                usual = usual or WORKS[name].look(place, ended)
                asked = notes.read_text().splitlines() if notes.exists() else []
                firsts = {asked.index(each) for each in asked}
                when = ("new", "again")[turn]
                print(f"{name}, {when}: {len(asked)} asked, {len(firsts)} places", flush=True)
                before = None if turn == 0 else left
                trials += [
                    (number not in firsts, name, usual, before, number)
                    for number in range(len(asked))
                ]
        chance.shuffle(trials)
        trials.sort(key=lambda trial: trial[0])  # each place once, before any is refused again
        for index in take_turns(min(count, len(trials)), minutes):
            _, name, usual, before, number = trials[index]
            code = chance.choice(KINDS)
            outcome, faults = refuse(name, usual, shared, before, number, code)
            when = "again" if before else "new"
            tally.note(outcome, f"{seed}-{index} {name} {when} {number}", faults)
    return tally


if __name__ == "__main__":
    told = parse_round(__doc__, 10_000)
    sys.exit(run_round(told.works or list(WORKS), told.count, told.seed, told.minutes).report())
