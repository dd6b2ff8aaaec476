"""Ctrl-C at random moments: 130 each time, nothing half made is left, what was there stays.

python -m tests.campaign.interrupts --count 500 --seed 1
"""

import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.campaign.disturbed.programs import (
    Child,
    Tally,
    list_left,
    parse_round,
    take_turns,
    warm_up,
)
from tests.campaign.disturbed.works import check_variant
from tests.torch.quantize.tiny_sources import write_tiny
from tinyv_cli.errors import ExitCode


def run_round(count: int, seed: int, minutes: float) -> Tally:
    """Interrupts `tinyv quantize`, to the nearest and calibrated in turn."""
    warm_up()
    tally, chance = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        sources = write_tiny(Path(temporary, "sources"))
        usual_s: dict[str, float] = {}
        for index in take_turns(count, minutes):
            kind = ("--quick", "--bits=4")[index % 2]
            home = Path(temporary, str(index % 4))
            target = home / "variants" / "made"
            words = ("quantize", kind, "-t", "1", "--force", "-q")
            words = (*words, "--sources", sources, "-o", target)
            if kind not in usual_s:
                ended = Child(words, home).end()
                assert ended.code == ExitCode.OK, ended.err
                usual_s[kind] = ended.took_s
            ended = Child(words, home).end(chance.uniform(0, usual_s[kind]), signal.SIGINT)
            faults = [ended.find_fault({ExitCode.OK, ExitCode.INTERRUPTED})]
            faults += [f"left there: {path}" for path in list_left(home)]
            if target.exists():
                try:
                    check_variant(target)
                except Exception as error:
                    faults.append(f"not whole: {error!r}")
            tally.note(f"quantize {kind}: exit {ended.code}", f"{seed}-{index}", faults)
    return tally


if __name__ == "__main__":
    told = parse_round(__doc__, 50)
    sys.exit(run_round(told.count, told.seed, told.minutes).report())
