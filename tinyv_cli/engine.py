"""A variant is found, planned on a device and opened: where every verb that asks something begins.

Three steps, always in this order. `find_variant` reads the manifest and no weights. `plan_engine`
says which variant answers, chooses the device, checks the files and makes sure that memory
suffices. `Engine.open` loads the weights; over what it opens, any number of conversations can be
held.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from tinyv_cli.devices.choice import Choice, choose_device
from tinyv_cli.errors import DeviceError, UsageError, WeightsError
from tinyv_cli.machine.memory import ANSWERING_BYTES, check_address_space
from tinyv_cli.progress import Progress, show_nothing
from tinyv_cli.prompts.prompt import TEMPLATES, Template
from tinyv_cli.variants.hashes import check_hashes
from tinyv_cli.variants.home import count_variants, list_newer, resolve_variant
from tinyv_cli.variants.manifest import MAKE_AGAIN, Variant
from tinyv_cli.variants.memory import CUDA_CONTEXT_BYTES, MemoryPlan, Room, plan_memory
from tinyv_cli.variants.miniature import is_miniature, is_miniature_folder, make_note, to_damage

if TYPE_CHECKING:
    import numpy as np

    from tinyv_cli.answers.generate import ImageEncoder
    from tinyv_cli.answers.report import Origin
    from tinyv_cli.answers.slots import Slots
    from tinyv_cli.answers.tokenizer import Tokenizer
    from tinyv_cli.answers.tracked import TrackedDecoder
    from tinyv_cli.backends.backend import Backend, BackendEncoder, BackendOptions
    from tinyv_cli.backends.prefetch_pictures import Preparing
    from tinyv_cli.session import Session

Notify = Callable[[str], None]  # takes one line for the user


class Prefetcher(Protocol):
    """An encoder that has begun with pictures before it is asked for their tokens."""

    def encode(self, pixels: "np.ndarray") -> "np.ndarray":
        """Turns pixels (B, 3, S, S) into image tokens (B, Q, D), both float32."""

    def wait(self) -> None:
        """Waits until everything that was begun is done, whatever comes of it."""

    def cancel(self) -> None:
        """Begins nothing further."""

    def close(self) -> None:
        """Begins nothing further, and waits for what is under way."""


@dataclass(frozen=True)
class FoundVariant:
    """A variant on disk, and the template that its prompts are laid out by.

    Attributes:
        variant: that answers.
        template: of its prompts.
        notes: what the user is to know of the choice, in lines; said when the engine is planned, so
            that nothing stands before a mistake in the words.
        is_toy: whether it is the miniature, or was made from it.
    """

    variant: Variant
    template: Template
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    is_toy: bool = field(default=False, kw_only=True)

    @property
    def image_px(self) -> int:
        """The side of the square that the vision tower sees."""
        return self.variant.manifest.spec.vision.image_px

    def count_positions(self, prompt: str, n_images: int, max_new_tokens: int) -> int:
        """Counts the positions of a prompt and its answer at most: a token has a byte or more."""
        n_queries = self.variant.manifest.spec.qformer.n_queries
        return n_images * n_queries + len(prompt.encode()) + max_new_tokens


@dataclass(frozen=True)
class Demand:
    """The questions to come, as far as memory depends on them.

    Attributes:
        n_positions: of the longest prompt and its answer together; None for a full context.
        encodes: tells whether a picture must be encoded on a kind of device, `cpu` or `cuda`.
        may_offload: whether the vision side may be given back before the decoder is opened.
        held_bytes: of the pictures that are kept while their questions are answered.
        way_out: the hint where memory does not suffice; None for the one that fits `ask`.
        n_slots: answers at once that are wanted; None for one conversation alone.
    """

    n_positions: int | None = None
    encodes: Callable[[str], bool] = lambda _: True
    may_offload: bool = False
    held_bytes: int = 0
    way_out: str | None = None
    n_slots: int | None = None


@dataclass(frozen=True)
class Engine(FoundVariant):
    """A variant planned on a device, ready to be opened.

    Attributes:
        options: where and with what it computes.
        memory: what it will take; None where nothing was planned.
        notify: takes lines for the user while it is open.
    """

    options: "BackendOptions"
    memory: MemoryPlan | None = None
    notify: Notify = lambda _: None

    @property
    def is_offloaded(self) -> bool:
        """Whether the vision side is given back before the decoder is opened."""
        return self.memory is not None and self.memory.is_offloaded

    @property
    def preparing(self) -> "Preparing":
        """How its pictures are made ready while others are answered; if offloaded, before that."""
        from tinyv_cli.backends.prefetch_pictures import Preparing

        preparing = Preparing(self.image_px, takes_turns=self.options.takes_turns)
        return replace(preparing, n_ahead=None) if self.is_offloaded else preparing

    @property
    def needed_bytes(self) -> int:
        """Bytes of its device's memory that it will take, as estimated."""
        return self.memory.needed_bytes if self.memory else 0

    @property
    def context_length(self) -> int:
        """Positions that a prompt and its answer have room for."""
        return _limit_positions(self.variant, None, self.options.context_length)

    @contextmanager
    def open(
        self,
        prefetch: "Callable[[ImageEncoder], Prefetcher] | None" = None,
        *,
        caches_images: bool = False,
    ) -> "Iterator[OpenEngine]":
        """Loads the variant, and frees it at the end of the block.

        Args:
            prefetch: is given the encoder before the decoder is opened, and begins to encode what
                will be wanted; sessions then encode through what it returns. Where the vision side
                is offloaded, everything it has begun is done before the decoder is opened.
            caches_images: whether prefetched image tokens are taken from this computer's cache and
                kept there.

        Raises:
            TinyvError: the device or the runtime cannot open the variant.
        """
        from tinyv_cli.answers.slots import Slots
        from tinyv_cli.answers.tokenizer import open_tokenizer
        from tinyv_cli.backends.image_cache import wrap_encoder
        from tinyv_cli.backends.opening import open_backend

        tokenizer = open_tokenizer(self.variant)
        begun: list[Prefetcher] = []

        def begin(encoder: "BackendEncoder", device: str) -> None:
            if prefetch is not None:
                source = wrap_encoder(encoder, self.variant, device) if caches_images else encoder
                begun.append(prefetch(source))
                if self.is_offloaded:
                    begun[0].wait()
                    encoder.close()

        try:
            with closing(open_backend(self.variant, self.options, begin)) as backend:
                encoder = begun[0] if begun else backend.encoder
                slots = Slots(backend.slots, are_shared=self.options.n_slots is not None)
                try:
                    yield OpenEngine(self, backend, tokenizer, encoder, slots)
                finally:
                    slots.close()
                    for each in begun:
                        each.cancel()  # closing the backend then ends what is under way
        finally:
            for each in begun:
                each.close()


