"""Attempts are made one after another in a forked worker, which is timed, bounded and watched.

What a worker dies of, or takes too long or too much memory for, is told of the attempt that it was
at; a new worker goes on behind it. An attempt is made again from its seed and number alone.
"""

import argparse
import faulthandler
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 10  # of the processor's time
WAITING_S = 60  # for whatever costs no time of the processor
SPARE_BYTES = 1 << 30
_RENEWED_AT_BYTES = 256 << 20  # a worker that has grown so far: its peak would hide the next ones'
_ADDRESS_BYTES = 4 << 30  # beyond what it has when it begins
_AGAIN = 7  # exit code of a worker that wants to be followed by a new one
_FAULT = "FAULT "
_MOST_EXAMPLES = 3  # kept of each kind

# Source: Python's table of audit events.
_STARTS = ("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system",
           "pty.spawn", "subprocess.Popen", "socket.", "webbrowser.", "urllib.Request",
           "os.kill")  # fmt: skip
_CHANGES = ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.chmod",
            "os.chown", "os.truncate", "os.utime", "shutil.")  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NOWHERE = ("/dev/null", "/dev/zero")  # where links of some attempts lead
_SYSTEM = ("/proc", "/sys", "/dev", "/usr", sys.prefix, sys.base_prefix, str(ROOT))


class FaultError(Exception):
    """Something that may not happen; its text is its kind."""


class Attack:
    """What is attacked, and with what; others say how.

    Args:
        seed: of all attempts.
        folder: scratch; all that may be read, beside the program and the system, and written.
    """

    def __init__(self, seed, folder):
        self.seed = seed
        self.folder = folder

    def make_chance(self, number):
        """Makes the dice of an attempt."""
        return random.Random(f"{self.seed} {number}")

    def warm_up(self):
        """Imports, in the worker, what the first attempt would import."""

    def attempt(self, number):
        """Makes an attempt; returns the name of its outcome, raises for a fault."""
        raise NotImplementedError

    def keep(self, number, folder):
        """Writes the example of an attempt into a folder."""
        raise NotImplementedError

    def count_own_bytes(self, number):
        """Counts the memory that an attempt may take beside `SPARE_BYTES`."""
        return 0


@dataclass
class Outcomes:
    """What came of a round.

    Attributes:
        counts: attempts by outcome.
        faults: kind → numbers of its attempts.
        examples: kind → where one is kept.
        elapsed_s: of all.
    """

    counts: Counter = field(default_factory=Counter)
    faults: dict = field(default_factory=dict)
    examples: dict = field(default_factory=dict)
    elapsed_s: float = 0.0


class _Watch:
    """Notes audit events of starting, connecting, and touching what lies outside."""

    def __init__(self, folder):
        self.notes = []
        self._inside = os.path.realpath(folder)
        self._readable = tuple({os.path.realpath(each) for each in _SYSTEM} | {*_SYSTEM})

    def note(self, event, arguments):
        if event.startswith(_STARTS):
            self.notes.append(f"{event} {arguments!r}"[:200])
        elif event == "open" and not isinstance(arguments[0], int):
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or flags & _WRITING
            self._check("writes" if writes else "reads", path, not writes)
        elif event.startswith(_CHANGES) and arguments:
            place = arguments[event in ("os.link", "os.symlink")]  # of these the new name
            if not isinstance(place, int):
                self._check(event, place, False)

    def _check(self, what, path, is_read):
        try:
            place = os.path.realpath(os.fsdecode(path))
        except (TypeError, ValueError):
            return
        allowed = (self._inside, *(self._readable if is_read else _NOWHERE))
        if not any(place == each or place.startswith(each + os.sep) for each in allowed):
            self.notes.append(f"{what} outside: {place}"[:200])


def _work(attack, numbers, pipe):
    """Makes attempts in the worker, and writes a line of each; never returns."""
    sys.dont_write_bytecode = True
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    attack.warm_up()
    watch = _Watch(attack.folder)
    sys.addaudithook(watch.note)
    address_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = (address_bytes + _ADDRESS_BYTES,) * 2
    resource.setrlimit(resource.RLIMIT_AS, limits)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start_bytes = _read_peak()
    for number in numbers:
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        signal.alarm(WAITING_S)
        try:
            outcome = attack.attempt(number)
        except FaultError as fault:
            outcome = f"{_FAULT}{fault}"
        except BaseException as error:
            outcome = f"{_FAULT}{_describe(error)}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        grown_bytes = _read_peak() - start_bytes
        if grown_bytes > SPARE_BYTES and (
            grown_bytes > SPARE_BYTES + attack.count_own_bytes(number)
        ):
            outcome = f"{_FAULT}takes {grown_bytes / 2**30:.1f} GB"
        if watch.notes:
            outcome = f"{_FAULT}{watch.notes[0]}"
            watch.notes.clear()
        os.write(pipe, f"{number}\t{' '.join(outcome.split())}\n".encode(errors="replace"))
        if grown_bytes > _RENEWED_AT_BYTES:
            os._exit(_AGAIN)
    os._exit(0)


