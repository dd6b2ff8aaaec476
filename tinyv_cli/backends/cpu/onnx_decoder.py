"""Token ids and image tokens become logits in onnxruntime, for one sequence or several at once.

The graphs are fed here, and the caches of keys and values lie here.
"""

import math
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tinyv_cli.answers.generate import ImageTokens, Segment
from tinyv_cli.backends.cpu.onnx_sessions import translate_failures
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.backends.cpu.token_embeddings import TokenEmbeddings
from tinyv_cli.errors import DeviceError, WeightsError
from tinyv_cli.spec import LanguageSpec
from tinyv_cli.variants.manifest import MAKE_AGAIN
from tinyv_cli.variants.memory import CHUNK_POSITIONS

_LENGTHS = ("last_positions", "total_length")  # inputs of each of the decoder's graphs


class OnnxDecoder:
    """A `SlotDecoder` with keys and values in buffers bound once.

    Steps of several slots go through in pairs of rows. The runtime multiplies single rows by
    another kernel than pairs, whose sums differ in the last bits: so a slot's logits do not depend
    on how many others there are. A sequence alone takes the single row, which is faster.

    Args:
        sessions: of the decoder's graphs, in the order in which they run.
        embeddings: the token embeddings.
        spec: the language model's numbers.
        context_length: positions a slot holds; memory is taken as they fill.
        n_slots: None for one sequence alone.

    Attributes:
        context_length: positions a slot holds.
        n_slots: sequences there is room for.
        lengths: positions cached, by slot; a last one where the slots are padded to pairs.
    """

    def __init__(
        self,
        sessions: Sequence[ort.InferenceSession],
        embeddings: TokenEmbeddings,
        spec: LanguageSpec,
        context_length: int,
        n_slots: int | None = None,
    ) -> None:
        self.context_length = context_length
        self.n_slots = n_slots or 1
        self._step_rows = 2 if n_slots else 1
        n_rows = _round_up(self.n_slots, self._step_rows)
        self.lengths = [0] * n_rows
        self._rows = list(range(n_rows))  # where each slot lies in the cache
        self._sessions = sessions
        self._embeddings = embeddings
        self._last_positions = np.zeros(n_rows, np.int32)
        self._total_length = np.zeros((), np.int32)
        self._logits = np.empty((n_rows, spec.vocab_size), np.float32)
        # What the graphs hand on to one another; a step needs no array of its own.
        width = max(CHUNK_POSITIONS, n_rows)
        self._hidden = np.empty((len(sessions), width, spec.width), np.float32)
        self._cache = make_cache(spec, context_length, n_rows)
        self._bound: dict[tuple[int, int], list[_BoundGraph]] = {}  # by first row and their number

    def extend(self, slot: int, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions to a slot.

        Args:
            slot: below `n_slots`.
            segments: token ids and image tokens, at least one position, no more than fit.

        Returns:
            (V,) float32 logits after the last position.

        Raises:
            WeightsError: the runtime cannot run a graph.
            DeviceError: memory does not suffice.
        """
        embeddings = np.concatenate(
            [
                each.embeddings if isinstance(each, ImageTokens) else self._embeddings.rows(each)
                for each in segments
            ]
        )  # (T, D)
        row = self._rows[slot]
        for start in range(0, len(embeddings), CHUNK_POSITIONS):
            chunk = embeddings[start : start + CHUNK_POSITIONS]
            self.lengths[slot] += len(chunk)
            self._last_positions[row] = self.lengths[slot] - 1
            self._run(row, 1, chunk[None])
        logits: np.ndarray = self._logits[row].copy()
        return logits

    def step(self, tokens: Mapping[int, int]) -> np.ndarray:
        """Appends a token to each of some slots, in one pass.

        Args:
            tokens: by slot; each slot has room.

        Returns:
            (n, V) float32, the logits after each, in the order of `tokens`.

        Raises:
            WeightsError: the runtime cannot run a graph.
            DeviceError: memory does not suffice.
        """
        n_rows = self._gather(tokens)
        used = [self._rows[slot] for slot in tokens]
        found = self._embeddings.rows(list(tokens.values()))  # (n, D)
        embeddings = np.repeat(found[:1], n_rows, axis=0)
        embeddings[used] = found
        for slot, row in enumerate(self._rows):
            if slot in tokens:
                self.lengths[slot] += 1
                self._last_positions[row] = self.lengths[slot] - 1
            elif row < n_rows:
                # Behind what it holds, where its own next position will be written over it.
                self.lengths[slot] = min(self.lengths[slot], self.context_length - 1)
                self._last_positions[row] = self.lengths[slot]
        self._run(0, n_rows, embeddings[:, None])
        logits: np.ndarray = self._logits[used]
        return logits

    def rewind(self, slot: int, length: int) -> None:
        """Forgets a slot's positions from `length` on."""
        self.lengths[slot] = min(self.lengths[slot], length)

    def copy(self, source: int, target: int, length: int) -> None:
        """Makes the first positions of one slot those of another, which then holds no more."""
        self.lengths[target] = 0
        into, out_of = self._rows[target], self._rows[source]
        for each in self._cache.values():
            each[into, :, :length] = each[out_of, :, :length]
        self.lengths[target] = length

    def _gather(self, slots: Mapping[int, int]) -> int:
        """Brings slots to the first rows, where that saves rows; returns how many rows to run."""
        n_rows = _round_up(len(slots), self._step_rows)
        span = _round_up(1 + max(self._rows[slot] for slot in slots), self._step_rows)
        if span == n_rows:
            return n_rows
        inside = [slot for slot, row in enumerate(self._rows) if row < n_rows and slot not in slots]
        outside = [slot for slot in slots if self._rows[slot] >= n_rows]
        for here, there in zip(inside, outside, strict=False):
            pair = [self._rows[here], self._rows[there]]
            n_held = max(self.lengths[here], self.lengths[there])
            for each in self._cache.values():
                each[pair, :, :n_held] = each[pair[::-1], :, :n_held]
            self._rows[here], self._rows[there] = self._rows[there], self._rows[here]
        return n_rows

    def _run(self, first_row: int, n_rows: int, embeddings: np.ndarray) -> None:
        """Computes the logits of neighbouring rows from embeddings (n_rows, T, D)."""
        rows = slice(first_row, first_row + n_rows)
        self._total_length[()] = self._last_positions[rows].max() + 1
        shape = embeddings.shape
        states = self._hidden[:, : shape[0] * shape[1]].reshape(-1, *shape)
        states[0] = embeddings
        graphs = self._bound.get((first_row, n_rows)) or self._bind(first_row, n_rows)
        for index, graph in enumerate(graphs):
            graph.bind_input(graph.entering, states[index])
            if index + 1 < len(graphs):
                graph.bind_output(graph.leaving, states[index + 1])
            graph.run()

    def _bind(self, first_row: int, n_rows: int) -> "list[_BoundGraph]":
        """Binds all that stays where it is when the graphs run for some rows."""
        rows = slice(first_row, first_row + n_rows)
        graphs = [_BoundGraph(session) for session in self._sessions]
        for graph in graphs:
            graph.bind_input("last_positions", self._last_positions[rows])
            graph.bind_input("total_length", self._total_length)
            for name in graph.cache_names:
                graph.bind_input(f"past_{name}", self._cache[name][rows])
                graph.bind_output(f"present_{name}", self._cache[name][rows])
        graphs[-1].bind_output("logits", self._logits[rows])
        self._bound[first_row, n_rows] = graphs
        return graphs


class _BoundGraph:
    """A session whose inputs and outputs lie in arrays of the caller, which must outlive a run.

    Attributes:
        entering: name of the hidden states that it reads.
        leaving: name of those that it computes.
        cache_names: of the keys and values that it extends: `key.0`, `value.0`, …
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        names = [value.name for value in session.get_inputs()]
        self.entering = names[0]
        self.leaving = session.get_outputs()[0].name
        self.cache_names = [name[len("past_") :] for name in names if name.startswith("past_")]
        self._session = session
        self._binding = session.io_binding()

    def bind_input(self, name: str, array: np.ndarray) -> None:
        """Binds an input to an array's memory."""
        with translate_failures("cannot run the decoder"):
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def bind_output(self, name: str, array: np.ndarray) -> None:
        """Binds an output to an array's memory."""
        with translate_failures("cannot run the decoder"):
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self) -> None:
        """Computes the outputs."""
        with translate_failures("cannot run the decoder"):
            self._session.run_with_iobinding(self._binding)


