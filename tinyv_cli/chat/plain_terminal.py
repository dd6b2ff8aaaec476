"""Lines become entries on a terminal that moves no cursor, as the one inside an editor.

prompt_toolkit 3.0.53 falls back to a prompt of its own there, in which Ctrl-C and Ctrl-D do
nothing: the process could not be left.
"""

import os
import select
import sys

from tinyv_cli.chat.talk import is_open

PROMPT = ">>> "
CONTINUATION = "… "
_TURN_S = 0.1  # of waiting for a line


def is_plain() -> bool:
    """Returns whether the terminal says that it can only show lines."""
    return os.environ.get("TERM", "").lower() in {"dumb", "unknown"}


def read_entry() -> str:
    """Waits for one entry; EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""
    entry = _read_line(PROMPT)
    while is_open(entry):
        entry += "\n" + _read_line(CONTINUATION)
    return entry


def _read_line(prompt: str) -> str:
    """Shows a prompt and waits for a line."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    # `input` is called once there is a line: a Ctrl-C that comes when it has shown its prompt and
    # does not read yet is kept from Python until the line ends (1 of 25 runs of the terminal's test
    # on one core failed so; 0 of 60 since). Windows cannot wait for a line of a terminal.
    while sys.platform != "win32" and not select.select([sys.stdin], [], [], _TURN_S)[0]:
        pass
    return input()
