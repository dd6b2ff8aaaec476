"""A variant becomes an open session: its files checked, its template found; answers nothing.

Shared by the verbs that ask something.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tinyv_cli.console import Console
from tinyv_cli.devices.choice import choose_device
from tinyv_cli.errors import UsageError, WeightsError
from tinyv_cli.options.shared import SamplingArguments, make_sampling
from tinyv_cli.prompts.prompt import TEMPLATES, Template
from tinyv_cli.variants.hashes import check_hashes
from tinyv_cli.variants.home import list_variants
from tinyv_cli.variants.manifest import MAKE_AGAIN, Variant
from tinyv_cli.variants.memory import CUDA_CONTEXT_BYTES
from tinyv_cli.variants.miniature import is_brought_along, tell_miniature, to_damage

if TYPE_CHECKING:
    import numpy as np

    from tinyv_cli.backends.backend import Backend, BackendEncoder, BackendOptions
    from tinyv_cli.backends.prefetch import EncoderAhead
    from tinyv_cli.session import AnswerOptions, Session
    from tinyv_cli.variants.memory import MemoryPlan


def check_variant(variant: Variant, console: Console) -> None:
    """Looks that the files are what the variant says they are.

    Raises:
        WeightsError: a file is damaged, or cannot be read.
    """
    try:
        check_hashes(variant.folder, variant.manifest.files, console.progress)
    except WeightsError as error:
        if is_brought_along(variant.folder):
            raise to_damage(error) from error
        raise


def resolve_device(
    variant: Variant,
    wanted: "BackendOptions",
    console: Console,
    *,
    encodes: Callable[[], bool] = lambda: True,
    takes_turns: bool = False,
) -> "tuple[BackendOptions, MemoryPlan | None]":
    """Chooses the device that a variant computes on, and says which where there was a choice.

    Args:
        variant: that is to answer.
        wanted: as it was typed; the device may be `auto`.
        console: takes the note.
        encodes: tells whether a picture must be encoded on a card; asked where there is one.
        takes_turns: whether the vision side may be given back before the decoder is opened.

    Returns:
        The same with `cpu` or a card, on a card with what its memory holds beside the CUDA
        context, and with the console for notes; and on a card the memory as planned.

    Raises:
        UsageError: there is no such device.
        DeviceError: it cannot be used, or its memory does not suffice.
    """
    choice = choose_device(
        variant,
        wanted.device,
        wanted.memory_budget_bytes,
        context_length=wanted.context_length,
        encodes=encodes,
        takes_turns=takes_turns,
    )
    if choice.reason:
        console.write_note(choice.reason)
    budget_bytes = wanted.memory_budget_bytes
    if choice.memory:
        budget_bytes = choice.memory.limit_bytes - CUDA_CONTEXT_BYTES
    options = replace(
        wanted,
        device=choice.device,
        memory_budget_bytes=budget_bytes,
        notify=console.write_note,
    )
    return options, choice.memory


def tell_variant(variant: Variant, asked: str | None, console: Console) -> None:
    """Says which variant answers where nobody said which, and what the miniature is.

    Args:
        variant: that answers.
        asked: what `--model` was, None where it was not given.
        console: takes the notes.
    """
    if asked is None and len(list_variants()) > 1:
        console.write_note(f"{variant.name} answers, the newest variant; `-m NAME` takes another")
    tell_miniature(variant, console.write_note)


def count_positions(
    variant: Variant, prompt: str, arguments: SamplingArguments, ctx_size: int | None, n_images: int
) -> int:
    """Positions of prompt and answer at most: a token has one byte or more."""
    spec = variant.manifest.spec
    n_positions = n_images * spec.qformer.n_queries + len(prompt.encode()) + arguments.max_tokens
    return min(n_positions, ctx_size or spec.language.context_length)


def make_answer_options(
    arguments: SamplingArguments, stop: Sequence[str] | None
) -> "AnswerOptions":
    """Sampling, length and texts that end an answer, checked against their ranges.

    Raises:
        UsageError: a value is out of its range.
    """
    from tinyv_cli.session import AnswerOptions

    return AnswerOptions(arguments.max_tokens, make_sampling(arguments), tuple(stop or ()))


def resolve_template(variant: Variant, wanted: str | None) -> Template:
    """The template asked for, else the variant's own."""
    name = variant.manifest.template if wanted is None else wanted
    if name in TEMPLATES:
        return TEMPLATES[name]
    problem, names = f"there is no template '{name}'", ", ".join(TEMPLATES)
    if wanted is None:
        raise WeightsError(f"{problem}, which variant {variant.name} asks for", MAKE_AGAIN)
    raise UsageError(problem, f"use `--template` with one of {names}")


@dataclass(frozen=True)
class FirstPicture:
    """The picture that a conversation begins with.

    Attributes:
        pixels: (1, 3, S, S) float32, as `image.to_pixels` makes them.
        uses_cache: takes image tokens that were computed before, and keeps new ones.
        is_frugal: is encoded before the decoder is opened, and the vision side given back between;
            else both at once.
    """

    pixels: "np.ndarray"
    uses_cache: bool
    is_frugal: bool

    def encode(self, encoder: "BackendEncoder", variant: Variant, device: str) -> "EncoderAhead":
        """Begins to encode it."""
        from tinyv_cli.backends.image_cache import wrap_encoder
        from tinyv_cli.backends.prefetch import EncoderAhead

        cached = wrap_encoder(encoder, variant, device) if self.uses_cache else encoder
        ahead = EncoderAhead(cached, self.pixels)
        if self.is_frugal:
            ahead.wait()
            encoder.close()
        return ahead


@contextmanager
def open_session(
    variant: Variant,
    template: Template,
    options: "BackendOptions",
    console: Console,
    picture: FirstPicture | None = None,
) -> "Iterator[tuple[Session, Backend]]":
    """Opens a variant for one conversation and closes it after.

    Args:
        variant: whose files have been checked.
        template: of the prompts.
        options: where and how it computes.
        console: takes notes.
        picture: is shown.
    """
    from tinyv_cli.answers.tokenizer import Tokenizer
    from tinyv_cli.backends.opening import open_backend
    from tinyv_cli.session import Session

    tokenizer = Tokenizer(variant.path("tokenizer"))
    started: list[EncoderAhead] = []

    def start_encoding(encoder: "BackendEncoder", device: str) -> None:
        if picture is not None:
            started.append(picture.encode(encoder, variant, device))

    try:
        with closing(open_backend(variant, options, start_encoding)) as opened:
            backend = replace(opened, encoder=started[0] if started else opened.encoder)
            notify, stop_ids = console.write_note, variant.manifest.stop_ids
            session = Session(backend, tokenizer, template, notify=notify, stop_ids=stop_ids)
            if picture is not None:
                session.show_pixels(picture.pixels)
            yield session, backend
    finally:
        for each in started:
            each.wait()