def make_cache(spec: LanguageSpec, context_length: int, n_rows: int = 1) -> dict[str, np.ndarray]:
    """Makes the buffers of keys and values, in memory that the system gives page by page.

    NumPy asks for huge pages. A position touches every head, and heads lie 0.6 MB apart, so that
    the first position would make all of the cache resident: 1.3 GB and a second at full size.

    Returns:
        `key.0`, `value.0`, `key.1`, …: (n_rows, H, C, d) float32 each.

    Raises:
        DeviceError: there is no room for them.
    """
    names = _name_caches(spec)
    shape = (len(names), n_rows, spec.n_heads, context_length, spec.head_width)
    try:
        memory = mmap.mmap(-1, 4 * math.prod(shape))
    except (OSError, OverflowError) as error:
        raise DeviceError(
            f"memory does not suffice for a context of {context_length} positions",
            "use a shorter one: `--ctx-size 512`",
        ) from error
    return dict(zip(names, np.frombuffer(memory, np.float32).reshape(shape), strict=True))


def check_decoder(sessions: Sequence[ort.InferenceSession], spec: LanguageSpec, path: Path) -> None:
    """Compares what the decoder's graphs read and compute with the model's numbers.

    Args:
        sessions: of the graphs, in the order in which they run.
        spec: the numbers.
        path: of the first graph, for messages.

    Raises:
        WeightsError: a name, a type or a shape differs.
    """
    floats = "tensor(float)"
    found: set[tuple[str, str, tuple[int, ...]]] = set()
    expected: set[tuple[str, str, tuple[int, ...]]]
    expected = {(name, "tensor(int32)", ()) for name in _LENGTHS}
    for session in sessions:
        values = [*session.get_inputs(), *session.get_outputs()]
        for each in values:
            fixed = tuple(size for size in each.shape if isinstance(size, int))
            found.add((each.name, each.type, fixed))
        ends = (session.get_inputs()[0].name, session.get_outputs()[0].name)
        expected |= {(name, floats, (spec.width,)) for name in ends if name != "logits"}
    expected.add(("logits", floats, (spec.vocab_size,)))
    for side in ("past", "present"):
        names = _name_caches(spec)
        expected |= {(f"{side}_{name}", floats, (spec.n_heads, spec.head_width)) for name in names}
    if found != expected:
        name, kind, shape = min(found ^ expected)
        raise WeightsError(
            f"{path} is not the decoder that its manifest describes: see {name}, {kind} {shape}",
            MAKE_AGAIN,
        )


def _name_caches(spec: LanguageSpec) -> list[str]:
    """Names the keys and values of each layer."""
    return [f"{kind}.{layer}" for layer in range(spec.n_layers) for kind in ("key", "value")]


def _round_up(n: int, step: int) -> int:
    """Returns the least multiple of a step that is not below a number."""
    return -(-n // step) * step
