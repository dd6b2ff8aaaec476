"""Keys become entries: lines are edited, remembered and completed; answers nothing.

The only module that imports prompt_toolkit, and itself imported only in a terminal. Its 3.0.30 and
3.0.40 pass the terminal's tests, but only the later of them keeps `NO_COLOR`.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from tinyv_cli.addresses import hide_secrets
from tinyv_cli.chat import saved, settings
from tinyv_cli.chat.plain_terminal import CONTINUATION, PROMPT
from tinyv_cli.chat.slash import COMMANDS, EXPORTS, TOPICS
from tinyv_cli.chat.talk import is_open
from tinyv_cli.disk.places import home_dir


def make_reader() -> Callable[[], str]:
    """Makes what waits for one entry: EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C.

    Earlier entries are kept; without a place for them, those of this conversation alone.
    """
    path = history_path()
    history: History
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.open("ab").close()
        history = SafeHistory(str(path))
    except OSError:
        history = InMemoryHistory()
    session: PromptSession[str] = PromptSession(
        PROMPT,
        history=history,
        completer=EntryCompleter(),
        complete_while_typing=False,
        multiline=Condition(lambda: is_open(get_app().current_buffer.text)),
        prompt_continuation=CONTINUATION,
    )

    def read() -> str:
        # What a thread notes meanwhile goes above the line that is typed.
        with patch_stdout(raw=True):
            return session.prompt()

    return read


def history_path() -> Path:
    """Returns where entries of earlier conversations are kept."""
    return home_dir() / "chat-history"


class SafeHistory(FileHistory):
    """Keeps entries without what is secret in their URLs, or long."""

    def store_string(self, string: str) -> None:
        """Writes an entry to the file; a disk that refuses it does not end the conversation."""
        with suppress(OSError):
            super().store_string(hide_secrets(string))


class EntryCompleter(Completer):
    """Completes commands, and what they take."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Yields what the text before the cursor may go on with."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, words = text.partition(" ")
        if not space:
            yield from _complete_word(name, COMMANDS)
            return
        takes = COMMANDS[name].takes if name in COMMANDS else "nothing"
        kind, space, file = words.partition(" ")
        if takes == "setting":
            yield from _complete_word(words.rpartition(" ")[2], settings.NAMES)
        elif takes == "topic":
            yield from _complete_word(words, TOPICS)
        elif takes == "export" and not space:
            yield from _complete_word(kind, EXPORTS)
        elif takes not in ("nothing", "question"):
            if takes == "chat":
                yield from _complete_word(words, saved.list_names())
            path = file if takes == "export" else words
            yield from self._paths.get_completions(Document(path), complete_event)


def _complete_word(word: str, candidates: Iterable[str]) -> Iterable[Completion]:
    """Yields the candidates that begin with a word."""
    for candidate in candidates:
        if candidate.startswith(word):
            yield Completion(candidate, -len(word))
