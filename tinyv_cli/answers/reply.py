"""Token ids become an answer: decoded, cut, stripped, counted and timed; without a model.

`StopText` finds where an answer ends, a `Draft` keeps the books while it is made, and a `Reply` is
what the caller iterates over.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from tinyv_cli.answers.generate import FinishReason, Step
from tinyv_cli.answers.tokenizer import TextStream


@dataclass(frozen=True)
class Usage:
    """Tokens of an answer and its prompt.

    Attributes:
        prompt_tokens: positions of the prompt, image tokens included.
        image_tokens: those of them that are a picture.
        completion_tokens: tokens of the answer.
        reused_tokens: positions of the prompt that were cached already and not computed again.
    """

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    reused_tokens: int


@dataclass(frozen=True)
class Timings:
    """Where an answer's time went, in seconds.

    Attributes:
        encode_s: picture to image tokens; 0 when they were there already.
        prefill_s: prompt to the first token.
        decode_s: the further tokens; what the reader of the stream takes is not counted.
        first_token_s: from `ask` to the first token; None when interrupted before it.
        total_s: from `ask` to the end.
    """

    encode_s: float
    prefill_s: float
    decode_s: float
    first_token_s: float | None
    total_s: float


@dataclass(frozen=True)
class Answer:
    """An answer that has ended, and how it went.

    Attributes:
        text: without white space around it.
        finish_reason: "stop", "length" (`max_new_tokens`, or the context is full) or
            "interrupted".
        token_ids: neither the stop id nor tokens that lie in a stop text.
        prompt: as it was sent, `<ImageHere>` at the picture's place.
    """

    text: str
    finish_reason: FinishReason
    token_ids: tuple[int, ...]
    prompt: str
    usage: Usage
    timings: Timings


class StopText:
    """Decoded text becomes answer text: cut before a stop text, without white space around it.

    However the text is divided into pushes, everything returned adds up to the same answer. Where
    several stop texts match, the one that is complete first wins, of those the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Takes the stop texts, none of them empty."""
        self._stops = stops
        self._n_longest = max(map(len, stops), default=1)
        self._text = ""  # everything pushed, from a stop text on cut away
        self._begin = self._end = 0  # the part of `_text` that was returned
        self.stop_start: int | None = None

    @property
    def answer(self) -> str:
        """The text that was returned so far."""
        return self._text[self._begin : self._end]

    def push(self, text: str) -> str:
        """Takes decoded text; returns what of it, and of text held back, is surely answer.

        `stop_start` is set, to the number of characters pushed before the stop text, when one is
        complete; nothing may be pushed after that.
        """
        search_from = max(0, len(self._text) - self._n_longest + 1)
        self._text += text
        starts = [(self._text.find(stop, search_from), stop) for stop in self._stops]
        found = [(start + len(stop), start) for start, stop in starts if start >= 0]
        if not found:
            return self._release(self._find_unsure())
        self.stop_start = min(found)[1]
        self._text = self._text[: self.stop_start]
        return self.finish()

    def finish(self) -> str:
        """Returns what was held back, since nothing can follow it."""
        return self._release(len(self._text))

    def _find_unsure(self) -> int:
        """Where the text may be the beginning of a stop text; its length if nowhere."""
        n = len(self._text)
        candidates = range(max(0, n - self._n_longest + 1), n)
        tails = ((i, self._text[i:]) for i in candidates)
        return next((i for i, tail in tails if any(s.startswith(tail) for s in self._stops)), n)

    def _release(self, end: int) -> str:
        """Returns the text up to `end`, white space before the answer and at `end` left out."""
        stripped = self._text[:end].rstrip()
        if self._end == 0:
            self._begin = self._end = len(stripped) - len(stripped.lstrip())
        new = stripped[self._end :]
        self._end += len(new)
        return new


@dataclass
class Draft:
    """The books of an answer while it is being made."""

    question: str
    written: StopText
    started: float
    prompt: str = ""
    n_left_out: int = 0
    prompt_tokens: int = 0
    image_tokens: int = 0
    reused_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    token_starts: list[int] = field(default_factory=list)  # characters decoded before each token
    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float | None = None
    pending: tuple[int, ...] = ()  # tokens that the next pass appends
    is_over: bool = False  # whether no pass follows

    def time_step(self, step_s: float) -> None:
        """Books work: that before the first token is the prompt's."""
        if self.first_token_s is None:
            self.prefill_s += step_s
        else:
            self.decode_s += step_s

    def note_token(self) -> None:
        """Notes when the first token was there."""
        if self.first_token_s is None:
            self.first_token_s = perf_counter() - self.started

    def to_answer(self, finish_reason: FinishReason) -> Answer:
        """Closes the books."""
        stop_start = self.written.stop_start
        n_tokens = len(self.token_ids)
        if stop_start is not None:
            n_tokens = sum(start < stop_start for start in self.token_starts)
        return Answer(
            text=self.written.answer,
            finish_reason=finish_reason,
            token_ids=tuple(self.token_ids[:n_tokens]),
            prompt=self.prompt,
            usage=Usage(self.prompt_tokens, self.image_tokens, n_tokens, self.reused_tokens),
            timings=Timings(
                self.encode_s,
                self.prefill_s,
                self.decode_s,
                self.first_token_s,
                perf_counter() - self.started,
            ),
        )