@dataclass(frozen=True)
class OpenEngine:
    """A variant in memory.

    Any number of sessions may be held over each slot, one answer at a time: what a slot's cache
    holds is known, so that a session which takes over computes only what differs.

    Attributes:
        engine: that was opened.
        backend: what runs it.
        tokenizer: of the variant.
        encoder: the backend's, or what prefetches with it.
        slots: the backend's, with the record of what each holds.
    """

    engine: Engine
    backend: "Backend"
    tokenizer: "Tokenizer"
    encoder: "ImageEncoder"
    slots: "Slots"

    @property
    def decoder(self) -> "TrackedDecoder":
        """The decoder of the first slot."""
        return self.slots.decoders[0]

    def start_session(self, slot: int = 0) -> "Session":
        """Begins a conversation in a slot."""
        from tinyv_cli.session import Session

        engine = self.engine
        return Session(
            self.encoder,
            self.slots.decoders[slot],
            self.tokenizer,
            engine.template,
            notify=engine.notify,
            stop_ids=engine.variant.manifest.stop_ids,
        )

    @property
    def origin(self) -> "Origin":
        """Variant, template and device, as reports name them."""
        from tinyv_cli.answers.report import Origin

        engine, backend = self.engine, self.backend
        names = engine.variant.name, engine.template.name
        return Origin(*names, backend.device, backend.load_s, engine.is_toy)


