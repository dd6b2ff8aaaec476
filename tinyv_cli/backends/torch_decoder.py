"""One token becomes the next position's logits, in a step that a card replays; knows no text.

A prompt goes through the network in one pass. A single token takes a step whose tensors all stay
where they are: its id and its place are written into one of them, the logits come out of another.
On a card the step is recorded once as a CUDA graph, since starting some thousand small kernels
takes longer than running them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tinyv_cli.backends.torch_device import TorchDevice
from tinyv_cli.generate import Segment
from tinyv_cli.model.cache import PlacedCache
from tinyv_cli.model.decoder import TorchDecoder
from tinyv_cli.model.phi import PhiLanguage

# Positions that the shortest step reads; each further one reads twice as many. A step's time is in
# part that of the cache it reads, and most answers are over before they fill the first.
FIRST_SPAN = 512
_WARM_UPS = 2  # runs before recording, in which libraries take their workspaces


class StepDecoder(TorchDecoder):
    """Reads prompts in one pass and single tokens in a step of fixed shapes.

    Args:
        language: on its device; its final norm tells where that is.
        context_length: positions there is room for.
        device: the same; its dtype is that of keys and values.
        use_graphs: whether steps are recorded; only on a card.
        first_span: see `FIRST_SPAN`.
    """

    def __init__(
        self,
        language: PhiLanguage,
        context_length: int,
        device: TorchDevice,
        *,
        use_graphs: bool,
        first_span: int = FIRST_SPAN,
    ) -> None:
        super().__init__(language, context_length, device.dtype)
        self._device = device
        n_tokens = language.spec.vocab_size
        self._token_and_place = torch.zeros(2, dtype=torch.long, device=device.name)
        self._logits = torch.zeros(n_tokens, device=device.name)
        self._host_token_and_place = torch.zeros(2, dtype=torch.long, pin_memory=device.is_card)
        self._host_logits = torch.zeros(n_tokens, pin_memory=device.is_card)
        self._use_graphs = use_graphs
        self._first_span = first_span
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by the positions they read

    @torch.no_grad()
    def prepare(self) -> None:
        """Records the shortest step, before anything is cached; else the first token does it."""
        if self._use_graphs and not self.length:
            self._record(self._choose_span(0))

    def _compute(self, segments: Sequence[Segment]) -> Tensor:
        """The logits after the last position, (V,)."""
        with self._device.tell_memory("reading the prompt"):
            match list(segments):
                case [(int(token),)]:
                    return self._step(token)
            return super()._compute(segments)

    def _step(self, token: int) -> Tensor:
        """Appends one token; the logits on the host, (V,) float32."""
        place = self.length
        span = self._choose_span(place)
        self._host_token_and_place[0] = token
        self._host_token_and_place[1] = place
        self._token_and_place.copy_(self._host_token_and_place, non_blocking=True)
        if self._use_graphs:
            if span not in self._graphs:
                self._record(span)
            self._graphs[span].replay()
        else:
            self._run(span)
        self._host_logits.copy_(self._logits, non_blocking=True)
        if self._device.is_card:
            torch.cuda.current_stream(self._device.name).synchronize()
        self._cache.advance(1)
        return self._host_logits.clone()  # the next step writes over them

    def _choose_span(self, place: int) -> int:
        """How many positions a step at this place reads: the first span, doubled until it fits."""
        span = self._first_span
        while span <= place:
            span *= 2
        return min(span, self.context_length)

    def _run(self, span: int) -> None:
        """Computes from the one tensor into the other; the same kernels for any token and place."""
        token, place = self._token_and_place[:1], self._token_and_place[1:]  # (1,) each
        embeddings = self._language.embed_tokens(token)[None].to(self._like)  # (1, 1, D)
        cache = PlacedCache(self._cache, place, span)
        hidden = self._language.compute_hidden(embeddings, cache)
        self._logits.copy_(self._language.lm_head(hidden[0, -1]))

    def _record(self, span: int) -> None:
        """Records the step as a graph.

        The runs before it write keys and values where the step itself will write the same, and
        recording computes nothing.
        """
        device = self._device
        graph = torch.cuda.CUDAGraph()
        with device.lock, torch.cuda.device(device.name):
            current = torch.cuda.current_stream()
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._run(span)
            current.wait_stream(stream)
            pool = next((each.pool() for each in self._graphs.values()), None)
            # Other threads may go on copying weights, which the default mode would not let them.
            with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                self._run(span)
        self._graphs[span] = graph
