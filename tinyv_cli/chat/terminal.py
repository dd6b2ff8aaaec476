"""Keys become entries: lines are edited, remembered and completed; answers nothing.

The only module that imports prompt_toolkit, and itself imported only in a terminal.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from tinyv_cli.chat import saved, settings
from tinyv_cli.chat.plain_terminal import CONTINUATION, PROMPT
from tinyv_cli.chat.slash import COMMANDS, EXPORTS, TOPICS
from tinyv_cli.chat.talk import is_open
from tinyv_cli.disk.places import home_dir


def make_reader() -> Callable[[], str]:
    """Makes what waits for one entry: EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""
    session: PromptSession[str] = PromptSession(
        PROMPT,
        history=_open_history(),
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
    """Where entries of earlier conversations are kept."""
    return home_dir() / "chat-history"


def _open_history() -> History:
    """Earlier entries; without a place to keep them, those of this conversation alone."""
    path = history_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.open("ab").close()
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


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
        elif name in COMMANDS:
            yield from self._complete_words(COMMANDS[name].takes, words, complete_event)

    def _complete_words(self, takes: str, words: str, event: CompleteEvent) -> Iterable[Completion]:
        """Yields what the words behind a command may go on with."""
        kind, space, name = words.partition(" ")
        if takes == "setting":
            yield from _complete_word(words.rpartition(" ")[2], settings.NAMES)
        elif takes == "topic":
            yield from _complete_word(words, TOPICS)
        elif takes == "export" and not space:
            yield from _complete_word(kind, EXPORTS)
        elif takes != "nothing":
            if takes == "chat":
                yield from _complete_word(words, saved.list_names())
            path = name if takes == "export" else words
            yield from self._paths.get_completions(Document(path), event)


def _complete_word(word: str, candidates: Iterable[str]) -> Iterable[Completion]:
    """Yields the candidates that begin with a word."""
    for candidate in candidates:
        if candidate.startswith(word):
            yield Completion(candidate, -len(word))
