"""A process in a pseudo-terminal: types, and waits for what is shown, never longer than a bound."""

import os
import re
import select
import signal
import subprocess
import sys
import time

WAIT_S = 30
ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78])|\r")
CTRL_C, CTRL_D, UP, ENTER, TAB = "\x03", "\x04", "\x1b[A", "\r", "\t"


class PseudoTerminal:
    """Runs a Python module with stdin, stdout and stderr on one terminal."""

    def __init__(self, module, *words, cwd, environment, term="xterm"):
        import fcntl
        import termios

        self._fd, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x28\x00\x78\x00\x00\x00\x00\x00")  # 40 by 120

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        # Without the first the editor waits for answers that only a real terminal gives.
        extra = {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": term}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=environment | extra,
            preexec_fn=take_terminal,
        )
        os.close(slave)
        self._unread = ""
        self.shown = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(WAIT_S)
        os.close(self._fd)

    def type(self, keys):
        os.write(self._fd, keys.encode())

    def wait_for(self, text):
        """Reads up to and with a text; returns what stood before it."""
        limit = time.monotonic() + WAIT_S
        while text not in self._unread:
            assert self._read_on(limit), f"{text!r} was never shown, but\n{self.shown[-2000:]}"
        before, _, self._unread = self._unread.partition(text)
        return before

    def wait_for_prompt(self):
        return self.wait_for(">>>")

    def ask(self, entry, answer):
        """Types an entry at the prompt and waits for an answer and the next prompt."""
        self.type(entry + ENTER)
        self.wait_for(answer)
        return self.wait_for_prompt()

    def complete(self, beginning, whole):
        """Types a beginning and lets it be completed."""
        self.type(beginning)
        self.wait_for(beginning)
        self.type(TAB)
        self.wait_for(whole.removeprefix(beginning))

    def wait_for_end(self):
        """Reads until the process ends; returns its exit code."""
        limit = time.monotonic() + WAIT_S
        while self._read_on(limit):
            pass
        return self._process.wait(max(0.1, limit - time.monotonic()))

    def _read_on(self, limit):
        """Reads what comes next; False where the process has gone or time is up."""
        ready, _, _ = select.select([self._fd], [], [], max(0, limit - time.monotonic()))
        try:
            data = os.read(self._fd, 65536) if ready else b""
        except OSError:  # how Linux tells that nobody holds the other side any more
            data = b""
        text = ESCAPES.sub("", data.decode("utf-8", "replace"))
        self.shown += text
        self._unread += text
        return bool(data)
