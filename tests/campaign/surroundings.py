"""Strange surroundings: clocks, locales, homes, limits. The same answer, or two lines that say why.

    python -m tests.campaign.surroundings
    python -m tests.campaign.surroundings --memory 100 3000
    python -m tests.campaign.surroundings --group 50 500

With `--memory`, address space is limited at every 50 MB of a range instead; with `--group`, the
memory of a control group, as a container's is, whose processes the system ends.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaign.disturbed.programs import ANSWERED, LONGEST_S, PICTURES, REFUSED, Ended, Tally

ROOT = Path(__file__).resolve().parents[2]
_MB = 1_000_000
_STEP_MB = 50
# Where a control group can be made, and the file that limits it: of version 1 and of version 2.
_GROUPS = {"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"}

_GROUP = f"tinyv-campaign-{os.getpid()}"


@dataclass(frozen=True)
class Surroundings:
    """What a run finds.

    Attributes:
        variables: of the environment; None takes one away.
        before: words before the program's.
        options: of Python.
        umask: of the process.
    """

    variables: Mapping[str, str | None] = field(default_factory=dict)
    before: Sequence[str] = ()
    options: Sequence[str] = ()
    umask: int = 0o022


SURROUNDINGS = {
    "plain": Surroundings(),
    "1970": Surroundings(before=("faketime", "1970-01-02 00:00:00")),
    "2106": Surroundings(before=("faketime", "2106-02-08 00:00:00")),
    "summer time begins": Surroundings(
        {"TZ": "Europe/Berlin"}, before=("faketime", "2026-03-29 01:59:59")
    ),
    "Turkish": Surroundings({"LC_ALL": "tr_TR.UTF-8"}),
    "C": Surroundings({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "Latin 1": Surroundings({"PYTHONIOENCODING": "latin-1"}),
    "umask 077": Surroundings(umask=0o077),
    "umask 777": Surroundings(umask=0o777),
    "no HOME": Surroundings({"HOME": None}),
    "HOME nowhere": Surroundings({"HOME": "/nonexistent/home"}),
    "no PATH": Surroundings({"PATH": None}),
    "empty environment": Surroundings(
        {name: None for name in os.environ if name not in ("PYTHONPATH", "TINYV_HOME")}
    ),
    "TMPDIR nowhere": Surroundings({"TMPDIR": "/nonexistent"}),
    "no /proc": Surroundings(
        before=("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    ),
    "-O": Surroundings(options=("-O",)),
    "-OO": Surroundings(options=("-OO",)),
    "-W error": Surroundings(options=("-W", "error")),
    "-X dev": Surroundings(options=("-X", "dev")),
    "-b": Surroundings(options=("-bb",)),
    "safe path": Surroundings(options=("-P",)),
    "isolated": Surroundings({"PYTHONNOUSERSITE": "1"}, options=("-s",)),
    "no site bytecode": Surroundings({"PYTHONDONTWRITEBYTECODE": "1"}),
    "few files": Surroundings(before=("sh", "-c", 'ulimit -n 32; exec "$@"', "sh")),
    "no core, small stack": Surroundings(
        before=("sh", "-c", 'ulimit -c 0; ulimit -s 1024; exec "$@"', "sh")
    ),
    "small files": Surroundings(before=("sh", "-c", 'ulimit -f 1; exec "$@"', "sh")),
}


def run(words: Sequence[object], home: Path, around: Surroundings, limit_mb: int = 0) -> Ended:
    """Runs the program as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TINYV_HOME": str(home)}
    for name, value in around.variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    command = [*around.before, sys.executable, *around.options, "-m", "tinyv_cli"]

    def prepare() -> None:
        os.umask(around.umask)
        if limit_mb:
            resource.setrlimit(resource.RLIMIT_AS, (limit_mb * _MB, limit_mb * _MB))

    started = subprocess.Popen(
        [*command, *map(str, words)],
        env=environment,
        cwd=home.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=prepare,
    )
    is_late = False
    try:
        said = started.communicate(timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        started.kill()
        said, is_late = started.communicate(), True
    texts = [each.decode("utf-8", "replace") for each in said]
    return Ended(started.returncode, *texts, took_s=0.0, is_late=is_late)


def list_commands(folder: Path, *, quantizes: bool = False) -> dict[str, list[object]]:
    """Lists the command lines that are tried; quantising takes seconds."""
    questions = folder / "questions.jsonl"
    asked = {"picture": str(PICTURES[0]), "task": "what", "question": "what?", "answer": "a cat"}
    questions.write_text(json.dumps(asked) + "\n", "utf-8")
    making = {"quantize": ["quantize", "--quick", "-t", "1", "-o", folder / "made", "-q"]}
    return {
        "ask": ["ask", PICTURES[0], "what is this?", "-q"],
        "batch": ["batch", *PICTURES[:2], "what is this?", "-o", folder / "out.jsonl", "-q"],
        "eval": ["eval", questions, "-q"],
        "list": ["list"],
        "doctor": ["doctor", "--device", "cpu"],
        **(making if quantizes else {}),
    }


def list_cases(kind: str, limits_mb: Sequence[int]) -> list[tuple[str, Surroundings, int]]:
    """Lists what is tried: surroundings, and the limit of address space in MB, 0 for none.

    Args:
        kind: `memory` or `group` limits; anything else is all surroundings.
        limits_mb: first and last, in MB.
    """
    limits = range(*limits_mb, _STEP_MB) if limits_mb else range(0)
    if kind == "memory":
        return [(f"{limit} MB", Surroundings(), limit) for limit in limits]
    if kind == "group":
        return [(f"a group of {limit} MB", limit_group(limit), 0) for limit in limits]
    return [(name, around, 0) for name, around in SURROUNDINGS.items()]


def limit_group(limit_mb: int) -> Surroundings:
    """Makes surroundings in a control group that may have so much memory."""
    root, name = next(each for each in _GROUPS.items() if Path(each[0], "cgroup.procs").exists())
    group = Path(root, _GROUP)
    group.mkdir(exist_ok=True)
    enter = f'echo {limit_mb * _MB} > {group / name} && echo $$ > {group}/cgroup.procs && exec "$@"'
    return Surroundings(before=("sh", "-c", enter, "sh"))


def run_round(kind: str, limits_mb: Sequence[int] = ()) -> Tally:
    """Tries every command in every surroundings, or within every limit of a range."""
    tally, cases = Tally(), list_cases(kind, limits_mb)
    with tempfile.TemporaryDirectory() as temporary:
        right = run(list_commands(Path(temporary))["ask"], Path(temporary, "h"), Surroundings()).out
        for index, (name, around, limit_mb) in enumerate(cases):
            folder = Path(temporary, str(index))
            folder.mkdir()
            for verb, words in list_commands(folder, quantizes=bool(limits_mb)).items():
                ended = run(words, folder / "home", around, limit_mb)
                faults = [ended.find_fault(ANSWERED | REFUSED)]
                if verb == "ask" and ended.code == 0 and ended.out != right:
                    faults.append(f"another answer: {ended.out!r}")
                if ended.code and len(ended.err.splitlines()) != 2:
                    faults.append(f"not two lines: {ended.err!r}")
                tally.note(f"{verb}: exit {ended.code}", f"{name}, {verb}", faults)
    for root in _GROUPS:
        with suppress(OSError):
            Path(root, _GROUP).rmdir()
    return tally


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=int, nargs=2, metavar=("FROM", "TO"), help="in MB")
    parser.add_argument("--group", type=int, nargs=2, metavar=("FROM", "TO"), help="in MB")
    told = parser.parse_args()
    kind = "memory" if told.memory else "group" if told.group else "all"
    sys.exit(run_round(kind, told.memory or told.group or ()).report())
