"""One token becomes the next position's logits, in a step that a GPU replays.

A prompt goes through the network in a few passes. A single token takes a step whose tensors all
stay where they are: its embedding and its position are written into one of them, the logits come
out of another. On a GPU the step is recorded once as a CUDA graph, since starting some thousand
small kernels takes longer than running them.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tinyv_cli.answers.generate import Segment
from tinyv_cli.backends.cuda.torch_device import TorchDevice
from tinyv_cli.model.cache import StaticCache
from tinyv_cli.model.decoder import TorchDecoder
from tinyv_cli.model.phi import PhiLanguage
from tinyv_cli.variants.memory import CUDA_CHUNK_POSITIONS

# Positions that the shortest step reads; each further one reads twice as many. A step reads all of
# them, masked: at 2,048 positions 671 MB a token, beside 1.4 GB of weights at 4 bits. Most answers
# are over before they fill the first.
FIRST_SPAN = 512
_POSITION_BYTES = 8
_WARM_UPS = 2  # runs before recording, in which libraries take their workspaces


class StepInput:
    """The inputs of a step, in one piece of memory, so that one copy brings it to a GPU.

    Attributes:
        whole: (8 + 4 · D,) uint8, the memory.
        position: (1,) int64, the token's position id.
        embedding: (1, 1, D) float32, the token's.
    """

    def __init__(self, width: int, device: str = "cpu", *, is_pinned: bool = False) -> None:
        n_bytes = _POSITION_BYTES + 4 * width
        self.whole = torch.zeros(n_bytes, dtype=torch.uint8, device=device, pin_memory=is_pinned)
        self.position = self.whole[:_POSITION_BYTES].view(torch.int64)
        self.embedding = self.whole[_POSITION_BYTES:].view(torch.float32)[None, None]


class StepDecoder(TorchDecoder):
    """Reads prompts a few hundred positions at once and single tokens in a step of fixed shapes.

    Args:
        language: on its device; the device is that of its final norm.
        context_length: positions there is room for.
        device: the same, with the dtype of keys and values.
        use_graphs: whether steps are recorded; only on a GPU.
        first_span: see `FIRST_SPAN`.
        notify: takes a line if steps cannot be recorded.
    """

    def __init__(
        self,
        language: PhiLanguage,
        context_length: int,
        device: TorchDevice,
        *,
        use_graphs: bool,
        first_span: int = FIRST_SPAN,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(language, context_length, device.dtype, CUDA_CHUNK_POSITIONS)
        self._device = device
        width, n_tokens = language.spec.width, language.spec.vocab_size
        self._input = StepInput(width, device.name)
        self._logits = torch.zeros(n_tokens, device=device.name)
        self._host_input = StepInput(width, is_pinned=device.is_cuda)
        self._host_logits = torch.zeros(n_tokens, pin_memory=device.is_cuda)
        self._use_graphs = use_graphs
        self._first_span = first_span
        self._notify = notify
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by the positions they read
        self._stream: torch.cuda.Stream | None = None  # of all records: they share one memory pool

    @torch.no_grad()
    def prepare(self) -> None:
        """Records the shortest step, before anything is cached; else the first token does it."""
        if self._use_graphs and not self.length:
            self._record(self._choose_span(0))

    def _compute(self, segments: Sequence[Segment]) -> Tensor:
        """Computes the logits after the last position, (V,)."""
        with self._device.translate_errors("reading the prompt"):
            match list(segments):
                case [(int(token),)]:
                    return self._step(token)
            return super()._compute(segments)

    def _step(self, token: int) -> Tensor:
        """Appends one token; returns the logits on the host, (V,) float32."""
        span = self._choose_span(self.length)
        self._host_input.position[0] = self.length
        self._host_input.embedding.copy_(self._look_up((token,)))
        self._input.whole.copy_(self._host_input.whole, non_blocking=True)
        if self._use_graphs and span not in self._graphs:
            self._record(span)
        if span in self._graphs:
            self._graphs[span].replay()
        else:
            self._run(span)
        self._host_logits.copy_(self._logits, non_blocking=True)
        if self._device.is_cuda:
            torch.cuda.current_stream(self._device.number).synchronize()
        self._cache.advance(1)
        return self._host_logits.clone()  # the next step writes over them

    def _choose_span(self, position: int) -> int:
        """Returns how many positions a step reads: the first span, doubled until it fits."""
        span = self._first_span
        while span <= position:
            span *= 2
        return min(span, self.context_length)

    def _run(self, span: int) -> None:
        """Computes from the one tensor into the other, by the same kernels for any token."""
        cache = StaticCache(self._cache, self._input.position, span)
        hidden = self._language.compute_hidden(self._input.embedding.to(self._like), cache)
        self._logits.copy_(self._language.lm_head(hidden[:, -1])[0])

    def _record(self, span: int) -> None:
        """Records the step as a graph; if that fails, steps run unrecorded from then on.

        The runs before it write keys and values where the step itself will write the same, and
        recording computes nothing.
        """
        with self._device.lock, torch.cuda.device(self._device.number):
            current = torch.cuda.current_stream()
            stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._stream = stream
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._run(span)
            current.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            pool = next((each.pool() for each in self._graphs.values()), None)
            # Other threads may go on copying weights, which the default mode would not let them.
            # What the garbage collector ends meanwhile, as an older record, would spoil this one.
            mode = "thread_local"
            try:
                with (
                    _pause_collector(),
                    torch.cuda.graph(graph, pool, stream, capture_error_mode=mode),
                ):
                    self._run(span)
                self._graphs[span] = graph
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # right and slow, rather than not at all
                self._use_graphs = False
                reason = str(error).partition("\n")[0]
                self._notify(f"the GPU's steps cannot be recorded, answers take longer: {reason}")
            finally:
                torch.cuda.set_stream(current)  # a recording that fails leaves its own behind


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
