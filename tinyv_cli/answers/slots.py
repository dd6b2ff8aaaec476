"""A decoder of several sequences becomes slots, each a decoder of its own with its record.

What is computed for one slot never depends on what the others hold. Their next tokens can be
computed together: the weights are then read once for all of them.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np

from tinyv_cli.answers.generate import Segment
from tinyv_cli.answers.tracked import TrackedDecoder


class SlotDecoder(Protocol):
    """Phi-2 with the keys and values of several sequences; a slot holds one of them."""

    @property
    def n_slots(self) -> int:
        """Sequences there is room for."""

    @property
    def context_length(self) -> int:
        """Positions that each has room for."""

    @property
    def lengths(self) -> Sequence[int]:
        """Positions now cached in each slot."""

    def extend(self, slot: int, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions to a slot; returns the logits after the last, (V,) float32."""

    def step(self, tokens: Mapping[int, int]) -> np.ndarray:
        """Appends a token to each of some slots, in one pass.

        Args:
            tokens: by slot; each slot has room.

        Returns:
            (n, V) float32, the logits after each, in the order of `tokens`.
        """

    def rewind(self, slot: int, length: int) -> None:
        """Forgets a slot's positions from `length` on; `length` is at most the present one."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Makes the first positions of one slot those of another, which then holds no more."""


class SlotView:
    """One slot of a decoder, as a `generate.Decoder`.

    Args:
        decoder: whose slot it is.
        slot: which one.
    """

    def __init__(self, decoder: SlotDecoder, slot: int = 0) -> None:
        self._decoder = decoder
        self.slot = slot
        self._ahead: tuple[int, np.ndarray] | None = None  # a token computed before it was asked

    @property
    def context_length(self) -> int:
        """Positions there is room for."""
        return self._decoder.context_length

    @property
    def length(self) -> int:
        """Positions now cached, one that was computed ahead aside."""
        return self._decoder.lengths[self.slot] - (self._ahead is not None)

    def extend(self, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions; returns the logits after the last, (V,) float32."""
        ahead = self._ahead
        if ahead is not None:
            if list(segments) == [(ahead[0],)]:
                self._ahead = None
                return ahead[1]
            self.rewind(self.length)
        match list(segments):
            case [(int(token),)]:  # the same bits as if it had been computed ahead
                logits: np.ndarray = self._decoder.step({self.slot: token})[0]
                return logits
        return self._decoder.extend(self.slot, segments)

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on."""
        self._ahead = None
        self._decoder.rewind(self.slot, length)

    def copy_from(self, other: "SlotView", length: int) -> None:
        """Makes the first positions of another slot those of this one, which then holds no more."""
        self._ahead = None
        self._decoder.copy(other.slot, self.slot, length)

    def keep_ahead(self, token: int, logits: np.ndarray) -> None:
        """Takes the logits (V,) after a token that the slot holds already, for when it comes."""
        self._ahead = (token, logits)


class Slots:
    """All slots of a decoder, each with the record of what it holds.

    Args:
        decoder: whose slots they are.
        are_shared: whether several conversations go on at once; else there is one slot, whose
            prompts are read in one pass.

    Attributes:
        decoders: one for each slot.
    """

    def __init__(self, decoder: SlotDecoder, *, are_shared: bool) -> None:
        self._decoder = decoder
        self._views = [SlotView(decoder, slot) for slot in range(decoder.n_slots)]
        self._shared: list[SharedSlot] = []
        self.decoders: list[TrackedDecoder] = []
        if are_shared:
            self._shared += [SharedSlot(view, self._shared) for view in self._views]
            self.decoders += self._shared
        else:
            self.decoders += [TrackedDecoder(view) for view in self._views]

    def close(self) -> None:
        """Lets go of the decoder, whose gigabytes would wait for the garbage collector else."""
        self.decoders.clear()
        self._shared.clear()  # which each of them holds

    def compute_ahead(self, tokens: Mapping[int, int]) -> None:
        """Computes the next token of several slots in one pass, before their sequences append it.

        Args:
            tokens: that come next, by slot; one that does not come is forgotten again.
        """
        logits = self._decoder.step(tokens)
        for (slot, token), row in zip(tokens.items(), logits, strict=True):
            self._views[slot].keep_ahead(token, row)


class SharedSlot(TrackedDecoder):
    """A slot with its record, which takes what another slot holds already from there.

    Only whole segments are taken over, computed as `generate.divide` cuts them: a prompt comes to
    the same bits whatever was there before, and whoever computed it.

    Args:
        view: of the slot.
        neighbours: all slots of the decoder.
    """

    in_pieces = True

    def __init__(self, view: SlotView, neighbours: "Sequence[SharedSlot]") -> None:
        self._view = view
        self._neighbours = neighbours
        self._ends: set[int] = set()  # of the pieces that were computed
        super().__init__(view)

    def extend(self, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions; returns the logits after the last, (V,) float32."""
        logits = super().extend(segments)
        self._ends.add(len(self._keys))
        return logits

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on."""
        super().rewind(length)
        self._ends = {end for end in self._ends if end <= length}

    def rewind_to_common(self, segments: Sequence[Segment]) -> tuple[list[Segment], int]:
        """Forgets all but the segments that this slot or another begins with, which are copied.

        Args:
            segments: a whole prompt; the last one is left to compute.

        Returns:
            The segments left to `extend`, and the number of positions kept.
        """
        own = [each for each in self._neighbours if each._owner == self._owner]
        best = max(own, key=lambda each: each.count_common(segments))
        n_kept = best.count_common(segments)
        if n_kept > self.count_common(segments):
            # The record is shortened first and lengthened last: an interruption leaves it true.
            self.rewind(0)
            self._view.copy_from(best._view, n_kept)
            self._keys += best._keys[:n_kept]
            self._ends = {end for end in best._ends if end <= n_kept}
        return super().rewind_to_common(segments)

    def count_common(self, segments: Sequence[Segment]) -> int:
        """Counts the positions of a prompt's whole segments, but the last, that are held here."""
        n_common = super().count_common(segments)
        ends = (end for end in accumulate(map(len, segments)) if end <= n_common)
        return max((end for end in ends if end in self._ends), default=0)
