"""Programs that run in an empty home and are watched for whom they call and what they write.

strace sees every call of the process, those of libraries that are not Python among them. Where it
is missing, or may not trace, Python's own audit events are all that is seen; files are seen always.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMER_S = 15  # the runtime calls its maker some ten seconds after it was loaded
_ADDRESS = re.compile(r'inet_(?:addr\(|pton\(AF_INET6, )"([^"]+)"')
_LOOPBACK = re.compile(r"127\..*|::1|::ffff:127\..*|localhost")
_LOOK_UP = re.compile(r"htons\(53\)|systemd/resolve|getaddrinfo")  # whoever is asked for a name
_CALLS = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")
_NAME_CALLS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


def can_trace() -> bool:
    """Whether strace is there and the system lets it look."""
    words = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", os.devnull, "true"]
    return shutil.which("strace") is not None and subprocess.run(words, check=False).returncode == 0


@dataclass(frozen=True)
class Watched:
    """A program under way.

    Attributes:
        folder: holds what is asked for, the home, and what was noted.
        process: it, or the strace that runs it.
    """

    folder: Path
    process: subprocess.Popen[str]

    def end(self, timeout_s: float = 120) -> tuple[int, str]:
        """Waits for its end; returns the exit code, and all that it said."""
        said, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, said

    def list_calls(self) -> list[str]:
        """Lists the calls by which it turned to other computers, or asked for a name."""
        notes = [path.read_text("utf-8") for path in self.folder.glob("calls.*")]
        return [call for text in notes for call in text.splitlines() if _leaves(call)]

    def list_left(self) -> list[str]:
        """Lists what it left in its home and among the temporary files."""
        places = (self.folder / "user", self.folder / "temporary")
        return sorted(str(each.relative_to(self.folder)) for p in places for each in p.rglob("*"))


def start_watched(folder: Path, *words: str, alive_s: float, **variables: str) -> Watched:
    """Starts a program with an environment of its own, in which no robot can be guessed.

    Args:
        folder: where it works; made here.
        words: after `python -m tests.watched`.
        alive_s: how long the process lives on when its work is done.
        variables: of the environment.
    """
    for name in ("user", "temporary", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "user"),
        "TINYV_HOME": str(folder / "tinyv"),
        "TMPDIR": str(folder / "temporary"),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "WATCHED_NOTES": str(folder / "calls.python"),
        "WATCHED_ALIVE_S": str(alive_s),
        **variables,
    }
    command = [sys.executable, "-m", "tests.watched", *words]
    if can_trace():
        notes = str(folder / "calls.strace")
        command = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-e",
            "trace=network",
            "-o",
            notes,
            *command,
        ]
    process = subprocess.Popen(
        command,
        cwd=folder / "work",
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Watched(folder, process)


def _leaves(call: str) -> bool:
    """Whether a call as strace writes it is meant for another computer."""
    found = _ADDRESS.findall(call)
    strangers = [each for each in found if not _LOOPBACK.fullmatch(each)]
    # A server hands its own address over to be parsed: for numbers nobody is asked.
    is_own = call.startswith("socket.getaddrinfo") and found in (["127.0.0.1"], ["::1"])
    return bool(strangers or (_LOOK_UP.search(call) and not is_own))


def _note(event: str, arguments: tuple[object, ...]) -> None:
    """Notes an audit event as strace would write its address."""
    if event in _CALLS:
        address = arguments[1]
    elif event in _NAME_CALLS:
        address = arguments
    else:
        return
    if isinstance(address, tuple) and address and address[0]:
        host = address[0].decode() if isinstance(address[0], bytes) else address[0]
        with Path(os.environ["WATCHED_NOTES"]).open("a", encoding="utf-8") as notes:
            notes.write(f'{event} inet_addr("{host}")\n')


def _main() -> int:
    """Runs `python CODE` where the first word is `-c`, else the verb that was typed."""
    sys.addaudithook(_note)
    try:
        if sys.argv[1:2] == ["-c"]:
            exec(sys.argv[2], {"__name__": "__main__"})
            return 0
        from tinyv_cli.app import main

        return main(sys.argv[1:])
    finally:
        time.sleep(float(os.environ["WATCHED_ALIVE_S"]))


if __name__ == "__main__":
    sys.exit(_main())
