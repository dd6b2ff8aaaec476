"""Options become what a backend is opened with; its encoder and decoder; opens none."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import psutil

from tinyv_cli.answers.generate import Decoder, ImageEncoder
from tinyv_cli.answers.slots import SlotDecoder, SlotView
from tinyv_cli.errors import UsageError
from tinyv_cli.spec import LanguageSpec


@dataclass(frozen=True)
class BackendOptions:
    """Device, threads, context and memory that a backend is opened with.

    Attributes:
        device: `cpu`, `cuda` or `cuda:1`; `auto` until `choose_device` has chosen one.
        threads: threads of one operator; None takes the physical cores.
        context_length: positions the cache has room for; None takes all that the model has.
        memory_budget_bytes: that may be taken; None for what there is. On a GPU, weights and all
            that is computed are held to it, and the CUDA context comes on top.
        n_slots: conversations at once; None for one alone, which then is a little faster.
        notify: takes a line for the user about something that works worse than it should.
    """

    device: str = "cpu"
    threads: int | None = None
    context_length: int | None = None
    memory_budget_bytes: int | None = None
    n_slots: int | None = field(default=None, kw_only=True)
    notify: Callable[[str], None] = field(default=lambda _: None, compare=False)

    @property
    def takes_turns(self) -> bool:
        """Whether pictures and tokens had better be computed in turn: each wants all the cores."""
        return self.device == "cpu" and 2 * resolve_threads(self.threads) > _count_cores()


@dataclass(frozen=True)
class Backend:
    """An open variant.

    Attributes:
        encoder: pixels → image tokens.
        slots: embeddings and token ids → logits, with a cache for each conversation.
        device: where it runs.
        load_s: how long opening took, in seconds.
    """

    encoder: ImageEncoder
    slots: SlotDecoder
    device: str
    load_s: float
    _close: Callable[[], None] = field(default=lambda: None, repr=False)

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder of the first slot: all that one conversation needs."""
        return SlotView(self.slots)

    def close(self) -> None:
        """Frees memory and mapped files."""
        self._close()


class BackendEncoder(ImageEncoder, Protocol):
    """An encoder whose memory can be freed."""

    def close(self) -> None:
        """Frees memory and files; the next picture opens them again."""


OnEncoder = Callable[[BackendEncoder, str], None]  # is given the encoder and its device


def prefetch_nothing(encoder: BackendEncoder, device: str) -> None:
    """Leaves the encoder alone until the decoder is open."""


def resolve_context_length(asked: int | None, spec: LanguageSpec) -> int:
    """Returns the number of positions asked for, or all that the model has.

    Raises:
        UsageError: the model has fewer, or none were asked for.
    """
    if asked is None:
        return spec.context_length
    if not 0 < asked <= spec.context_length:
        raise UsageError(
            f"a context of {asked} positions does not fit this model",
            f"use `--ctx-size` with 1 to {spec.context_length}",
        )
    return asked


def resolve_threads(asked: int | None, notify: Callable[[str], None] = lambda _: None) -> int:
    """Chooses the number of threads: asked for, else OMP_NUM_THREADS, else the physical cores.

    Two threads on one core share its multipliers and its path to memory, and gain nothing. More
    threads than cores wait for one another: a thousand on two cores found no answer in a minute.

    Args:
        asked: the value of `--threads`, None where it was not given.
        notify: takes a line where fewer are used than were wanted.

    Returns:
        At least 1, at most the cores that this process may use.

    Raises:
        UsageError: fewer than one thread was asked for.
    """
    if asked is not None and asked < 1:
        raise UsageError(f"{asked} threads compute nothing", "use `--threads 1` or more")
    n_cores = _count_cores(are_whole=False)
    variable = os.environ.get("OMP_NUM_THREADS", "")
    if asked is not None:
        wanted, origin = asked, "--threads"
    elif variable.isdecimal() and int(variable) > 0:
        wanted, origin = int(variable), "OMP_NUM_THREADS"
    else:
        return _count_cores()
    if wanted > n_cores:
        notify(f"{origin} is {wanted}: limited to {n_cores}, the cores that there are")
    return min(wanted, n_cores)


def _count_cores(*, are_whole: bool = True) -> int:
    """Counts the cores that this process may use: whole ones, or what the system makes of them."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    n_cores = max(1, len(allowed) if allowed else os.cpu_count() or 1)
    return min(psutil.cpu_count(logical=False) or 1, n_cores) if are_whole else n_cores
