"""A variant becomes an open session: its files checked, its template found; answers nothing.

Shared by the verbs that ask something.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tinyv_cli.console import Console
from tinyv_cli.errors import UsageError, WeightsError
from tinyv_cli.hashes import check_hashes
from tinyv_cli.manifest import MAKE_AGAIN, Variant
from tinyv_cli.miniature import is_brought_along, to_damage
from tinyv_cli.prompt import TEMPLATES, Template

if TYPE_CHECKING:
    import numpy as np

    from tinyv_cli.backends import Backend, BackendEncoder, BackendOptions
    from tinyv_cli.encode_ahead import EncoderAhead
    from tinyv_cli.session import Session


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
        from tinyv_cli.encode_ahead import EncoderAhead
        from tinyv_cli.image_cache import wrap_encoder

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
    from tinyv_cli.backends import open_backend
    from tinyv_cli.session import Session
    from tinyv_cli.tokenizer import Tokenizer

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
