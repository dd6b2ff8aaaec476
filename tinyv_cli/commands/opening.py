"""A variant becomes an open session: its files checked, its template found; answers nothing.

Shared by the verbs that ask something.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from tinyv_cli.console import Console
from tinyv_cli.errors import UsageError, WeightsError
from tinyv_cli.hashes import check_hashes
from tinyv_cli.manifest import MAKE_AGAIN, Variant
from tinyv_cli.miniature import is_brought_along, to_damage
from tinyv_cli.prompt import TEMPLATES, Template

if TYPE_CHECKING:
    from PIL.Image import Image

    from tinyv_cli.backends import Backend, BackendOptions
    from tinyv_cli.generate import ImageEncoder
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


@contextmanager
def open_session(
    variant: Variant,
    template: Template,
    options: "BackendOptions",
    console: Console,
    *,
    picture: "Image | None" = None,
    keeps_images: bool = False,
) -> "Iterator[tuple[Session, Backend]]":
    """Opens a variant for one conversation and closes it after.

    Args:
        variant: whose files have been checked.
        template: of the prompts.
        options: where and how it computes.
        console: takes notes.
        picture: is shown, and encoded while the decoder is being opened.
        keeps_images: uses image tokens that were computed before, and keeps new ones.
    """
    from tinyv_cli.backends import open_backend
    from tinyv_cli.encode_ahead import EncoderAhead
    from tinyv_cli.image import to_pixels
    from tinyv_cli.image_cache import wrap_encoder
    from tinyv_cli.session import Session
    from tinyv_cli.tokenizer import Tokenizer

    tokenizer = Tokenizer(variant.path("tokenizer"))
    image_px = variant.manifest.spec.vision.image_px
    pixels = None if picture is None else to_pixels(picture, image_px)
    started: list[EncoderAhead] = []

    def wrap(encoder: "ImageEncoder", device: str) -> "ImageEncoder":
        return wrap_encoder(encoder, variant, device) if keeps_images else encoder

    def start_encoding(encoder: "ImageEncoder", device: str) -> None:
        if pixels is not None:
            started.append(EncoderAhead(wrap(encoder, device), pixels))

    try:
        opening = open_backend(variant, options, start_encoding)
        with closing(opening) as opened:
            encoder = started[0] if started else wrap(opened.encoder, opened.device)
            backend = replace(opened, encoder=encoder)
            notify, stop_ids = console.write_note, variant.manifest.stop_ids
            session = Session(backend, tokenizer, template, notify=notify, stop_ids=stop_ids)
            if pixels is not None:
                session.show_pixels(pixels)
            yield session, backend
    finally:
        for each in started:
            each.wait()
