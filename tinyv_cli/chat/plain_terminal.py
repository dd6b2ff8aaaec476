"""Lines become entries on a terminal that moves no cursor, as the one inside an editor."""

import os

from tinyv_cli.chat.talk import is_open

PROMPT = ">>> "
CONTINUATION = "… "


def is_plain() -> bool:
    """Whether the terminal says that it can only show lines."""
    return os.environ.get("TERM", "").lower() in {"dumb", "unknown"}


def read_entry() -> str:
    """Waits for one entry; EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""
    entry = input(PROMPT)
    while is_open(entry):
        entry += "\n" + input(CONTINUATION)
    return entry
