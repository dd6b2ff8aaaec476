"""Two programs at once on the same names: each ends, and what they leave is whole.

python -m tests.campaign.pairs --count 500 --seed 1
"""

import itertools
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.campaign.disturbed.programs import (
    ANSWERED,
    REFUSED,
    Child,
    Tally,
    list_left,
    parse_round,
    take_turns,
    warm_up,
)
from tests.campaign.disturbed.works import (
    WORKS,
    Place,
    check_variant,
    make_place,
    peek_lines,
    prepare_shared,
)

_MADE = "miniature"  # the name that they all make, fetch, remove and ask
VERBS = {
    **{name: WORKS[name].words for name in ("ask", "batch", "eval", "pull")},
    "quantize": lambda place: [
        *("quantize", "--bits", "4", "--quick", "-t", "1", "--force", "-q"),
        *("--sources", place.shared["sources"], "-o", place.home / "variants" / _MADE),
    ],
    "rm": lambda place: ["rm", "-y", _MADE],
    "list": lambda place: ["list", "--json"],
    "push": lambda place: ["push", _MADE, place.folder / "pushed"],
}
PAIRS = list(itertools.combinations_with_replacement(VERBS, 2))


def cross(first: str, second: str, place: Place, delay_s: float) -> list[str | None]:
    """Runs two at once; returns faults."""
    children = [Child(VERBS[first](place), place.home)]
    time.sleep(delay_s)
    children.append(Child(VERBS[second](place), place.home))
    ended = [child.end() for child in children]
    faults = [each.find_fault(ANSWERED | REFUSED) for each in ended]
    for folder in (place.home / "variants" / _MADE, place.folder / "pushed"):
        if (folder / "manifest.json").exists():
            try:
                check_variant(folder)
            except Exception as error:
                faults.append(f"{folder.name} is not whole: {error!r}")
    try:
        peek_lines(place)
    except Exception as error:
        faults.append(f"lines are not whole: {error!r}")
    after = Child(["ask", place.folder / "0.png", "what is this?", "-q"], place.home).end()
    faults.append(after.find_fault(set(ANSWERED)))
    faults += [f"left there: {path}" for path in list_left(place.home)]
    return faults


def run_round(count: int, seed: int, minutes: float) -> Tally:
    """Crosses all pairs, again and again."""
    warm_up()
    tally, chance = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        shared = prepare_shared(Path(temporary, "shared"), VERBS)
        for index in take_turns(count, minutes):
            pair = PAIRS[index % len(PAIRS)]
            with tempfile.TemporaryDirectory() as folder:
                place = make_place(Path(folder), shared)
                if chance.random() < 0.5:
                    ended = Child(VERBS["pull"](place), place.home).end()
                    assert ended.code == 0, ended.err
                faults = cross(*pair, place, chance.uniform(0, 0.3))
                tally.note(" and ".join(pair), f"{seed}-{index}", faults)
    return tally


if __name__ == "__main__":
    told = parse_round(__doc__, len(PAIRS))
    sys.exit(run_round(told.count, told.seed, told.minutes).report())
