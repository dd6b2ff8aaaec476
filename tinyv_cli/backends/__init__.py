"""A variant and a device become something that encodes pictures and decodes tokens.

`open_backend` is the seam between light code and runtimes: each backend's module imports its own
runtime and is itself imported only here, when chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tinyv_cli.errors import DeviceError, UsageError
from tinyv_cli.generate import Decoder, ImageEncoder
from tinyv_cli.manifest import Variant

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class BackendOptions:
    """What the user asked of the machine.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        threads: threads of one operator; None takes the physical cores.
        context_length: positions the cache has room for; None takes all that the model knows.
    """

    device: str = "auto"
    threads: int | None = None
    context_length: int | None = None


@dataclass(frozen=True)
class Backend:
    """What runs a variant.

    Attributes:
        encoder: pixels → image tokens.
        decoder: embeddings and token ids → logits, with its cache.
        device: where it runs.
        load_s: how long opening took, in seconds.
    """

    encoder: ImageEncoder
    decoder: Decoder
    device: str
    load_s: float
    _close: Callable[[], None] = field(default=lambda: None, repr=False)

    def close(self) -> None:
        """Gives memory and mapped files back."""
        self._close()


class BackendEncoder(ImageEncoder, Protocol):
    """An encoder that can give its memory back."""

    def close(self) -> None:
        """Gives memory and files back; the next picture opens them again."""


Meanwhile = Callable[[BackendEncoder, str], None]  # is given the encoder and where it computes


def ignore_encoder(encoder: BackendEncoder, device: str) -> None:
    """What is done with an encoder that nobody wants before the decoder is open: nothing."""


def open_backend(
    variant: Variant,
    options: BackendOptions,
    meanwhile: Meanwhile = ignore_encoder,
) -> Backend:
    """Opens a variant on a device.

    Args:
        variant: a variant whose files have been checked.
        options: device, threads and context.
        meanwhile: is given the encoder before the decoder is opened, and may use it in a thread.

    Raises:
        DeviceError: the device cannot be used.
        UsageError: there is no such device, or the context is longer than the model's.
        WeightsError: the runtime cannot read the variant's files.
    """
    if options.device not in DEVICES:
        raise UsageError(
            f"there is no device {options.device}", f"use `--device` with {', '.join(DEVICES)}"
        )
    if options.device == "cuda":
        raise DeviceError("this version of tinyv has no CUDA backend", "use `--device cpu`")
    from tinyv_cli.backends.onnx_cpu import open_cpu

    return open_cpu(variant, options, meanwhile)