def find_variant(model: str | None, template: str | None = None) -> FoundVariant:
    """Finds the variant that answers, and its template.

    Args:
        model: a name or a folder; None for the newest, or else the miniature.
        template: a name of `TEMPLATES`; None for the variant's own.

    Raises:
        UsageError: there is no such template.
        WeightsError: there is no such variant, or it cannot be read.
    """
    if template is not None and template not in TEMPLATES:
        raise UsageError(
            f"there is no template '{template}'",
            f"use `--template` with one of {', '.join(TEMPLATES)}",
        )
    variant = resolve_variant(model)
    name = variant.manifest.template if template is None else template
    if name not in TEMPLATES:
        raise WeightsError(
            f"there is no template '{name}', which variant {variant.name} asks for", MAKE_AGAIN
        )
    notes: list[str] = []
    is_newest = model is None and not os.environ.get("TINYV_MODEL")
    if is_newest and (damaged := list_newer(variant)):
        passed_over = f"newer, but damaged: {', '.join(damaged)} (`tinyv list` says how)"
        notes.append(f"{variant.name} answers; {passed_over}")
    elif is_newest and count_variants() > 1:
        notes.append(f"{variant.name} answers, the newest variant; `-m NAME` takes another")
    is_toy = is_miniature(variant)
    if is_toy:
        notes.append(make_note(variant))
    return FoundVariant(variant, TEMPLATES[name], notes=tuple(notes), is_toy=is_toy)


def plan_engine(
    found: FoundVariant,
    wanted: "BackendOptions",
    demand: Demand,
    notify: Notify,
    progress: Progress = show_nothing,
) -> Engine:
    """Chooses the device, checks the files, and makes sure that memory suffices.

    Args:
        found: that answers.
        wanted: as it was typed; the device may be `auto`.
        demand: what is going to be asked.
        notify: is told of variant, miniature, device and threads; kept for the open engine.
        progress: is told of the bytes that are hashed.

    Raises:
        UsageError: there is no such device.
        WeightsError: a file is damaged or cannot be read.
        DeviceError: the device cannot be used, or memory does not suffice.
    """
    from tinyv_cli.backends.backend import resolve_threads

    variant, n_slots = found.variant, demand.n_slots
    for note in found.notes:
        notify(note)
    n_positions = _limit_positions(variant, demand.n_positions, wanted.context_length)
    if n_slots is not None:  # each has a cache of its own, with no more room than it needs
        wanted = replace(wanted, context_length=n_positions)
    choice = choose_device(
        variant,
        wanted.device,
        wanted.memory_budget_bytes,
        room=Room(_limit_positions(variant, None, wanted.context_length), n_slots),
        encodes=lambda: demand.encodes("cuda"),
        may_offload=demand.may_offload,
    )
    if choice.reason:
        notify(choice.reason)
    if choice.device == "cpu":
        wanted = replace(wanted, threads=resolve_threads(wanted.threads, notify))
    try:
        check_hashes(variant.folder, variant.manifest.files, progress)
    except WeightsError as error:
        raise to_damage(error) if is_miniature_folder(variant.folder) else error from error
    memory, budget_bytes = _plan_memory(variant, choice, wanted, demand, n_positions)
    if memory.n_slots != n_slots:
        notify(f"memory suffices for {memory.n_slots} answers at once, not {n_slots}")
    options = replace(
        wanted,
        device=choice.device,
        memory_budget_bytes=budget_bytes,
        n_slots=memory.n_slots,
        notify=notify,
    )
    return Engine(variant, found.template, options, memory, notify, is_toy=found.is_toy)


def _plan_memory(
    variant: Variant, choice: Choice, wanted: "BackendOptions", demand: Demand, n_positions: int
) -> tuple[MemoryPlan, int | None]:
    """Plans the memory of the CPU, where the device's was not planned when it was chosen.

    Returns:
        The plan, and the bytes that the backend is held to; None for what there is.

    Raises:
        DeviceError: memory does not suffice.
    """
    if choice.memory:  # torch is held to it, and the CUDA context comes on top
        return choice.memory, choice.memory.limit_bytes - CUDA_CONTEXT_BYTES
    budget_bytes = wanted.memory_budget_bytes
    if budget_bytes is not None:
        budget_bytes -= demand.held_bytes  # what is free was measured with them in memory
    try:
        memory = plan_memory(
            variant,
            Room(n_positions, demand.n_slots),
            budget_bytes,
            encodes=demand.encodes(choice.device),
            may_offload=demand.may_offload,
        )
    except DeviceError as error:
        raise DeviceError(error.problem, demand.way_out or error.hint) from error
    needed_bytes = memory.needed_bytes + demand.held_bytes
    check_address_space(f"answering with {variant.name}", ANSWERING_BYTES + needed_bytes)
    return replace(memory, needed_bytes=needed_bytes), budget_bytes


def _limit_positions(variant: Variant, n_positions: int | None, context_length: int | None) -> int:
    """Limits positions to the context asked for, and that to what the model knows."""
    longest = variant.manifest.spec.language.context_length
    return min(each for each in (n_positions, context_length, longest) if each is not None)
