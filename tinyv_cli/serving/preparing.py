"""A question becomes what a worker answers: pictures as pixels, a schema as a grammar.

This is work for threads beside the event loop; no model computes here.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from tinyv_cli.answers import constrained
from tinyv_cli.answers.sampling import SamplingOptions
from tinyv_cli.answers.tokenizer import Tokenizer, open_tokenizer
from tinyv_cli.errors import DeviceError, InputError, TinyvError
from tinyv_cli.pictures.data_url import read_data_url
from tinyv_cli.pictures.fetch import FetchLimits, fetch
from tinyv_cli.pictures.image import hash_pixels, read_picture, to_pixels
from tinyv_cli.prompts.prompt import make_prompt
from tinyv_cli.serving.catalog import Catalog, Model
from tinyv_cli.serving.dialects.asking import (
    CHORE_MAX_TOKENS,
    DEFAULT_MAX_TOKENS,
    Asked,
    RefusedError,
)
from tinyv_cli.session import AnswerOptions

if TYPE_CHECKING:
    from tinyv_cli.session import Grammar

_MAX_SCHEMA = 1 << 16  # letters
_N_KEPT = 16  # tokenizers and grammars
_N_PIXELS = 8  # pictures of 2.4 MB
_MAX_FETCHED, _FETCH_S = 32 << 20, 15.0
_MARKS_POSITIONS = 8  # around a picture, at most

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A question that can be answered.

    Attributes:
        asked: as the request put it.
        model: that answers.
        pixels: of its pictures, (1, 3, S, S) float32 each, by their hash and in the prompt's order.
        options: how the answer is made.
        owner: whose key it came with; what was computed for one serves no other.
    """

    asked: Asked
    model: Model
    pixels: tuple[tuple[str, np.ndarray], ...]
    options: AnswerOptions
    owner: str


class Preparer:
    """Makes questions ready.

    Args:
        catalog: of the models.
        fetches: whether pictures may be fetched from public addresses.
        max_images: pictures of one question; of more, so many are taken, evenly spread. None takes
            all that the context holds, and refuses more.
    """

    def __init__(self, catalog: Catalog, *, fetches: bool, max_images: int | None) -> None:
        self._catalog = catalog
        self._fetches = fetches
        self._max_images = max_images
        self._tokenizers: Kept[Tokenizer] = Kept(_N_KEPT)
        self._grammars: Kept[Grammar] = Kept(_N_KEPT)
        self._pixels: Kept[tuple[str, np.ndarray]] = Kept(_N_PIXELS)

    def prepare(self, asked: Asked, owner: str) -> Prepared:
        """Finds the model, opens the pictures, and makes the grammar.

        Raises:
            RefusedError: something about the request cannot be used.
        """
        model = self._catalog.find(asked.model)
        pictures = _spread(asked.pictures, self._max_images)
        if len(pictures) < len(asked.pictures):
            note = f"{len(pictures)} of {len(asked.pictures)} pictures taken, evenly spread"
            asked = replace(asked, notes=(*asked.notes, note))
        try:
            self._check_room(asked, model, len(pictures))
            pixels = [self._open(each, model, owner) for each in pictures]
            options = self._make_options(asked, model)
        except DeviceError as error:
            raise RefusedError(503, "memory does not suffice for the picture", None, 5) from error
        except RefusedError:
            raise
        except TinyvError as error:
            raise RefusedError(400, error.problem) from error
        return Prepared(asked, model, tuple(pixels), options, owner)

    def _check_room(self, asked: Asked, model: Model, n_pictures: int) -> None:
        """Checks that the context holds the pictures, before any is opened."""
        n_queries = model.found.variant.manifest.spec.qformer.n_queries
        n_fit = (model.context_length - _MARKS_POSITIONS) // (n_queries + _MARKS_POSITIONS)
        if n_pictures > n_fit:
            problem = f"{n_pictures} pictures do not fit the context, {n_fit} do"
            raise RefusedError(
                400, f"{problem}; `tinyv serve --max-images {n_fit}` takes so many of them"
            )
        if asked.question is not None:  # raises where it is blank
            make_prompt(model.found.template, (), asked.question, n_pictures)

    def _open(self, address: str, model: Model, owner: str) -> tuple[str, np.ndarray]:
        """Decodes a picture; returns its pixels with their hash.

        Clients send a conversation's picture again with each question: it is decoded once.
        """
        fetched = None
        if address.startswith("data:"):
            named_by = address.encode()
        elif self._fetches:
            try:
                limits = FetchLimits(max_bytes=_MAX_FETCHED, timeout_s=_FETCH_S)
                named_by = fetched = fetch(address, limits)
            except InputError as error:
                # The reason would tell who can be reached from here, and who cannot.
                raise RefusedError(400, "the picture cannot be fetched from its address") from error
        else:
            problem = "pictures are not fetched from addresses here"
            raise RefusedError(400, f"{problem}; send them as `data:image/png;base64,…`")
        image_px = model.found.image_px

        def decode() -> tuple[str, np.ndarray]:
            content = read_data_url(address) if fetched is None else fetched
            pixels = to_pixels(read_picture(content), image_px)
            return hash_pixels(pixels), pixels

        digest = hashlib.sha256(named_by).hexdigest()
        return self._pixels.find(f"{owner} {image_px} {digest}", decode)

    def _make_options(self, asked: Asked, model: Model) -> AnswerOptions:
        n_most = asked.max_tokens
        if asked.is_chore:
            n_most = min(n_most or CHORE_MAX_TOKENS, CHORE_MAX_TOKENS)
        n_most = min(n_most or model.context_length, model.context_length)
        return AnswerOptions(
            n_most,
            SamplingOptions(**asked.sampling),  # type: ignore[arg-type]  # whole ones are whole
            asked.stop,
            None if asked.schema is None else self._make_grammar(asked.schema, model),
            min(n_most, DEFAULT_MAX_TOKENS),
        )

    def _make_grammar(self, schema: str, model: Model) -> "Grammar":
        if len(schema) > _MAX_SCHEMA:
            raise RefusedError(400, f"the schema has more than {_MAX_SCHEMA} letters")
        text = constrained.read_schema(schema)
        variant = model.found.variant
        tokenizer = self._tokenizers.find(model.digest, lambda: open_tokenizer(variant))
        return self._grammars.find(
            model.digest + text, lambda: constrained.make_schema_grammar(tokenizer, text)
        )


class Kept(Generic[T]):
    """The last things that were made, by name, for several threads, which make them side by side.

    Args:
        n_most: how many are kept.
    """

    def __init__(self, n_most: int) -> None:
        self._n_most = n_most
        self._things: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, name: str, make: Callable[[], T]) -> T:
        """Returns a thing, made if it is not there; by two threads at once, if both ask first."""
        with self._lock:
            if name in self._things:
                self._things.move_to_end(name)
                return self._things[name]
        made = make()
        with self._lock:
            self._things[name] = made
            if len(self._things) > self._n_most:
                self._things.popitem(last=False)
        return made


def _spread(pictures: tuple[str, ...], n: int | None) -> tuple[str, ...]:
    """Takes n pictures evenly spread, the first and the last among them; of one, the middle."""
    if n is None or len(pictures) <= n:
        return pictures
    if n == 1:
        return (pictures[len(pictures) // 2],)
    return tuple(pictures[round(i * (len(pictures) - 1) / (n - 1))] for i in range(n))
