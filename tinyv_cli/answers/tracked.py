"""A decoder keeps a record of what it holds: a later prompt is computed only where it differs."""

from collections.abc import Sequence

import numpy as np

from tinyv_cli.answers.generate import (
    Decoder,
    ImageTokens,
    PositionKey,
    Segment,
    to_position_keys,
)


class TrackedDecoder:
    """A decoder with a record of what stands at each position it holds; itself a `Decoder`.

    The record never claims more than is cached, also when an interruption falls between the
    cache's change and the record's.
    """

    in_pieces = False  # whether prompts are read as `generate.divide` cuts them

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._keys: list[PositionKey] = []
        self._owner: object = None
        decoder.rewind(0)

    @classmethod
    def of(cls, decoder: Decoder) -> "TrackedDecoder":
        """Returns a decoder with its record: itself where it has one, so that there is only one."""
        return decoder if isinstance(decoder, TrackedDecoder) else TrackedDecoder(decoder)

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

    def lend(self, owner: object) -> None:
        """Gives the decoder to somebody; what it computed for another is not taken over."""
        if owner != self._owner:
            self.rewind(0)
            self._owner = owner

    def rewind_to_common(self, segments: Sequence[Segment]) -> tuple[list[Segment], int]:
        """Forgets all but the beginning that the cache shares with a prompt.

        At least the prompt's last position is left to compute, since its logits are wanted. A
        picture is never split but computed again whole.

        Args:
            segments: a whole prompt, from the first position on.

        Returns:
            The segments left to `extend`, and the number of positions kept.
        """
        n_kept = self.count_common(segments)
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

    def count_common(self, segments: Sequence[Segment]) -> int:
        """Counts the positions of a prompt, but for its last, that the cache begins with."""
        wanted = to_position_keys(segments)
        n_usable = min(len(self._keys), self.length, len(wanted) - 1)
        pairs = zip(self._keys[:n_usable], wanted, strict=False)
        return next((i for i, (held, new) in enumerate(pairs) if held != new), n_usable)
