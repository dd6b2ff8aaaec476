"""Questions become turns of a conversation that can be taken back.

What was said is kept here, not in the session, which may be opened anew with another picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tinyv_cli.addresses import is_address, to_lasting_name, to_shown
from tinyv_cli.answers.reply import Answer
from tinyv_cli.chat.prefetch import SessionPrefetcher
from tinyv_cli.errors import InputError
from tinyv_cli.prompts.prompt import Turn
from tinyv_cli.session import AnswerOptions


@dataclass(frozen=True, eq=False)
class ShownPicture:
    """A picture that is talked about.

    Attributes:
        word: that opens it, as it was typed: a file or an address.
        image: as it was read, upright.
        pixels: (1, 3, S, S) float32, what the model sees of it.
    """

    word: str
    image: Image.Image
    pixels: np.ndarray

    @property
    def name(self) -> str:
        """The name to be shown, which holds no secret."""
        return to_shown(self.word) if is_address(self.word) else self.word

    @property
    def lasting_name(self) -> str:
        """The name from every folder, to be kept."""
        if is_address(self.word):
            return to_lasting_name(self.word)
        return str(Path(self.word).absolute())


class Conversation:
    """At most one picture, and what was said about it.

    Attributes:
        options: of the next answers.
        answer: the last answer with its figures; None where the last turn was not answered here.
    """

    def __init__(self, ahead: SessionPrefetcher, options: AnswerOptions) -> None:
        self._ahead = ahead
        self.options = options
        self.answer: Answer | None = None
        self._picture: ShownPicture | None = None
        self._turns: tuple[Turn, ...] = ()
        self._unanswered: str | None = None

    @property
    def picture(self) -> ShownPicture | None:
        """The picture that is shown."""
        return self._picture

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Questions and answers so far, oldest first."""
        return self._turns

    def begin(self, picture: ShownPicture | None, turns: Sequence[Turn] = ()) -> None:
        """Begins anew about a picture, or goes on from turns that were said elsewhere."""
        is_new = picture is not self._picture
        self._picture = picture
        self._recall(turns)
        if is_new:
            self._ahead.show(None if picture is None else picture.pixels)

    def clear(self) -> None:
        """Forgets what was said; the picture stays."""
        self._recall(())

    def undo(self) -> Turn:
        """Takes the last question and its answer back, and returns them.

        Raises:
            InputError: nothing was said.
        """
        turn = self._last_turn()
        self._recall(self._turns[:-1])
        return turn

    def ask(self, question: str, write: Callable[[str], None]) -> Answer:
        """Answers a question.

        Args:
            question: exactly as typed.
            write: takes the answer's text, piece by piece.

        Raises:
            TinyvError: the question cannot be answered; the conversation does not know of it.
            KeyboardInterrupt: Ctrl-C; what was said until then is part of the conversation.
        """
        self._unanswered = question
        session, _ = self._ahead.wait()
        session.recall(self._turns)
        reply = session.ask(question, self.options)
        try:
            for piece in reply:
                write(piece)
        except KeyboardInterrupt:
            reply.keep()
            raise
        finally:
            if len(session.turns) > len(self._turns):
                self._turns = session.turns
                self.answer = reply.answer
                self._unanswered = None
        return reply.answer

    def retry(self, write: Callable[[str], None]) -> Answer:
        """Asks the last question again; its new answer takes the place of the old one.

        Where there comes none, the old one stays.

        Raises:
            InputError: nothing was asked.
            TinyvError: as `ask` does.
            KeyboardInterrupt: as `ask` does.
        """
        if self._unanswered is not None:
            return self.ask(self._unanswered, write)
        turns, answer = self._turns, self.answer
        question = self._last_turn().question
        self._turns = turns[:-1]
        try:
            return self.ask(question, write)
        finally:
            if self._unanswered is not None:
                self._turns, self.answer, self._unanswered = turns, answer, None

    def _recall(self, turns: Sequence[Turn]) -> None:
        self._turns = tuple(turns)
        self.answer = None
        self._unanswered = None

    def _last_turn(self) -> Turn:
        if not self._turns:
            raise InputError("nothing was said yet", "ask something first")
        return self._turns[-1]
