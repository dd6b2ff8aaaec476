"""A variant becomes an image encoder and a decoder that run in torch, on a GPU.

On `cpu` the same code runs with bitsandbytes' kernels for it, in float32 and without graphs: that
is how it is tested.
"""

import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from tinyv_cli.backends.backend import Backend, BackendOptions, OnEncoder, resolve_context_length
from tinyv_cli.backends.cuda.torch_decoder import StepDecoder
from tinyv_cli.backends.cuda.torch_device import TorchDevice
from tinyv_cli.backends.cuda.torch_weights import load_language, load_vision_side
from tinyv_cli.model.cache import KeyValueCache
from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.variants.manifest import Variant

_GRAPHS = "TINYV_CUDA_GRAPHS"  # 0: no steps are recorded, for a driver that records them badly


class TorchEncoder:
    """Pixels → image tokens; its weights are loaded when the first picture comes.

    Args:
        load: loads the vision side to its device.
        device: where that is.
    """

    def __init__(self, load: Callable[[], TinyGptV], device: TorchDevice) -> None:
        self._load = load
        self._device = device
        self._stream = device.make_stream()  # else kernels would wait for a decoder's weights
        self._model: TinyGptV | None = None

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Computes the image tokens of pictures.

        Args:
            pixels: (B, 3, S, S) float32, normalised as `image.to_pixels` does it.

        Returns:
            (B, Q, D) float32.

        Raises:
            DeviceError: the device's memory does not suffice.
            WeightsError: the vision side cannot be loaded.
        """
        with (
            self._device.lock,
            self._device.translate_errors("encoding the picture"),
            self._device.use_stream(self._stream),
        ):
            model = self._model or self._load()
            self._model = model
            like = model.projection.second.weight
            image_tokens = model.encode(torch.tensor(pixels).to(like))
            tokens: np.ndarray = image_tokens.float().numpy(force=True)
        return tokens

    def close(self) -> None:
        """Frees the weights once another thread's picture is done; the next one loads them anew."""
        with self._device.lock:
            self._model = None
            self._device.free_memory()


def open_torch(
    variant: Variant, options: BackendOptions, on_encoder: OnEncoder, device: str = "cuda"
) -> Backend:
    """Opens a variant in torch: the decoder now, the vision side with the first picture.

    Args:
        variant: a variant whose files have been checked, with files for CUDA.
        options: context and memory.
        on_encoder: is given the encoder before the decoder is opened.
        device: `cuda` or `cuda:1`; `cpu` for tests.

    Raises:
        DeviceError: torch finds no such device, or its memory does not suffice.
        UsageError: the context is longer than the model's.
        WeightsError: a file is not what it should be.
    """
    started = time.perf_counter()
    spec = variant.manifest.spec
    context_length = resolve_context_length(options.context_length, spec.language)
    language_path, vision_path = variant.path("cuda-language"), variant.path("cuda-vision")
    torch_device = TorchDevice(device, options.memory_budget_bytes)
    torch_device.limit_memory()
    dtype = torch_device.dtype
    load_vision = partial(load_vision_side, vision_path, spec, device, dtype)
    encoder = TorchEncoder(load_vision, torch_device)
    on_encoder(encoder, device)
    try:
        with torch_device.translate_errors("loading the language model"):
            language = load_language(language_path, spec.language, device, dtype)
            like = language.final_layernorm.weight.new_empty(0, dtype=dtype)
            cache = KeyValueCache(spec.language, context_length, like, options.n_slots or 1)
            decoder = StepDecoder(
                language,
                cache,
                torch_device,
                use_graphs=torch_device.is_cuda and os.environ.get(_GRAPHS, "1") != "0",
                notify=options.notify,
            )
    except BaseException:
        encoder.close()
        raise
    return Backend(encoder, decoder, device, time.perf_counter() - started, encoder.close)
