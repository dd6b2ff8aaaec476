"""A token of each sequence becomes the next logits, in a step that a GPU replays.

A prompt goes through the network in a few passes. Single tokens take a step whose tensors all
stay where they are: embeddings and positions are written into one of them, the logits come out of
another. On a GPU the step is recorded as a CUDA graph once it has run a few times, since starting
some thousand small kernels takes longer than running them; a short answer does without.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from tinyv_cli.answers.generate import Segment
from tinyv_cli.backends.cuda.torch_device import TorchDevice, ran_out_of_memory, to_line
from tinyv_cli.model.cache import KeyValueCache, SlotCache, StaticCache
from tinyv_cli.model.decoder import TorchDecoder
from tinyv_cli.model.phi import PhiLanguage
from tinyv_cli.variants.memory import CUDA_CHUNK_POSITIONS

# Positions that the shortest step reads; each further one reads twice as many. A step reads all of
# them, masked: at 2,048 positions 671 MB a token, beside 1.4 GB of weights at 4 bits. Most answers
# are over before they fill the first.
FIRST_SPAN = 512
_POSITION_BYTES = 8
_WARM_UPS = 3  # steps before recording, in which libraries load kernels and take workspaces


class StepInput:
    """The inputs of a step, in one piece of memory, so that one copy brings it to a GPU.

    Attributes:
        whole: (S · (8 + 4 · D),) uint8, the memory.
        positions: (S,) int64, the tokens' position ids.
        embeddings: (S, 1, D) float32, the tokens'.
    """

    def __init__(
        self, n_slots: int, width: int, device: str = "cpu", *, is_pinned: bool = False
    ) -> None:
        n_position_bytes = n_slots * _POSITION_BYTES
        n_bytes = n_position_bytes + n_slots * 4 * width
        self.whole = torch.zeros(n_bytes, dtype=torch.uint8, device=device, pin_memory=is_pinned)
        self.positions = self.whole[:n_position_bytes].view(torch.int64)
        embeddings = self.whole[n_position_bytes:].view(torch.float32)
        self.embeddings = embeddings.view(n_slots, 1, width)


class StepDecoder:
    """A `SlotDecoder`: prompts a few hundred positions at once, tokens in a step of fixed shapes.

    A step computes all slots, however few are asked for: products of other shapes are summed in
    another order, and a slot's logits are not to depend on its neighbours.

    Args:
        language: on its device; the device is that of its final norm.
        cache: an empty one, on the same device.
        device: the same.
        use_graphs: whether steps are recorded; only on a GPU.
        first_span: see `FIRST_SPAN`.
        notify: takes a line if steps cannot be recorded.

    Attributes:
        n_slots: sequences there is room for.
    """

    def __init__(
        self,
        language: PhiLanguage,
        cache: KeyValueCache,
        device: TorchDevice,
        *,
        use_graphs: bool,
        first_span: int = FIRST_SPAN,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        n_slots = len(cache.lengths)
        self.n_slots = n_slots
        self._language = language
        self._device = device
        self._like = language.final_layernorm.weight
        self._cache = cache
        chunk = CUDA_CHUNK_POSITIONS
        self._readers = [
            TorchDecoder(language, cache=SlotCache(cache, slot), chunk_positions=chunk)
            for slot in range(n_slots)
        ]
        width, n_tokens = language.spec.width, language.spec.vocab_size
        self._input = StepInput(n_slots, width, device.name)
        self._logits = torch.zeros(n_slots, n_tokens, device=device.name)
        self._host_input = StepInput(n_slots, width, is_pinned=device.is_cuda)
        self._host_logits = torch.zeros(n_slots, n_tokens, pin_memory=device.is_cuda)
        self._use_graphs = use_graphs
        self._first_span = first_span
        self._notify = notify
        self._n_steps: Counter[int] = Counter()  # by the positions they read
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}  # likewise
        self._has_failed = False  # to be recorded
        # Of all steps: records that share a pool of memory are of one stream, on which libraries
        # have taken their workspaces before.
        self._stream = device.make_stream()
        self._pool: torch.cuda._POOL_HANDLE | None = None

    @property
    def context_length(self) -> int:
        """Returns the number of positions that a slot has room for."""
        return self._cache.context_length

    @property
    def lengths(self) -> Sequence[int]:
        """Returns the number of positions cached, by slot."""
        return self._cache.lengths

    def extend(self, slot: int, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions to a slot.

        Args:
            slot: below `n_slots`.
            segments: token ids and image tokens in their order; at least one position.

        Returns:
            Logits after the last position, (V,) float32.

        Raises:
            DeviceError: memory does not suffice.
            ValueError: there are no positions, or more than there is room for.
        """
        with self._device.translate_errors("reading the prompt"):
            return self._readers[slot].extend(segments)

    def rewind(self, slot: int, length: int) -> None:
        """Forgets a slot's positions from `length` on.

        Raises:
            ValueError: `length` is negative or beyond the cached positions.
        """
        self._readers[slot].rewind(length)

    def copy(self, source: int, target: int, length: int) -> None:
        """Makes the first positions of one slot those of another, which then holds no more."""
        self._cache.copy(source, target, length)

    @torch.no_grad()
    def step(self, tokens: Mapping[int, int]) -> np.ndarray:
        """Appends a token to each of some slots.

        Args:
            tokens: by slot.

        Returns:
            (n, V) float32, the logits after each, in the order of `tokens`.

        Raises:
            DeviceError: memory does not suffice, or cannot be freed any more.
            ValueError: a slot has no room.
        """
        lengths, slots = self._cache.lengths, list(tokens)
        longest = max(lengths[slot] for slot in slots)
        if longest >= self.context_length:
            raise ValueError(f"1 positions after {longest} of {self.context_length}")
        with self._device.translate_errors("answering"):
            # A slot that has no turn writes behind what it holds, where its next position will.
            for slot, length in enumerate(lengths):
                lengths[slot] = min(length, self.context_length - 1)
            self._host_input.positions.copy_(torch.tensor(lengths))
            embeddings = self._readers[0].look_up(list(tokens.values()))
            self._host_input.embeddings[slots] = embeddings[:, None]
            try:
                with self._device.use_stream(self._stream):
                    if self._stream is not None:  # prompts and copies of slots run on another
                        self._stream.wait_stream(torch.cuda.default_stream(self._device.number))
                    self._input.whole.copy_(self._host_input.whole, non_blocking=True)
                    self._compute(self._choose_span(max(lengths)))
                    self._host_logits.copy_(self._logits, non_blocking=True)
            finally:  # after Ctrl-C, too: the next step writes where copies may still read
                if self._stream is not None:
                    self._stream.synchronize()
            for slot in slots:
                lengths[slot] += 1
            logits: np.ndarray = self._host_logits[slots].numpy()  # a copy of those rows
        return logits

    def _choose_span(self, position: int) -> int:
        """Returns how many positions a step reads: the first span, doubled until it fits."""
        span = self._first_span
        while span <= position:
            span *= 2
        return min(span, self.context_length)

    def _run(self, span: int) -> None:
        """Computes from the one tensor into the other, by the same kernels for any token."""
        cache = StaticCache(self._cache, self._input.positions, span)
        hidden = self._language.compute_hidden(self._input.embeddings.to(self._like), cache)
        self._logits.copy_(self._language.lm_head(hidden[:, -1]))

    def _compute(self, span: int) -> None:
        """Replays the step, which is recorded when it runs for the fourth time, or runs it."""
        if self._use_graphs and self._n_steps[span] == _WARM_UPS:
            self._record(span)
        self._n_steps[span] += 1
        if span in self._graphs:
            self._graphs[span].replay()
        else:
            self._run(span)

    def _record(self, span: int) -> None:
        """Records the step as a graph, which computes nothing; if that fails, steps run unrecorded.

        Where memory ran out those of this span do, else all that are not recorded yet.
        """
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with self._device.lock, torch.cuda.device(self._device.number):
            # Other threads may go on copying weights, which the default mode would not let them.
            # What the garbage collector ends meanwhile, as an older record, would spoil this one.
            mode = "thread_local"
            try:
                with (
                    _pause_collector(),
                    torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode),
                ):
                    self._run(span)
            except RuntimeError as error:  # right and slow, rather than not at all
                self._use_graphs = ran_out_of_memory(error)
                reason = to_line(error)
            else:
                self._graphs[span] = graph
                return
            self._device.leave_recording(graph, self._pool)
        if not self._has_failed:
            self._has_failed = True
            self._notify(f"the GPU's steps cannot be recorded, answers take longer: {reason}")


@contextmanager
def _pause_collector() -> Iterator[None]:
    """Turns the garbage collector off, if it is on, and on again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
