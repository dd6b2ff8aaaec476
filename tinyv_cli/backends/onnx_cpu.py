"""A variant becomes an image encoder and a decoder that run in onnxruntime on the CPU.

Knows how the graphs are fed and where the cache lies; no text, no picture file.
"""

import math
import mmap
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort

from tinyv_cli.backends import Backend, BackendOptions, Meanwhile
from tinyv_cli.backends.onnx_sessions import open_session
from tinyv_cli.backends.packed import resolve_graph
from tinyv_cli.backends.threads import resolve_threads
from tinyv_cli.backends.token_embeddings import TokenEmbeddings, open_token_embeddings
from tinyv_cli.errors import UsageError
from tinyv_cli.generate import ImageTokens, Segment
from tinyv_cli.manifest import Variant
from tinyv_cli.spec import LanguageSpec

# Positions computed at once: bounds the score matrices of a long prompt, H · T · C float32.
_CHUNK_POSITIONS = 256


class OnnxEncoder:
    """Pixels → image tokens; its session is opened when the first picture comes.

    Args:
        open_graph: opens the session.
    """

    def __init__(self, open_graph: Callable[[], ort.InferenceSession]) -> None:
        self._open_graph = open_graph
        self._session: ort.InferenceSession | None = None
        self._run_options = ort.RunOptions()

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Computes the image tokens of pictures.

        Args:
            pixels: (B, 3, S, S) float32, normalised as `image.to_pixels` does it.

        Returns:
            (B, Q, D) float32.

        Raises:
            WeightsError: the runtime cannot read the graph.
        """
        run_options = self._run_options
        if self._session is None:
            self._session = self._open_graph()
        tokens: np.ndarray = self._session.run(None, {"pixels": pixels}, run_options)[0]
        return tokens

    def close(self) -> None:
        """Frees the session, and stops what another thread encodes; the next picture opens anew."""
        self._run_options.terminate = True
        self._run_options = ort.RunOptions()
        self._session = None


class OnnxDecoder:
    """Token ids and image tokens → logits, with keys and values in buffers bound once.

    Args:
        session: of `decoder.onnx`.
        embeddings: the token embeddings.
        spec: the language model's numbers.
        context_length: positions the buffers hold; memory is taken as they fill.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        embeddings: TokenEmbeddings,
        spec: LanguageSpec,
        context_length: int,
    ) -> None:
        self.context_length = context_length
        self.length = 0
        self._session = session
        self._embeddings = embeddings
        self._width = spec.width
        self._last_positions = np.zeros(1, np.int32)
        self._total_length = np.zeros((), np.int32)
        self._logits = np.empty((1, spec.vocab_size), np.float32)
        self._token = np.empty((1, 1, spec.width), np.float32)
        self._cache = make_cache(spec, context_length)
        self._binding = session.io_binding()
        self._bind_buffers()

    def extend(self, segments: Sequence[Segment]) -> np.ndarray:
        """Appends positions to the cache.

        Args:
            segments: token ids and image tokens, at least one position, no more than fit.

        Returns:
            (V,) float32 logits after the last position.
        """
        embeddings = np.concatenate([self._to_embeddings(segment) for segment in segments])
        for start in range(0, len(embeddings), _CHUNK_POSITIONS):
            self._run(embeddings[start : start + _CHUNK_POSITIONS])
        logits: np.ndarray = self._logits[0].copy()
        return logits

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on."""
        self.length = min(self.length, length)

    def _to_embeddings(self, segment: Segment) -> np.ndarray:
        """(T, D) float32 of one segment."""
        if isinstance(segment, ImageTokens):
            return segment.embeddings
        return self._embeddings.rows(segment)

    def _run(self, embeddings: np.ndarray) -> None:
        """Computes (T, D) embeddings; keys, values and logits land in the bound buffers."""
        n_new = len(embeddings)
        if n_new == 1:
            self._token[0] = embeddings
            self._bind_array("embeddings", self._token)
        else:
            self._bind_array("embeddings", np.ascontiguousarray(embeddings[None]))
        self.length += n_new
        self._last_positions[0] = self.length - 1
        self._total_length[()] = self.length
        self._session.run_with_iobinding(self._binding)

    def _bind_buffers(self) -> None:
        """Binds every buffer that stays where it is."""
        self._bind_array("last_positions", self._last_positions)
        self._bind_array("total_length", self._total_length)
        self._binding.bind_output(
            "logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data
        )
        for name, buffer in self._cache.items():
            self._bind_array(f"past_{name}", buffer)
            self._binding.bind_output(
                f"present_{name}", "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data
            )

    def _bind_array(self, name: str, array: np.ndarray) -> None:
        """Binds an input to an array's memory; the array must outlive the run."""
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def make_cache(spec: LanguageSpec, context_length: int) -> dict[str, np.ndarray]:
    """Makes the buffers of keys and values, in memory that the system gives page by page.

    NumPy asks for huge pages. A position touches every head, and heads lie 0.6 MB apart, so that
    the first position would make all of the cache resident: 1.3 GB and a second at full size.

    Returns:
        `key.0`, `value.0`, `key.1`, …: (1, H, C, d) float32 each.
    """
    names = [f"{kind}.{layer}" for layer in range(spec.n_layers) for kind in ("key", "value")]
    shape = (len(names), 1, spec.n_heads, context_length, spec.head_width)
    memory = mmap.mmap(-1, 4 * math.prod(shape))
    return dict(zip(names, np.frombuffer(memory, np.float32).reshape(shape), strict=True))


def open_cpu(
    variant: Variant,
    options: BackendOptions,
    notify: Callable[[str], None],
    meanwhile: Meanwhile,
) -> Backend:
    """Opens a variant on the CPU: the decoder now, the vision side with the first picture.

    Args:
        variant: a variant whose files have been checked.
        options: threads and context.
        notify: takes one line for the user.
        meanwhile: is given the encoder before the decoder is opened.

    Raises:
        UsageError: the context is longer than the model's, or threads make no sense.
        WeightsError: the runtime cannot read the variant's files.
    """
    started = time.perf_counter()
    spec = variant.manifest.spec.language
    context_length = options.context_length
    if context_length is None:
        context_length = spec.context_length
    if not 0 < context_length <= spec.context_length:
        raise UsageError(
            f"a context of {context_length} positions does not fit this model",
            f"use `--ctx-size` with 1 to {spec.context_length}",
        )
    threads = resolve_threads(options.threads)

    def open_part(role: str) -> ort.InferenceSession:
        return open_session(resolve_graph(variant, role, threads, notify), threads)

    roles = {entry.role for entry in variant.manifest.files}
    embeddings = open_token_embeddings(
        variant.path("embeddings"),
        variant.path("embeddings-scales") if "embeddings-scales" in roles else None,
        spec.width,
    )
    encoder = OnnxEncoder(lambda: open_part("vision"))
    meanwhile(encoder, "cpu")
    try:
        decoder = OnnxDecoder(open_part("decoder"), embeddings, spec, context_length)
    except BaseException:
        encoder.close()
        raise
    return Backend(encoder, decoder, "cpu", time.perf_counter() - started, encoder.close)
