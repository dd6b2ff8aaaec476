"""Typed entries become answers and notes, until somebody leaves; reads no keys itself."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from tinyv_cli.answers.reply import Answer
from tinyv_cli.chat.conversation import Conversation, ShownPicture
from tinyv_cli.chat.dropped import find_dropped
from tinyv_cli.chat.saved import Outputs
from tinyv_cli.console import Console
from tinyv_cli.disk.writing import to_refusal
from tinyv_cli.drawing.on_terminal import Screen, show_picture
from tinyv_cli.errors import TinyvError
from tinyv_cli.prompts.box_words import BoxTeller
from tinyv_cli.prompts.boxes import read_boxes
from tinyv_cli.prompts.prompt import Template

# Typed as in a shell, where somebody looks for the way out.
LEAVING = frozenset({"exit", "quit"})
_LEAST_ROWS = 8  # of a preview, two of which stay free

QUOTES = '"""'  # around a question of several lines


@dataclass
class Talk:
    """Everything that a command can ask for or change.

    Attributes:
        conversation: what was said, and how to go on.
        console: takes answers, notes and what commands show.
        open_picture: reads a picture by its name.
        model: the variant's name.
        template: of its prompts.
        needed_bytes: of memory, as estimated before.
        context_length: positions that a prompt and its answer have room for.
        outputs: files that were written.
        screen: the terminal, where it shows pictures.
        saved_as: what `/save` and `/load` were last given.
    """

    conversation: Conversation
    console: Console
    open_picture: Callable[[str], ShownPicture]
    model: str
    template: Template
    needed_bytes: int
    context_length: int
    screen: Screen | None = None
    outputs: Outputs = field(default_factory=Outputs)
    saved_as: str | None = None

    def show(self, text: str) -> None:
        """Shows what was asked for, also where notes are kept back."""
        Console().write_report(text)

    def show_pictures(self, *words: str, called: str | None = None) -> None:
        """Shows the last of some pictures and tells so; a new conversation begins.

        Args:
            words: that open them; a conversation is about one.
            called: what it is called then; None for its name.

        Raises:
            TinyvError: it cannot be read; what was shown stays.
        """
        picture = self.open_picture(words[-1])
        began = "; a new conversation begins" if self.conversation.turns else ""
        self.conversation.begin(picture)
        self.preview()
        self.console.write_note(f"{called or picture.name} is shown{began}")
        if len(words) > 1:
            self.console.write_note(
                f"of {len(words)} pictures the last is shown, since a conversation is about one; "
                "`tinyv ask A.jpg B.jpg QUESTION --together` asks about several"
            )

    def preview(self) -> None:
        """Shows the picture on a part of the terminal, where that can."""
        picture = self.conversation.picture
        if self.screen is not None and picture is not None:
            n_rows = max(_LEAST_ROWS, self.screen.rows // 3)
            show_picture(picture.image, replace(self.screen, rows=n_rows))

    def stream(self, answer: Callable[[Callable[[str], None]], Answer]) -> None:
        """Writes an answer as it is made, boxes in words; whatever ends it ends its line."""
        teller = BoxTeller()
        try:
            made = answer(lambda piece: self.console.write_piece(teller.tell(piece)))
            self.console.write_piece(teller.tell("", is_last=True))
        except BaseException:
            self.console.end_broken_answer()
            raise
        self.console.end_answer()
        if boxes := read_boxes(made.text):
            here = "`/draw` shows" if self.screen is not None else "`/draw FILE.png` draws"
            self.console.write_note(f"{here} {'it' if len(boxes) == 1 else 'them'}")
        if made.finish_reason == "length":
            n = made.usage.completion_tokens
            is_limit = n == self.conversation.options.max_new_tokens
            more = f"`/set max-tokens {2 * n}` allows more"
            way_out = more if is_limit else "the context is full, `/clear` makes room"
            self.console.write_note(f"the answer was cut after {n} tokens; {way_out}")


def hold_talk(
    talk: Talk, read: Callable[[], str], run_command: Callable[[Talk, str], None]
) -> None:
    """Takes what is typed, until somebody leaves; a picture that an entry names is shown first.

    Args:
        talk: the conversation.
        read: waits for the next entry; EOFError leaves.
        run_command: runs an entry that begins with a slash; EOFError leaves.

    Raises:
        KeyboardInterrupt: Ctrl-C where something is typed, twice in a row.
    """
    was_interrupted = False
    while True:
        try:
            entry = read()
        except KeyboardInterrupt:
            if was_interrupted:
                raise
            was_interrupted = True
            talk.console.write_note("Ctrl-C again leaves, as Ctrl-D and /bye do")
            continue
        except EOFError:
            return
        was_interrupted = False
        answer = talk.conversation.answer
        try:
            question, dropped = to_question(entry), find_dropped(entry)
            if dropped is not None:
                talk.show_pictures(*dropped.pictures)
                question = dropped.question
            if question is None:
                run_command(talk, entry.strip())
            elif entry.strip().lower() in LEAVING:
                return
            elif question.strip():
                talk.stream(partial(talk.conversation.ask, question))
        except EOFError:
            return
        except KeyboardInterrupt:
            was_heard = talk.conversation.answer not in (None, answer)
            talk.console.write_note("stopped" + "; what was said is kept" * was_heard)
        except (TinyvError, OSError) as error:
            planned = error if isinstance(error, TinyvError) else to_refusal(error)
            if planned is None:
                raise
            talk.console.write_error(planned)


def to_question(entry: str) -> str | None:
    """Returns the question that was typed, without its quotes; None of a command.

    A space before a slash makes a question of it.
    """
    if entry.startswith("/"):
        return None
    if is_quoted(entry):
        return entry.strip().removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return entry.strip()


def is_quoted(entry: str) -> bool:
    """Returns whether an entry begins with quotes, so that it may have several lines."""
    return entry.lstrip().startswith(QUOTES)


def is_open(entry: str) -> bool:
    """Returns whether more lines belong to an entry: its quotes are not closed."""
    inner = entry.strip().removeprefix(QUOTES)
    return is_quoted(entry) and not inner.endswith(QUOTES)
