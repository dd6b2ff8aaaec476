"""A question on its way through the worker, and what its asker hears of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from tinyv_cli.answers.generate import ImageTokens
from tinyv_cli.answers.reply import Answer, Reply
from tinyv_cli.serving.dialects.asking import RefusedError
from tinyv_cli.serving.preparing import Prepared

# What comes faster is told together. Telling takes 0.4 ms of the event loop, on cores that compute.
_APART_S = 0.05


@dataclass(frozen=True)
class Step:
    """How far a question is, before the first token: `queued`, `loading`, `looking`, `reading`.

    Attributes:
        name: of the step.
        place: in the queue, from 1 on; 0 elsewhere.
    """

    name: str
    place: int = 0


@dataclass(frozen=True)
class Piece:
    """More text of an answer."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The end of an answer.

    Attributes:
        text: all of it.
        answer: with its figures; None where nothing was asked but to load or unload.
        load_s: what loading the model took for this question.
        encode_s: what its pictures took.
        first_s: from asking to the first token.
        total_s: from asking to the end.
    """

    text: str
    answer: Answer | None
    load_s: float
    encode_s: float
    first_s: float
    total_s: float

    @property
    def n_prompt(self) -> int:
        """Positions of the prompt."""
        return self.answer.usage.prompt_tokens if self.answer else 0

    @property
    def n_answer(self) -> int:
        """Tokens of the answer."""
        return self.answer.usage.completion_tokens if self.answer else 0

    @property
    def reason(self) -> str:
        """Why it ended: `stop` or `length`."""
        return "length" if self.answer and self.answer.finish_reason == "length" else "stop"


@dataclass(frozen=True)
class Failed:
    """There will be no answer, or no more of it."""

    refusal: RefusedError


Event = Step | Piece | Ended | Failed


@dataclass(eq=False)
class Job:
    """A question that waits or is being answered; the worker's thread changes it.

    Attributes:
        prepared: the question.
        tell: takes what happens; called in the worker's thread.
        is_cancelled: set by whoever asked, when nobody listens any more.
    """

    prepared: Prepared
    tell: Callable[[Event], None]
    is_cancelled: bool = False
    images: list[ImageTokens] = field(default_factory=list)
    reply: Reply | None = None
    n_told: int = 0  # characters
    told_s: float = 0.0  # when that was
    place: int = 0
    begun_s: float = field(default_factory=perf_counter)
    first_s: float | None = None
    load_s: float = 0.0
    encode_s: float = 0.0

    def tell_text(self, text: str, is_last: bool = False) -> None:
        """Tells what is new in the answer's text, unless something was told a moment ago."""
        now_s = perf_counter()
        if len(text) == self.n_told or (now_s - self.told_s < _APART_S and not is_last):
            return
        if self.first_s is None:
            self.first_s = now_s - self.begun_s
        if self.prepared.asked.streams:
            self.tell(Piece(text[self.n_told :]))
        self.n_told, self.told_s = len(text), now_s

    def end(self, answer: Answer | None) -> Ended:
        """Tells the end."""
        text = answer.text if answer else ""
        self.tell_text(text, is_last=True)
        total_s = perf_counter() - self.begun_s
        first_s = total_s if self.first_s is None else self.first_s
        ended = Ended(text, answer, self.load_s, self.encode_s, first_s, total_s)
        self.tell(ended)
        return ended
