"""A variant becomes an image encoder and a decoder that run in onnxruntime on the CPU."""

import time
from collections.abc import Callable

import numpy as np

from tinyv_cli.backends.backend import (
    Backend,
    BackendOptions,
    OnEncoder,
    resolve_context_length,
    resolve_threads,
)
from tinyv_cli.backends.cpu.onnx_decoder import OnnxDecoder, check_decoder
from tinyv_cli.backends.cpu.onnx_sessions import open_graphs, translate_failures
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.backends.cpu.token_embeddings import open_token_embeddings
from tinyv_cli.variants.manifest import Variant


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
        check_decoder(sessions, spec, variant.path("decoder"))
        decoder = OnnxDecoder(sessions, embeddings, spec, context_length, options.n_slots)
    except BaseException:
        encoder.close()
        raise
    return Backend(encoder, decoder, "cpu", time.perf_counter() - started, encoder.close)
