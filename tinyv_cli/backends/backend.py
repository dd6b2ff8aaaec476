"""What every backend is asked and gives: options, an encoder, a decoder; opens none."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tinyv_cli.answers.generate import Decoder, ImageEncoder


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
