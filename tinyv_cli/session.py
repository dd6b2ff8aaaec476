"""A picture and questions about it become streamed answers, whatever computes them.

A `Session` is one conversation: it joins prompt, tokenizer, image encoder and decoder.
"""

import weakref
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
from PIL import Image

from tinyv_cli.answers.generate import (
    Constraint,
    Decoder,
    FinishReason,
    ImageEncoder,
    ImageTokens,
    Rules,
    Segment,
    count_positions,
    generate,
)
from tinyv_cli.answers.reply import Answer, Draft, Reply, StopText, write_answer
from tinyv_cli.answers.sampling import Sampler, SamplingOptions
from tinyv_cli.answers.tokenizer import STOP_MARK, Tokenizer
from tinyv_cli.answers.tracked import TrackedDecoder
from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.pictures.image import hash_pixels, to_pixels
from tinyv_cli.prompts.prompt import Prompt, Template, Turn, check_question, make_prompt


class Grammar(Protocol):
    """The form of answers."""

    def start(self) -> Constraint:
        """Begins an answer."""


@dataclass(frozen=True)
class AnswerOptions:
    """How one answer is made.

    Attributes:
        max_new_tokens: the longest answer, at least 1.
        sampling: how tokens are chosen.
        stop: texts that end the answer, besides ``###``.
        grammar: what the answer may be; None lets everything through.
        n_reserved: positions that old turns make room for; None for the longest answer.
        ends_at_mark: whether ``###`` ends the answer too; published scripts go on behind it.

    Raises:
        UsageError: a value is out of its range.
    """

    max_new_tokens: int = 256
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    n_reserved: int | None = None
    ends_at_mark: bool = True

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(
                f"--max-tokens is {self.max_new_tokens}",
                "use a number from 1 on: `--max-tokens 256`",
            )
        if "" in self.stop:
            raise UsageError("--stop is empty", 'give the text that ends an answer: `--stop "."`')


DEFAULT_OPTIONS = AnswerOptions()


