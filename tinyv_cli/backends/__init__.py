"""A variant and a device become something that encodes pictures and decodes tokens.

`open_backend` is the seam between light code and runtimes: each backend's module imports its own
runtime and is itself imported only here, when chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tinyv_cli.device_names import is_card
from tinyv_cli.errors import UsageError
from tinyv_cli.generate import Decoder, ImageEncoder
from tinyv_cli.manifest import Variant

if TYPE_CHECKING:
    from tinyv_cli.devices import TorchFindings


@dataclass(frozen=True)
class BackendOptions:
    """What the user asked of the machine.

    Attributes:
        device: `cpu`, `cuda` or `cuda:1`; `auto` until `opening.resolve_device` has chosen one.
        threads: threads of one operator; None takes the physical cores.
        context_length: positions the cache has room for; None takes all that the model knows.
        memory_budget_bytes: that may be taken; None for what there is. On a card, weights and all
            that is computed are held to it, and the CUDA context comes on top.
        notify: takes a line for the user, of what works, but not as it should.
    """

    device: str = "cpu"
    threads: int | None = None
    context_length: int | None = None
    memory_budget_bytes: int | None = None
    notify: Callable[[str], None] = field(default=lambda _: None, compare=False)


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
        options: device (`cpu` or a card), threads, context and memory.
        meanwhile: is given the encoder before the decoder is opened, and may use it in a thread.

    Raises:
        DeviceError: the device cannot be used.
        UsageError: there is no such device, or the context is longer than the model's.
        WeightsError: the runtime cannot read the variant's files.
    """
    if options.device == "cpu":
        from tinyv_cli.backends.onnx_cpu import open_cpu

        return open_cpu(variant, options, meanwhile)
    if is_card(options.device):
        from tinyv_cli.backends.torch_cuda import open_torch

        return open_torch(variant, options, meanwhile, device=options.device)
    hint = "use `--device` with cpu, cuda or cuda:N"
    raise UsageError(f"there is no device {options.device}", hint)


def probe_torch(number: int) -> "TorchFindings":
    """Asks torch what it can do with a card.

    Args:
        number: of the card, as CUDA counts.

    Raises:
        ImportError, OSError: torch is not there, or damaged.
    """
    from tinyv_cli.backends import cuda_probe

    return cuda_probe.probe_torch(number)
