"""A picture and questions about it become streamed answers; knows no file, terminal or runtime.

A `Session` is one conversation: it joins prompt, tokenizer, image encoder and decoder.
"""

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
from PIL import Image

from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.generate import (
    Decoder,
    FinishReason,
    ImageEncoder,
    ImageTokens,
    Segment,
    TrackedDecoder,
    count_positions,
    generate,
)
from tinyv_cli.image import hash_pixels, to_pixels
from tinyv_cli.prompt import Prompt, Template, Turn, check_question, make_prompt
from tinyv_cli.reply import Answer, Draft, Reply, StopText, write_answer
from tinyv_cli.sampling import Sampler, SamplingOptions
from tinyv_cli.tokenizer import STOP_MARK, Tokenizer


class Runtime(Protocol):
    """What a session needs of a backend."""

    @property
    def encoder(self) -> ImageEncoder:
        """Turns pixels into image tokens."""

    @property
    def decoder(self) -> Decoder:
        """Turns positions into logits."""


@dataclass(frozen=True)
class AnswerOptions:
    """How one answer is made.

    Attributes:
        max_new_tokens: the longest answer, at least 1.
        sampling: how tokens are chosen.
        stop: texts that end the answer, besides ``###``.

    Raises:
        UsageError: a value is out of its range.
    """

    max_new_tokens: int = 256
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()

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
        runtime: Runtime,
        tokenizer: Tokenizer,
        template: Template,
        *,
        notify: Callable[[str], None],
        stop_ids: Collection[int] | None = None,
    ) -> None:
        """Starts a conversation in which nothing was said.

        Args:
            runtime: used by this session alone.
            tokenizer: of the same variant.
            template: how prompts are laid out.
            notify: takes one line for the user.
            stop_ids: end an answer; None takes those of the tokenizer.
        """
        self._encoder = runtime.encoder
        self._decoder = TrackedDecoder(runtime.decoder)
        self._tokenizer = tokenizer
        self._template = template
        self._notify = notify
        self._stop_ids = tokenizer.stop_ids if stop_ids is None else frozenset(stop_ids)
        self._pixels: np.ndarray | None = None  # (1, 3, S, S)
        self._image: ImageTokens | None = None
        self._turns: list[Turn] = []
        self._n_left_out = 0  # oldest text turns that no longer fit the context
        self._reply: Reply | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said, oldest first, also what prompts no longer have room for."""
        return tuple(self._turns)

    def show(self, picture: Image.Image, image_px: int) -> None:
        """Begins a new conversation about a picture, which is encoded when first asked about.

        Args:
            picture: mode RGB, as `image.read_picture` returns it.
            image_px: the side of the square that the vision tower sees.
        """
        self.show_pixels(to_pixels(picture, image_px))

    def show_pixels(self, pixels: np.ndarray) -> None:
        """Does what `show` does, with a picture's pixels (1, 3, S, S) as `to_pixels` makes them."""
        self._close_reply()
        if self._image is not None and self._image.key != hash_pixels(pixels):
            self._image = None
        self._pixels = pixels
        self._turns.clear()
        self._n_left_out = 0

    def ask(self, question: str, options: AnswerOptions = DEFAULT_OPTIONS) -> Reply:
        """Begins an answer; the work is done as the reply is iterated over.

        An unfinished earlier reply is closed.

        Raises:
            InputError: the question is blank or not text; and from the reply's first step, the
                prompt needs more positions than the context has.
        """
        started = perf_counter()
        check_question(question)
        self._close_reply()
        draft = Draft(question, StopText((STOP_MARK, *options.stop)), started)
        self._reply = Reply(self._write(draft, options), draft, self._record)
        return self._reply

    def _write(self, draft: Draft, options: AnswerOptions) -> Generator[str, None, FinishReason]:
        """Yields the answer's text as it becomes sure; returns why it ends."""
        image = self._encode_image(draft)
        rest = self._lay_out(draft, image, options.max_new_tokens)
        ids = generate(
            self._decoder,
            rest,
            Sampler(options.sampling),
            self._stop_ids,
            options.max_new_tokens,
        )
        return (yield from write_answer(ids, self._tokenizer.make_stream(), draft))

    def _encode_image(self, draft: Draft) -> ImageTokens | None:
        """The shown picture's image tokens, computed the first time; None without a picture."""
        if self._image is None and self._pixels is not None:
            started = perf_counter()
            embeddings = self._encoder.encode(self._pixels)[0]  # (Q, D)
            self._image = ImageTokens(embeddings, hash_pixels(self._pixels))
            draft.encode_s = perf_counter() - started
        return self._image

    def _lay_out(
        self, draft: Draft, image: ImageTokens | None, max_new_tokens: int
    ) -> list[Segment]:
        """Makes the prompt, rewinds the decoder to what they share, and returns what is left.

        The oldest turns are left out until the answer has room; the picture's turn stays.

        Raises:
            InputError: the prompt does not fit even so.
        """
        room = self._decoder.context_length
        n_fixed = min(len(self._turns), 0 if image is None else 1)
        for n_left_out in range(self._n_left_out, len(self._turns) - n_fixed + 1):
            turns = self._turns[:n_fixed] + self._turns[n_fixed + n_left_out :]
            prompt, segments = self._make_prompt(turns, draft.question, image)
            draft.prompt_tokens = count_positions(segments)
            draft.n_left_out = n_left_out
            if draft.prompt_tokens + max_new_tokens <= room:
                break
        if draft.prompt_tokens > room:
            raise InputError(
                f"the prompt needs {draft.prompt_tokens} positions, the context has {room}",
                "ask a shorter question, begin a new conversation, or make room: "
                f"`tinyv ask --ctx-size {draft.prompt_tokens + max_new_tokens} …`",
            )
        if draft.n_left_out > self._n_left_out:
            self._notify(_tell_left_out(draft.n_left_out, image is not None))
        draft.prompt = prompt.text
        draft.image_tokens = 0 if image is None else len(image)
        rest, draft.reused_tokens = self._decoder.rewind_to_common(segments)
        return rest

    def _make_prompt(
        self, turns: Sequence[Turn], question: str, image: ImageTokens | None
    ) -> tuple[Prompt, list[Segment]]:
        """The prompt as text, and as what the decoder takes: text, picture, text."""
        prompt = make_prompt(self._template, turns, question, 0 if image is None else 1)
        texts = [tuple(self._tokenizer.encode(piece)) for piece in prompt.pieces]
        if image is None:
            return prompt, [*texts]
        before, after = texts
        return prompt, [before, image, after]

    def _record(self, draft: Draft, answer: Answer) -> None:
        """Makes a question and its answer part of the conversation."""
        self._turns.append(Turn(draft.question, answer.text))
        self._n_left_out = draft.n_left_out

    def _close_reply(self) -> None:
        """Ends a reply that nobody listens to any more."""
        if self._reply is not None:
            self._reply.close()


def _tell_left_out(n: int, has_picture: bool) -> str:
    """The line for the user when old turns no longer fit."""
    turns = "question and its answer" if n == 1 else f"{n} questions and their answers"
    kept = "; the picture and the first question stay" if has_picture else ""
    return f"the context is full: the oldest {turns} are left out of the prompt{kept}"