class Session:
    """One conversation about at most one picture."""

    def __init__(
        self,
        encoder: ImageEncoder,
        decoder: Decoder,
        tokenizer: Tokenizer,
        template: Template,
        *,
        notify: Callable[[str], None],
        stop_ids: Collection[int] | None = None,
    ) -> None:
        """Starts a conversation in which nothing was said.

        Args:
            encoder: may serve other sessions too.
            decoder: likewise, one answer at a time.
            tokenizer: of the same variant.
            template: how prompts are laid out.
            notify: takes one line for the user.
            stop_ids: end an answer; None takes those of the tokenizer.
        """
        self._encoder = encoder
        self._decoder = TrackedDecoder.of(decoder)
        self._tokenizer = tokenizer
        self._template = template
        self._notify = notify
        self._stop_ids = tokenizer.stop_ids if stop_ids is None else frozenset(stop_ids)
        self._pixels: dict[str, np.ndarray] = {}  # by their hash, (1, 3, S, S) each
        self._shown: tuple[str, ...] = ()  # hashes in the prompt's order
        self._images: dict[str, ImageTokens] = {}  # those that were encoded
        self._turns: list[Turn] = []
        self._n_left_out = 0  # oldest text turns that no longer fit the context
        # A reply holds its session. Were it held in turn, the two would keep the decoder's
        # gigabytes alive until the garbage collector comes by.
        self._reply: weakref.ref[Reply] | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Questions and answers so far, oldest first, also those that prompts have no room for."""
        return tuple(self._turns)

    def show(self, picture: Image.Image, image_px: int) -> None:
        """Begins a new conversation about a picture, which is encoded when first asked about.

        Args:
            picture: mode RGB, as `image.read_picture` returns it.
            image_px: the side of the square that the vision tower sees.
        """
        self.show_pixels(to_pixels(picture, image_px))

    def show_pixels(self, *pictures: np.ndarray) -> None:
        """Does what `show` does, with pixels as `to_pixels` makes them.

        Args:
            pictures: (1, 3, S, S) each; several stand in one prompt, in this order.
        """
        self._close_reply()
        self._shown = tuple(hash_pixels(pixels) for pixels in pictures)
        self._pixels = dict(zip(self._shown, pictures, strict=True))
        self._images = {key: each for key, each in self._images.items() if key in self._pixels}
        self._turns.clear()
        self._n_left_out = 0

    def show_images(self, *images: ImageTokens) -> None:
        """Does what `show` does, with pictures that were encoded already."""
        self._close_reply()
        self._shown = tuple(each.key for each in images)
        self._pixels = {}
        self._images = {each.key: each for each in images}
        self._turns.clear()
        self._n_left_out = 0

    def recall(self, turns: Sequence[Turn]) -> None:
        """Makes other turns what was said, oldest first; the picture stays.

        What the new turns share with the old ones is not computed again.
        """
        self._close_reply()
        if list(turns) != self._turns:
            self._turns = list(turns)
            self._n_left_out = 0

    def look(self) -> None:
        """Encodes what is shown now instead of with the first question about it."""
        for key, pixels in self._pixels.items():
            if key not in self._images:
                self._images[key] = ImageTokens(self._encoder.encode(pixels)[0], key)

    def ask(self, question: str, options: AnswerOptions = DEFAULT_OPTIONS) -> Reply:
        """Begins an answer; the work is done as the reply is iterated over.

        An unfinished earlier reply is closed.

        Raises:
            InputError: the question is blank or not text; and from the reply's first step, the
                prompt needs more positions than the context has.
        """
        # What a grammar asks for may hold the mark, as a JSON document's text can.
        marks = (STOP_MARK, *options.stop) if options.ends_at_mark else options.stop
        marks = () if options.grammar else marks
        rules = Rules(
            Sampler(options.sampling),
            self._stop_ids,
            options.max_new_tokens,
            None if options.grammar is None else options.grammar.start(),
            self._decoder.in_pieces,
        )
        return self._begin(question, marks, rules, self._record, options.n_reserved)

    def recite(
        self, question: str, ids: Sequence[int], take: Callable[[np.ndarray], None]
    ) -> Reply:
        """Begins an answer whose tokens are given; it does not become part of the conversation.

        Args:
            question: as in `ask`.
            ids: of the answer.
            take: is given the logits (V,) float32 after the prompt, and after each token.

        Raises:
            InputError: as `ask`; from the reply's first step also where the answer does not fit.
        """
        rules = Rules(_Reciter(ids, take), (), len(ids) + 1, in_pieces=self._decoder.in_pieces)
        return self._begin(question, (), rules, lambda *_: None)

    def _begin(
        self,
        question: str,
        marks: Sequence[str],
        rules: Rules,
        record: Callable[[Draft, Answer], None],
        n_reserved: int | None = None,
    ) -> Reply:
        """Begins a reply, after closing an earlier one."""
        started = perf_counter()
        check_question(question)
        self._close_reply()
        draft = Draft(question, StopText(marks), started)
        n_reserved = rules.max_new_tokens if n_reserved is None else n_reserved
        reply = Reply(self._write(draft, rules, n_reserved), draft, record)
        self._reply = weakref.ref(reply)
        return reply

    def _write(
        self, draft: Draft, rules: Rules, n_reserved: int
    ) -> Generator[str, None, FinishReason]:
        """Yields the answer's text as it becomes sure; returns why it ends."""
        if len(self._images) < len(self._pixels):
            started = perf_counter()
            self.look()
            draft.encode_s = perf_counter() - started
        images = [self._images[key] for key in self._shown]
        rest = self._lay_out(draft, images, n_reserved)
        steps = generate(self._decoder, rest, rules)
        return (yield from write_answer(steps, self._tokenizer.make_stream(), draft))

    def _lay_out(
        self, draft: Draft, images: Sequence[ImageTokens], n_reserved: int
    ) -> list[Segment]:
        """Makes the prompt, rewinds the decoder to what they share, and returns what is left.

        The oldest turns are left out until the answer has room; the pictures' turn stays.

        Raises:
            InputError: the prompt does not fit even so.
        """
        room = self._decoder.context_length
        n_fixed = min(len(self._turns), 1 if images else 0)
        for n_left_out in range(self._n_left_out, len(self._turns) - n_fixed + 1):
            turns = self._turns[:n_fixed] + self._turns[n_fixed + n_left_out :]
            prompt, segments = self._make_prompt(turns, draft.question, images)
            draft.prompt_tokens = count_positions(segments)
            draft.n_left_out = n_left_out
            if draft.prompt_tokens + n_reserved <= room:
                break
        if draft.prompt_tokens > room:
            raise InputError(
                f"the prompt needs {draft.prompt_tokens} positions, the context has {room}",
                "ask a shorter question, begin a new conversation, or make room: "
                f"`tinyv ask --ctx-size {draft.prompt_tokens + n_reserved} …`",
            )
        if draft.n_left_out > self._n_left_out:
            n = draft.n_left_out
            left = "question and its answer" if n == 1 else f"{n} questions and their answers"
            kept = "; the picture and the first question stay" if images else ""
            self._notify(f"the context is full: the oldest {left} are left out of the prompt{kept}")
        draft.prompt = prompt.text
        draft.image_tokens = count_positions(images)
        rest, draft.reused_tokens = self._decoder.rewind_to_common(segments)
        return rest

    def _make_prompt(
        self, turns: Sequence[Turn], question: str, images: Sequence[ImageTokens]
    ) -> tuple[Prompt, list[Segment]]:
        """The prompt as text, and as what the decoder takes: text, picture, text, and so on."""
        prompt = make_prompt(self._template, turns, question, len(images))
        first, *others = (tuple(self._tokenizer.encode(piece)) for piece in prompt.pieces)
        segments: list[Segment] = [first]
        for image, text in zip(images, others, strict=True):
            segments += [image, text]
        return prompt, segments

    def _record(self, draft: Draft, answer: Answer) -> None:
        """Makes a question and its answer part of the conversation."""
        self._turns.append(Turn(draft.question, answer.text))
        self._n_left_out = draft.n_left_out

    def _close_reply(self) -> None:
        """Ends an unfinished reply; one that was dropped has ended already."""
        reply = self._reply() if self._reply else None
        if reply is not None:
            reply.close()


@dataclass(frozen=True)
class _Reciter:
    """Chooses the tokens that it was given, and hands on the logits that it is shown."""

    ids: Sequence[int]
    take: Callable[[np.ndarray], None]

    def choose(self, logits: np.ndarray, generated: Sequence[int]) -> int:
        """Returns the next of the ids; behind the last any, as the answer ends there."""
        self.take(logits)
        return [*self.ids, 0][len(generated)]
