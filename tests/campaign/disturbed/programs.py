"""The whole program in children of one process, which has imported everything already.

A child starts within milliseconds, so that thousands can be killed, crossed and interrupted. Each
has a group of its own, and a home where nothing of this computer is.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from tests.demo import DEMO
from tinyv_cli.errors import ExitCode

PICTURES = sorted((DEMO / "examples").glob("*.png"))
_MODULES = (
    "tinyv_cli.app",
    "tinyv_cli.backends.cpu.onnx_cpu",
    "tinyv_cli.evaluation.evaluate",
    "tinyv_cli.batch.pipeline",
    "quantize.pipeline",
    "weights.pulling.variant_pull",
    "weights.training.__main__",
    "tinyv_cli.commands.serve",
    "tinyv_cli.serving.web",
    "tinyv_cli.serving.server",
)
LONGEST_S = 120  # of a run that nobody disturbs
ANSWERED = {ExitCode.OK, ExitCode.BATCH}
REFUSED = {ExitCode.USAGE, ExitCode.INPUT, ExitCode.WEIGHTS, ExitCode.DEVICE, ExitCode.BATCH}


def warm_up() -> None:
    """Imports what the verbs import when they need it."""
    for name in _MODULES:
        import_module(name)
    import torch

    torch.set_num_threads(1)  # of more than one a child would have none, and wait for them


@dataclass(frozen=True)
class Ended:
    """A child that has ended.

    Attributes:
        code: its exit code, negative for the signal that ended it.
        out: what it wrote on stdout.
        err: on stderr.
        took_s: seconds.
        is_late: whether it had to be killed since it did not end.
    """

    code: int
    out: str
    err: str
    took_s: float
    is_late: bool = False

    def find_fault(self, allowed: set[int]) -> str | None:
        """Says what is wrong with how it ended, if anything is."""
        if self.is_late:
            return f"no end after {LONGEST_S} s"
        if "Traceback" in self.err or "internal error" in self.err:
            return f"a traceback: {self.err[-600:]}"
        if self.code not in allowed:
            return f"exit {self.code}: {self.err[-600:]}"
        return None


def run_tinyv() -> NoReturn:
    """Runs the process's command line, and ends the process."""
    from tinyv_cli.__main__ import run

    run()


@dataclass
class Child:
    """A run of the program.

    Args:
        words: of the command line.
        home: `TINYV_HOME`.
        prepare: called in the child before the program starts.
        program: what is run in the child; returns its exit code.
    """

    words: Sequence[object]
    home: Path
    prepare: Callable[[], object] = field(default=lambda: None)
    program: Callable[[], int] = field(default=run_tinyv)

    def __post_init__(self) -> None:
        self._out, self._err = (tempfile.TemporaryFile() for _ in range(2))
        self._started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._run()

    def _run(self) -> None:
        code = 70  # the harness's own fault
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the program can be interrupted
            os.setpgrp()
            os.environ["TINYV_HOME"] = str(self.home)
            with open(os.devnull, "rb") as nothing:
                os.dup2(nothing.fileno(), 0)
            os.dup2(self._out.fileno(), 1)
            os.dup2(self._err.fileno(), 2)
            sys.stdin, sys.stdout, sys.stderr = (
                open(number, mode, encoding="utf-8", closefd=False)
                for number, mode in ((0, "r"), (1, "w"), (2, "w"))
            )
            sys.argv = ["tinyv", *map(str, self.words)]
            self.prepare()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = self.program()
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def send(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, after_s: float | None = None, number: int = signal.SIGKILL) -> Ended:
        """Waits for the end; sends a signal once, some seconds after the start, if asked to."""
        is_sent, is_late = after_s is None, False
        while True:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            took_s = time.monotonic() - self._started
            if found:
                break
            if after_s is not None and not is_sent and took_s >= after_s:
                self.send(number)
                is_sent = True
            if took_s > LONGEST_S and not is_late:
                self.send(signal.SIGKILL)
                is_late = True
            time.sleep(0.0005)
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
            file.close()
        return Ended(os.waitstatus_to_exitcode(status), texts[0], texts[1], took_s, is_late)


@dataclass
class Tally:
    """What came of many trials.

    Attributes:
        outcomes: number of each.
        faults: what went wrong, each with what makes it again.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, outcome: str, trial: str, faults: Sequence[str | None]) -> None:
        """Counts a trial."""
        self.outcomes[outcome] += 1
        for each in filter(None, faults):
            self.faults.append(f"{trial}: {each}")
            print(f"FAULT {self.faults[-1]}", flush=True)

    def report(self) -> int:
        """Prints the table; returns the exit code."""
        for outcome, count in sorted(self.outcomes.items()):
            print(f"{count:8,}  {outcome}")
        print(f"{sum(self.outcomes.values()):,} trials, {len(self.faults):,} faults")
        return int(bool(self.faults))


def parse_round(description: str | None, count: int) -> argparse.Namespace:
    """Reads how long a round is to be, and by which seed it is drawn."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=count, help="trials")
    parser.add_argument("--cuts", type=int, default=0, help="power cuts besides (kills)")
    parser.add_argument("--works", nargs="*", help="names of some (kills, writes); all else")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many")
    return parser.parse_args()


def take_turns(count: int, minutes: float) -> Iterator[int]:
    """Yields the numbers of trials, until time is up."""
    started = time.monotonic()
    for index in range(count):
        if time.monotonic() - started > 60 * minutes:
            return
        yield index


def list_left(home: Path) -> list[str]:
    """Lists half-made things that a later run should have removed."""
    half = re.compile(r"tinyv-building|\.part$|/half$|tinyv-old")
    return [str(path) for path in home.rglob("*") if half.search(str(path))]
