"""Prompt segments become new token ids, one forward pass each; works on ids, never on text.

It also declares the two interfaces that a backend implements, and records what a decoder
holds, so that a later prompt is computed only from where it differs.
"""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from tinyv_cli.answers.sampling import Sampler
from tinyv_cli.errors import InputError

FinishReason: TypeAlias = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """One picture as the language model reads it.

    Attributes:
        embeddings: (Q, D) float32.
        key: names the content; equal keys mean equal embeddings.
    """

    embeddings: np.ndarray
    key: str

    def __len__(self) -> int:
        """Positions it takes, Q."""
        return len(self.embeddings)


Segment: TypeAlias = tuple[int, ...] | ImageTokens

# The content of one position: a token's id, or a picture's key and the row of its embeddings.
PositionKey: TypeAlias = int | tuple[str, int]


class Decoder(Protocol):
    """Phi-2 with its cache of keys and values."""

    @property
    def context_length(self) -> int:
        """Positions there is room for."""

    @property
    def length(self) -> int:
        """Positions now cached."""

    def extend(self, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions; returns the logits after the last, (V,) float32."""

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on; `length` is at most the present one."""


class ImageEncoder(Protocol):
    """Vision tower, Q-Former and projections."""

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Turns pixels (B, 3, S, S) into image tokens (B, Q, D), both float32."""


class Constraint(Protocol):
    """Restricts one answer: is given each token, and returns which ones may come next."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""

    @property
    def is_finished(self) -> bool:
        """Whether it must end here."""

    @property
    def is_cut(self) -> bool:
        """Whether it was brought to an end for want of room."""

    def begin(self, n_left: int) -> None:
        """Raises an `InputError` if no answer fits into `n_left` tokens."""

    def allow(self) -> np.ndarray:
        """Returns the mask of tokens that may follow, stop ids aside: bool, at most (V,)."""

    def take(self, token: int, n_left: int) -> int | None:
        """Appends an allowed token, or another one where room gets short.

        Args:
            token: the one chosen.
            n_left: tokens there is room for, this one included.

        Returns:
            The one taken; None where the answer has to end before it.
        """


def generate(
    decoder: Decoder,
    segments: Sequence[Segment],
    sampler: Sampler,
    stop_ids: Collection[int],
    max_new_tokens: int,
    constraint: Constraint | None = None,
) -> Generator[int, None, FinishReason]:
    """Appends a prompt and yields the tokens that follow it.

    A token is appended to the cache only when the one after it is asked for, so leaving early
    costs nothing.

    Args:
        decoder: holds whatever comes before `segments`.
        segments: the prompt, at least one position.
        sampler: chooses each token.
        stop_ids: end the answer and are not yielded.
        max_new_tokens: at least 1.
        constraint: which answers there are, not begun yet; None lets everything through.

    Returns:
        As the generator's value: "stop" after a stop id or where nothing can follow, "length" at
        `max_new_tokens` or where the context is full.

    Raises:
        InputError: the room ends before the answer is what the constraint asks for.
    """
    n_room = decoder.context_length - decoder.length - count_positions(segments) + 1
    n_left = min(max_new_tokens, n_room)
    if constraint is not None:
        constraint.begin(n_left)
    generated: list[int] = []
    logits = decoder.extend(segments)
    while True:
        if constraint is not None:
            logits = _narrow(logits, constraint, stop_ids)
        token = sampler.choose(logits, generated)
        if token in stop_ids and (constraint is None or constraint.is_complete):
            return "stop"
        if constraint is not None:
            taken = constraint.take(token, n_left)
            if taken is None:
                return "length"
            token = taken
        generated.append(token)
        yield token
        n_left -= 1
        if constraint is not None and constraint.is_finished:
            return "length" if constraint.is_cut else "stop"
        if n_left == 0:
            if constraint is not None and not constraint.is_complete:
                raise InputError(
                    f"the answer did not come to its end within {len(generated)} tokens",
                    f"allow more: `-n {2 * len(generated)}`; a full context is made larger by "
                    "`--ctx-size`",
                )
            return "length"
        logits = decoder.extend([(token,)])


def _narrow(logits: np.ndarray, constraint: Constraint, stop_ids: Collection[int]) -> np.ndarray:
    """Sets logits (V,) to minus infinity where a token may not follow.

    Stop ids are let through only where the answer is complete: `###` may stand inside a string.
    """
    allowed = np.zeros(len(logits), np.bool_)
    follows = constraint.allow()[: len(logits)]
    allowed[: len(follows)] = follows
    ends = [id for id in stop_ids if id < len(logits)]
    if constraint.is_complete:
        allowed[ends] = True
    elif np.delete(allowed, ends).any():  # else the form forces one of them: ` ###` in its text
        allowed[ends] = False
    return np.where(allowed, logits, np.float32(-np.inf))


class TrackedDecoder:
    """A decoder with a record of what stands at each position it holds; itself a `Decoder`.

    The record never claims more than is cached, also when an interruption falls between the
    cache's change and the record's.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._keys: list[PositionKey] = []
        decoder.rewind(0)

    @classmethod
    def of(cls, decoder: Decoder) -> "TrackedDecoder":
        """Returns a decoder with its record: itself where it has one, so that there is only one."""
        return decoder if isinstance(decoder, cls) else cls(decoder)

    @property
    def context_length(self) -> int:
        """Positions there is room for."""
        return self._decoder.context_length

    @property
    def length(self) -> int:
        """Positions now cached."""
        return self._decoder.length

    def extend(self, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions; returns the logits after the last, (V,) float32."""
        logits = self._decoder.extend(segments)
        self._keys += to_position_keys(segments)
        return logits

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on."""
        del self._keys[length:]
        self._decoder.rewind(length)

    def rewind_to_common(self, segments: Sequence[Segment]) -> tuple[list[Segment], int]:
        """Forgets all but the beginning that the cache shares with a prompt.

        At least the prompt's last position is left to compute, since its logits are wanted. A
        picture is never split but computed again whole.

        Args:
            segments: a whole prompt, from the first position on.

        Returns:
            The segments left to `extend`, and the number of positions kept.
        """
        wanted = to_position_keys(segments)
        n_usable = min(len(self._keys), self.length, len(wanted) - 1)
        pairs = zip(self._keys[:n_usable], wanted, strict=False)
        n_kept = next((i for i, (held, new) in enumerate(pairs) if held != new), n_usable)
        rest: list[Segment] = []
        start = 0
        for segment in segments:
            end = start + len(segment)
            if start < n_kept < end:
                if isinstance(segment, ImageTokens):
                    n_kept = start
                else:
                    segment, start = segment[n_kept - start :], n_kept
            if start >= n_kept:
                rest.append(segment)
            start = end
        self.rewind(n_kept)
        return rest, n_kept


def count_positions(segments: Sequence[Segment]) -> int:
    """Counts the positions that segments take in the cache."""
    return sum(len(segment) for segment in segments)


def to_position_keys(segments: Sequence[Segment]) -> list[PositionKey]:
    """Lists what stands at each position of segments laid end to end."""
    keys: list[PositionKey] = []
    for segment in segments:
        if isinstance(segment, ImageTokens):
            keys += [(segment.key, row) for row in range(len(segment))]
        else:
            keys += segment
    return keys
