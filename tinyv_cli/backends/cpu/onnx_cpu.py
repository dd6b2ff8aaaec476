"""A variant becomes an image encoder and a decoder that run in onnxruntime on the CPU.

The graphs are fed here, and the cache of keys and values lies here.
"""

import math
import mmap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tinyv_cli.answers.generate import ImageTokens, Segment
from tinyv_cli.backends.backend import (
    Backend,
    BackendOptions,
    OnEncoder,
    resolve_context_length,
    resolve_threads,
)
from tinyv_cli.backends.cpu.onnx_sessions import open_graphs, translate_failures
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.backends.cpu.token_embeddings import TokenEmbeddings, open_token_embeddings
from tinyv_cli.errors import DeviceError, WeightsError
from tinyv_cli.spec import LanguageSpec
from tinyv_cli.variants.manifest import MAKE_AGAIN, Variant
from tinyv_cli.variants.memory import CHUNK_POSITIONS

_LENGTHS = ("last_positions", "total_length")  # inputs of each of the decoder's graphs


class OnnxEncoder:
    """Pixels → image tokens; its sessions are opened when the first picture comes.

    Args:
        open_graphs: opens the sessions, in the order in which they run.
    """

    def __init__(self, open_graphs: Callable[[], list[ort.InferenceSession]]) -> None:
        self._open_graphs = open_graphs
        self._sessions: list[ort.InferenceSession] = []
        self._run_options = _make_run_options()

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Computes the image tokens of pictures.

        Args:
            pixels: (B, 3, S, S) float32, normalised as `image.to_pixels` does it.

        Returns:
            (B, Q, D) float32.

        Raises:
            WeightsError: the runtime cannot read or run a graph.
            DeviceError: memory does not suffice.
        """
        run_options = self._run_options
        sessions = self._sessions or self._open_graphs()
        self._sessions = sessions
        states = pixels
        with translate_failures("cannot run the vision side"):
            for session in sessions:
                states = session.run(None, {session.get_inputs()[0].name: states}, run_options)[0]
        return states

    def close(self) -> None:
        """Frees the sessions, stops another thread's encoding; a next picture opens them anew."""
        self._run_options.terminate = True
        self._run_options = _make_run_options()
        self._sessions = []


def _make_run_options() -> ort.RunOptions:
    """Returns options by which a graph frees its working memory before the next one runs."""
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


class OnnxDecoder:
    """Token ids and image tokens → logits, with keys and values in buffers bound once.

    Args:
        sessions: of the decoder's graphs, in the order in which they run.
        embeddings: the token embeddings.
        spec: the language model's numbers.
        context_length: positions the buffers hold; memory is taken as they fill.
    """

    def __init__(
        self,
        sessions: Sequence[ort.InferenceSession],
        embeddings: TokenEmbeddings,
        spec: LanguageSpec,
        context_length: int,
    ) -> None:
        self.context_length = context_length
        self.length = 0
        self._embeddings = embeddings
        self._last_positions = np.zeros(1, np.int32)
        self._total_length = np.zeros((), np.int32)
        self._logits = np.empty((1, spec.vocab_size), np.float32)
        # What the graphs hand on to one another; one position needs no array of its own.
        self._hidden = np.empty((len(sessions), 1, CHUNK_POSITIONS, spec.width), np.float32)
        self._cache = make_cache(spec, context_length)
        self._graphs = [_BoundGraph(session) for session in sessions]
        for graph in self._graphs:
            graph.bind_input("last_positions", self._last_positions)
            graph.bind_input("total_length", self._total_length)
            for name in graph.cache_names:
                graph.bind_input(f"past_{name}", self._cache[name])
                graph.bind_output(f"present_{name}", self._cache[name])
        self._graphs[-1].bind_output("logits", self._logits)

    def extend(self, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions to the cache.

        Args:
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
        for start in range(0, len(embeddings), CHUNK_POSITIONS):
            chunk = embeddings[start : start + CHUNK_POSITIONS]
            states = self._hidden[:, :, : len(chunk)]  # (graphs, 1, T, D)
            states[0, 0] = chunk
            self.length += len(chunk)
            self._last_positions[0] = self.length - 1
            self._total_length[()] = self.length
            for index, graph in enumerate(self._graphs):
                graph.bind_input(graph.entering, states[index])
                if index + 1 < len(self._graphs):
                    graph.bind_output(graph.leaving, states[index + 1])
                graph.run()
        logits: np.ndarray = self._logits[0].copy()
        return logits

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on."""
        self.length = min(self.length, length)


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


def make_cache(spec: LanguageSpec, context_length: int) -> dict[str, np.ndarray]:
    """Makes the buffers of keys and values, in memory that the system gives page by page.

    NumPy asks for huge pages. A position touches every head, and heads lie 0.6 MB apart, so that
    the first position would make all of the cache resident: 1.3 GB and a second at full size.

    Returns:
        `key.0`, `value.0`, `key.1`, …: (1, H, C, d) float32 each.

    Raises:
        DeviceError: there is no room for them.
    """
    names = _name_caches(spec)
    shape = (len(names), 1, spec.n_heads, context_length, spec.head_width)
    try:
        memory = mmap.mmap(-1, 4 * math.prod(shape))
    except (OSError, OverflowError) as error:
        raise DeviceError(
            f"memory does not suffice for a context of {context_length} positions",
            "use a shorter one: `--ctx-size 512`",
        ) from error
    return dict(zip(names, np.frombuffer(memory, np.float32).reshape(shape), strict=True))


def open_cpu(variant: Variant, options: BackendOptions, on_encoder: OnEncoder) -> Backend:
    """Opens a variant on the CPU: the decoder now, the vision side with the first picture.

    Args:
        variant: a variant whose files have been checked.
        options: threads and context.
        on_encoder: is given the encoder before the decoder is opened.

    Raises:
        UsageError: the context is longer than the model's, or threads make no sense.
        WeightsError: the runtime cannot read the variant's files, or they are not what its
            manifest says.
        DeviceError: memory does not suffice.
    """
    started = time.perf_counter()
    spec = variant.manifest.spec.language
    context_length = resolve_context_length(options.context_length, spec)
    threads = resolve_threads(options.threads, options.notify)
    scales = variant.path("embeddings-scales") if variant.has("embeddings-scales") else None
    embeddings = open_token_embeddings(variant.path("embeddings"), scales, spec.width)
    encoder = OnnxEncoder(lambda: open_graphs(variant.graphs("vision"), threads))
    on_encoder(encoder, "cpu")
    try:
        sessions = open_graphs(variant.graphs("decoder"), threads)
        _check_decoder(sessions, spec, variant.path("decoder"))
        decoder = OnnxDecoder(sessions, embeddings, spec, context_length)
    except BaseException:
        encoder.close()
        raise
    return Backend(encoder, decoder, "cpu", time.perf_counter() - started, encoder.close)


def _check_decoder(
    sessions: Sequence[ort.InferenceSession], spec: LanguageSpec, path: Path
) -> None:
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
