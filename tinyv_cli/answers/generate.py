"""Prompt segments become new token ids, a forward pass each; works on ids, never on text.

It also declares the interfaces that a session needs of a backend.
"""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from tinyv_cli.errors import InputError
from tinyv_cli.variants.memory import CHUNK_POSITIONS

FinishReason: TypeAlias = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """One picture as the language model reads it.

    Attributes:
        embeddings: (Q, D) float32.
        key: names the content; equal keys mean equal embeddings.
        first_row: of these embeddings among the picture's own, where it was cut.
    """

    embeddings: np.ndarray
    key: str
    first_row: int = 0

    def __len__(self) -> int:
        """Positions it takes, Q."""
        return len(self.embeddings)


Segment: TypeAlias = tuple[int, ...] | ImageTokens

PIECE_POSITIONS = 64  # of a text, after which other answers get their turn: a second at full size

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


class Chooser(Protocol):
    """Picks each token of one answer."""

    def choose(self, logits: np.ndarray, generated: Sequence[int]) -> int:
        """Picks a token by logits (V,) float32, given the answer's ids so far."""


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

    def force(self, n_left: int) -> Sequence[int]:
        """Appends the tokens that alone can follow, at most `n_left`; often there are none."""


@dataclass(frozen=True, eq=False)
class Rules:
    """How the tokens of one answer are found.

    Attributes:
        chooser: picks each token.
        stop_ids: end the answer and are not yielded.
        max_new_tokens: at least 1.
        constraint: which answers there are, not begun yet; None lets everything through.
        in_pieces: whether the prompt is read as `divide` cuts it, so that others get their turn.
    """

    chooser: Chooser
    stop_ids: Collection[int]
    max_new_tokens: int
    constraint: Constraint | None = None
    in_pieces: bool = False


@dataclass(frozen=True)
class Step:
    """The tokens that one forward pass brought.

    Attributes:
        tokens: the one chosen and those that the constraint forces after it; none between two
            pieces of the prompt.
        is_last: whether no pass follows.
    """

    tokens: tuple[int, ...]
    is_last: bool = False


def generate(
    decoder: Decoder, segments: Sequence[Segment], rules: Rules
) -> Generator[Step, None, FinishReason]:
    """Appends a prompt and yields the tokens that follow it, pass by pass.

    Tokens are appended to the cache only when the ones after them are asked for, so leaving early
    costs nothing.

    Args:
        decoder: holds whatever comes before `segments`.
        segments: the prompt, at least one position.
        rules: by which tokens are chosen and the answer ends.

    Returns:
        As the generator's value: "stop" after a stop id or where nothing can follow, "length" at
        `max_new_tokens` or where the context is full.

    Raises:
        InputError: the room ends before the answer is what the constraint asks for.
    """
    n_room = decoder.context_length - decoder.length - count_positions(segments) + 1
    n_left = min(rules.max_new_tokens, n_room)
    constraint = rules.constraint
    if constraint is not None:
        constraint.begin(n_left)
    generated: list[int] = []
    *pieces, last = divide(segments) if rules.in_pieces else cut(segments, CHUNK_POSITIONS)
    for piece in pieces:
        decoder.extend(piece)
        yield Step(())
    logits = decoder.extend(last)
    while True:
        if constraint is not None:
            logits = _narrow(logits, constraint, rules.stop_ids)
        token = rules.chooser.choose(logits, generated)
        if token in rules.stop_ids and (constraint is None or constraint.is_complete):
            return "stop"
        tokens: tuple[int, ...] = (token,)
        if constraint is not None:
            taken = constraint.take(token, n_left)
            if taken is None:
                return "length"
            tokens = (taken, *constraint.force(n_left - 1))
        generated += tokens
        n_left -= len(tokens)
        is_finished = constraint is not None and constraint.is_finished
        yield Step(tokens, is_last=is_finished or n_left == 0)
        if constraint is not None and is_finished:
            return "length" if constraint.is_cut else "stop"
        if n_left == 0:
            if constraint is not None and not constraint.is_complete:
                raise InputError(
                    f"the answer did not come to its end within {len(generated)} tokens",
                    f"allow more: `-n {2 * len(generated)}`; a full context is made larger by "
                    "`--ctx-size`",
                )
            return "length"
        logits = decoder.extend([tokens])


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


def divide(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Cuts a prompt into pieces that are computed one by one, always the same ones.

    A product of other rows is summed in another order. Where every segment is computed by itself,
    what it comes to does not depend on how much of the prompt was there already.

    Args:
        segments: at least one position.

    Returns:
        A piece for each segment; long text in several, from its own beginning on.
    """
    pieces: list[list[Segment]] = []
    for segment in segments:
        if isinstance(segment, ImageTokens):
            pieces.append([segment])
        else:
            starts = range(0, len(segment), PIECE_POSITIONS)
            pieces += [[segment[start : start + PIECE_POSITIONS]] for start in starts]
    return pieces


def cut(segments: Sequence[Segment], n_most: int) -> list[list[Segment]]:
    """Cuts a prompt into pieces of equal length, but for the last.

    A decoder that computes as many positions at once comes to the same bits as without the cuts,
    and whoever waits no more is noticed between them.

    Args:
        segments: at least one position.
        n_most: positions of a piece, at least 1.
    """
    pieces: list[list[Segment]] = [[]]
    room = n_most
    for segment in segments:
        start = 0
        while start < len(segment):
            if not room:
                pieces.append([])
                room = n_most
            end = min(len(segment), start + room)
            room -= end - start
            if end - start == len(segment):
                pieces[-1].append(segment)
            elif isinstance(segment, ImageTokens):
                rows = segment.embeddings[start:end]
                pieces[-1].append(ImageTokens(rows, segment.key, segment.first_row + start))
            else:
                pieces[-1].append(segment[start:end])
            start = end
    return pieces


def count_positions(segments: Sequence[Segment]) -> int:
    """Counts the positions that segments take in the cache."""
    return sum(len(segment) for segment in segments)


def to_position_keys(segments: Sequence[Segment]) -> list[PositionKey]:
    """Lists what stands at each position of segments laid end to end."""
    keys: list[PositionKey] = []
    for segment in segments:
        if isinstance(segment, ImageTokens):
            keys += [(segment.key, segment.first_row + row) for row in range(len(segment))]
        else:
            keys += segment
    return keys
