"""Pictures and one prompt become lines: several are answered at once, the next ones made ready."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyv_cli.addresses import is_data_url
from tinyv_cli.answers.generate import ImageEncoder
from tinyv_cli.answers.reply import Answer, Reply
from tinyv_cli.answers.report import describe_toy
from tinyv_cli.answers.scheduler import Request, Scheduler
from tinyv_cli.backends.prefetch_pictures import Encoded, PicturePrefetcher, Unreadable
from tinyv_cli.batch.finding import is_url, make_url_error
from tinyv_cli.disk.reading import is_pipe, read_bytes
from tinyv_cli.engine import Engine, OpenEngine
from tinyv_cli.errors import InputError, TinyvError, describe_os_error
from tinyv_cli.pictures.image import read_picture
from tinyv_cli.pictures.opening import Access, open_picture, read_content
from tinyv_cli.prompts.boxes import boxes_to_json, read_boxes
from tinyv_cli.prompts.tasks import Question
from tinyv_cli.session import AnswerOptions


def answer_pictures(
    engine: Engine,
    words: Mapping[Path, str],
    question: Question,
    options: AnswerOptions,
    *,
    caches_images: bool,
) -> Generator[dict[str, Any]]:
    """Opens a variant, asks every picture the same, yields its line, and frees the variant.

    Args:
        engine: that answers.
        words: that open the pictures, by their lines' names; if offloaded, all are encoded first.
        question: asked about each; a box that lies beside a picture is that picture's error.
        options: how answers are made.
        caches_images: whether image tokens are taken from the cache and kept there.

    Raises:
        InputError: the prompt does not fit the context, whatever the picture.
        TinyvError: the variant cannot be opened, or a picture not encoded.
    """
    begun: list[PicturePrefetcher] = []
    asking = Asking(engine, question, options)

    def prefetch(encoder: ImageEncoder) -> PicturePrefetcher:
        def read(path: Path) -> Image.Image:
            return _open(words[path], path, engine, begun)

        begun.append(asking.prefetch(encoder, words, read))
        return begun[0]

    with engine.open(prefetch, caches_images=caches_images) as opened:
        yield from asking.answer(opened, begun[0])


class Asking:
    """One question about pictures: what is done to each before and while it is answered.

    Args:
        engine: that answers.
        question: asked about each; a box that lies beside a picture is that picture's error.
        options: how answers are made.
    """

    def __init__(self, engine: Engine, question: Question, options: AnswerOptions) -> None:
        self._engine, self._question, self._options = engine, question, options
        self._toys: dict[Path, dict[str, bool]] = {}

    def prefetch(
        self,
        encoder: ImageEncoder,
        paths: Iterable[Path],
        read: Callable[[Path], Image.Image],
    ) -> PicturePrefetcher:
        """Begins to make pictures ready.

        Args:
            encoder: as in `PicturePrefetcher`.
            paths: that name the pictures, each another.
            read: opens a picture by its name, or raises a `TinyvError`.
        """

        def read_asked(path: Path) -> Image.Image:
            picture = read(path)
            self._question.about(*picture.size)
            return picture

        def look(path: Path, pixels: np.ndarray) -> None:
            self._toys[path] = describe_toy(self._engine.is_toy, [pixels])

        return PicturePrefetcher(encoder, paths, read_asked, self._engine.preparing, look)

    def answer(self, opened: OpenEngine, pictures: PicturePrefetcher) -> Generator[dict[str, Any]]:
        """Asks about pictures as they become ready; yields their lines as answers end.

        Args:
            opened: the engine, which answers several at once.
            pictures: as `prefetch` returned them.

        Raises:
            InputError: the prompt does not fit the context, whatever the picture.
            TinyvError: a picture cannot be encoded.
        """
        about = {"model": self._engine.variant.name, "toy": self._engine.is_toy}
        sessions = [opened.start_session(slot) for slot in range(len(opened.slots.decoders))]
        scheduler: Scheduler[Encoded | Unreadable] = Scheduler(opened.slots)

        def begin(picture: Encoded | Unreadable, slot: int) -> Reply:
            if isinstance(picture, Unreadable):
                raise picture.error
            sessions[slot].show_images(picture.image)
            asked = self._question.about(picture.width, picture.height)
            return sessions[slot].ask(asked, self._options)

        def list_requests() -> Iterator[Request[Encoded | Unreadable] | None]:
            for picture in pictures.as_ready(lambda: scheduler.is_idle):
                yield None if picture is None else Request(picture, partial(begin, picture))

        for each in scheduler.run(list_requests()):
            path = each.identity.path
            if isinstance(each.identity, Unreadable):
                error = {"problem": each.identity.error.problem, "hint": each.identity.error.hint}
                yield {"path": str(path), "error": error} | about
            elif each.answer is not None:
                yield _to_line(each.identity, each.answer) | about | self._toys.pop(path)
            elif each.error is not None:
                raise each.error


def _open(word: str, path: Path, engine: Engine, begun: Sequence[PicturePrefetcher]) -> Image.Image:
    """Opens a picture, from a pipe for as long as nothing that was begun is cancelled."""
    if is_pipe(path):
        return _read_pipe(path, lambda: not any(each.is_cancelled for each in begun))
    return open_listed(word, path, engine.notify)


def open_listed(word: str, path: Path, note: Callable[[str], None]) -> Image.Image:
    """Opens a picture of a batch by the word that stands for it.

    Raises:
        InputError: it cannot be read, or would have to be fetched.
    """
    if not is_url(word):
        return read_content(path, note)
    if is_data_url(word):
        return open_picture(word, Access(note=note))
    raise make_url_error(word)


def _read_pipe(path: Path, is_wanted: Callable[[], bool]) -> Image.Image:
    """Reads a picture from a pipe, for as long as pictures are wanted.

    Raises:
        InputError: nobody writes into it, or it holds no picture.
    """
    way_out = "name a picture's file, or write the picture into the pipe: `<(cat cat.png)`"
    try:
        content = read_bytes(path, is_wanted)
    except OSError as error:
        problem = f"{path} cannot be read: {describe_os_error(error)}"
        raise InputError(problem, way_out) from error
    try:
        return read_picture(content)
    except TinyvError as error:
        raise type(error)(f"{path}: {error.problem}", way_out) from error


def _to_line(picture: Encoded, answer: Answer) -> dict[str, Any]:
    """Makes the line of a picture and its answer; times are seconds of work on this picture.

    A step of several answers counts for each of them with its share. Reading and encoding went on
    meanwhile: totals add up to more than a clock's.
    """
    timings = answer.timings
    return {
        "path": str(picture.path),
        "answer": answer.text,
        "boxes": boxes_to_json(read_boxes(answer.text), picture.width, picture.height),
        "finish_reason": answer.finish_reason,
        "timings": {
            "read": picture.read_s,
            "encode": picture.encode_s,
            "prefill": timings.prefill_s,
            "decode": timings.decode_s,
            "total": picture.read_s + picture.encode_s + timings.prefill_s + timings.decode_s,
        },
    }