def write_answer(
    steps: Generator[Step, None, FinishReason], stream: TextStream, draft: Draft
) -> Generator[str, None, FinishReason]:
    """Yields, after each forward pass, the text that now surely belongs to the answer.

    Args:
        steps: the tokens as they are generated.
        stream: decodes them.
        draft: takes tokens, text and times.

    Returns:
        As the generator's value, why the answer ends: "stop" also at a stop text.
    """
    written = draft.written
    n_characters = 0
    while True:
        started = perf_counter()
        try:
            step = next(steps)
        except StopIteration as end:
            draft.time_step(perf_counter() - started)
            draft.note_token()
            reason: FinishReason = end.value
            break
        draft.time_step(perf_counter() - started)
        new = ""
        for token in step.tokens:
            draft.note_token()
            text = stream.push(token)
            draft.token_ids.append(token)
            draft.token_starts.append(n_characters)
            n_characters += len(text)
            new += written.push(text)
            if written.stop_start is not None:
                break
        draft.is_over = step.is_last or written.stop_start is not None
        draft.pending = () if draft.is_over else step.tokens
        yield new
        if written.stop_start is not None:
            return "stop"
    last = written.push(stream.flush())
    if written.stop_start is not None:
        reason = "stop"
    if last := last + written.finish():
        draft.is_over, draft.pending = True, ()
        yield last
    return reason


class Reply:
    """An answer while it is being made: iterate over its text, then read `answer`.

    The texts add up to `answer.text`. Ctrl-C, an error or `close` ends it as "interrupted";
    the conversation then does not know of it unless `keep` is called.
    """

    def __init__(
        self,
        pieces: Generator[str, None, FinishReason],
        draft: Draft,
        record: Callable[[Draft, Answer], None],
    ) -> None:
        self._pieces = pieces
        self._draft = draft
        self._record = record
        self._answer: Answer | None = None
        self._is_kept = False

    @property
    def answer(self) -> Answer:
        """The answer, once the reply has ended.

        Raises:
            RuntimeError: it has not.
        """
        if self._answer is None:
            raise RuntimeError("the answer is still being made: iterate over the reply first")
        return self._answer

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return self._draft.written.answer

    def __iter__(self) -> "Reply":
        return self

    def __next__(self) -> str:
        while not (text := self.advance()):
            pass
        return text

    @property
    def pending(self) -> tuple[int, ...]:
        """The tokens that the next pass appends; none while the prompt is being read."""
        return self._draft.pending

    @property
    def is_over(self) -> bool:
        """Whether no further pass follows: `finish` then costs nothing."""
        return self._draft.is_over or self._answer is not None

    def book(self, elapsed_s: float) -> None:
        """Counts seconds that were spent for this answer elsewhere."""
        self._draft.time_step(elapsed_s)

    def advance(self) -> str:
        """Does one forward pass.

        Returns:
            The text that is sure after it, often none.

        Raises:
            StopIteration: the answer has ended.
            TinyvError: it cannot be made; it counts as interrupted.
        """
        try:
            return next(self._pieces)
        except StopIteration as end:
            if self._answer is None:
                self._answer = self._draft.to_answer(end.value)
                self._record(self._draft, self._answer)
            raise
        except BaseException:
            self.close()
            raise

    def finish(self) -> Answer:
        """Makes the rest of the answer without streaming it."""
        for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """Stops making the answer; one that has ended stays as it is."""
        self._pieces.close()
        if self._answer is None:
            self._answer = self._draft.to_answer("interrupted")

    def keep(self) -> None:
        """Makes an interrupted answer part of the conversation, before the next question.

        Nothing changes when it holds no text, was kept before, or had finished by itself.
        """
        self.close()
        if not self._is_kept and self.answer.finish_reason == "interrupted" and self.answer.text:
            self._is_kept = True
            self._record(self._draft, self.answer)