def _read_peak():
    """Returns the most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _describe(error):
    """Names an exception by its type and the last of our own lines that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if Path(each.filename).is_relative_to(ROOT)] or frames
    return f"{type(error).__name__} from {Path(ours[-1].filename).name}, {ours[-1].name}"


def run(attack, numbers, keep, minutes=None):
    """Makes attempts, with a new worker after each that died.

    Args:
        attack: what is attacked.
        numbers: a range of attempts.
        keep: the folder that examples of faults are written into.
        minutes: after which no more are begun; None for as long as it takes.

    Returns:
        The outcomes; of those that time did not suffice for nothing.
    """
    outcomes, start_s = Outcomes(), time.monotonic()
    deadline_s = start_s + 60 * minutes if minutes else float("inf")
    at = numbers.start
    while at < numbers.stop and time.monotonic() < deadline_s:
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            worker = os.fork()
        if not worker:
            try:
                os.close(reading)
                _work(attack, range(at, numbers.stop, numbers.step), writing)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as lines:
            for line in lines:
                number, _, outcome = line.rstrip("\n").partition("\t")
                _note(outcomes, attack, int(number), outcome, keep)
                at = int(number) + numbers.step
                if time.monotonic() >= deadline_s:
                    os.kill(worker, signal.SIGKILL)
                    break
        status = os.waitpid(worker, 0)[1]
        if time.monotonic() >= deadline_s:
            break
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            took = {"SIGPROF": f"takes over {LIMIT_S} s", "SIGALRM": f"waits over {WAITING_S} s"}
            _note(outcomes, attack, at, _FAULT + took.get(name, f"dies of {name}"), keep)
            at += numbers.step
        elif os.WEXITSTATUS(status) not in (0, _AGAIN):
            raise RuntimeError(f"the worker ended with {os.WEXITSTATUS(status)} at {at}")
    outcomes.elapsed_s = time.monotonic() - start_s
    return outcomes


def _note(outcomes, attack, number, outcome, keep):
    """Counts an outcome, and keeps the example of a fault."""
    if not outcome.startswith(_FAULT):
        outcomes.counts[outcome] += 1
        return
    outcomes.counts["fault"] += 1
    kind = outcome.removeprefix(_FAULT)
    numbers = outcomes.faults.setdefault(kind, [])
    numbers.append(number)
    if len(numbers) <= _MOST_EXAMPLES:
        folder = keep / f"{attack.seed}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        attack.keep(number, folder)
        outcomes.examples.setdefault(kind, folder)


def ask(words):
    """Runs the program in this process; returns its exit code and what it wrote to each stream."""
    from tinyv_cli.app import main

    out, err = (TextIOWrapper(BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    return code, *(each.buffer.getvalue().decode("utf-8", "replace") for each in (out, err))


def check_ending(code, out, err, allowed):
    """Checks that the program ended as planned: an answer, or two lines of an error.

    Raises:
        FaultError: it did not.
    """
    if code not in allowed:
        raise FaultError(f"ends with {code}: {err.strip().splitlines()[-1:]}")
    if bool(out) != (code == 0):
        raise FaultError(f"ends with {code} and {len(out)} characters on stdout")
    if code and not (len(err.splitlines()) == 2 and err.startswith("error: ")):
        raise FaultError(f"an error of {len(err.splitlines())} lines: {err[:120]!r}")


def main(make_attack, text, count, guide=None):
    """Runs a round as it was asked for on the command line, and tells what came of it.

    Args:
        make_attack: takes seed and scratch folder.
        text: for `--help`.
        count: attempts by default.
        guide: runs it by coverage instead, where it is asked to; takes attack, count and keep.

    Returns:
        An exit code: 1 for any fault.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--count", type=int, default=count, help="attempts")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="the longest it may take")
    parser.add_argument("--keep", type=Path, help="folder for examples of faults")
    if guide is not None:
        parser.add_argument("--guided", action="store_true", help="by coverage; needs atheris")
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="campaign-"))
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        attack = make_attack(options.seed, Path(scratch))
        if guide is not None and options.guided:
            keep.mkdir(parents=True, exist_ok=True)
            guide(attack, options.count, keep)  # which ends the process
        numbers = range(options.first, options.first + options.count)
        outcomes = run(attack, numbers, keep, options.minutes)
    tell(outcomes, options.seed)
    return int(bool(outcomes.faults))


def tell(outcomes, seed):
    """Prints a table of the outcomes, and the faults."""
    n_attempts = outcomes.counts.total()
    print(f"seed {seed}: {n_attempts} attempts in {outcomes.elapsed_s:.0f} s")
    for outcome, n in outcomes.counts.most_common():
        print(f"{n:>9}  {outcome}")
    for kind, numbers in sorted(outcomes.faults.items(), key=lambda each: -len(each[1])):
        print(f"{len(numbers):>9}  FAULT {kind}")
        print(f"{'':>9}  numbers {numbers[:5]}, {outcomes.examples[kind]}")
