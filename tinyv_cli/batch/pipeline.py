"""Pictures are read and encoded in threads while others are answered; writes nothing.

Reading, the vision side and the decoder each have a thread, and one picture after the other goes
through them: a large photograph takes longer to read than a small model to encode.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from tinyv_cli.addresses import is_data_url
from tinyv_cli.answers.generate import ImageEncoder
from tinyv_cli.answers.reply import Answer
from tinyv_cli.batch.finding import is_url, make_url_error
from tinyv_cli.disk.reading import is_pipe, read_bytes
from tinyv_cli.engine import Engine
from tinyv_cli.errors import InputError, TinyvError, describe_os_error
from tinyv_cli.pictures.image import read_picture, to_pixels
from tinyv_cli.pictures.opening import open_picture
from tinyv_cli.prompts.boxes import boxes_to_json, read_boxes
from tinyv_cli.session import AnswerOptions

N_AHEAD = 2  # one waits with its tokens while the next is encoded; a picture takes 2.4 MB


@dataclass(frozen=True)
class _Read:
    """A picture that was read.

    Attributes:
        path: of the file.
        width: of the upright picture, in pixels.
        height: likewise.
        pixels: (1, 3, S, S) float32.
        read_s: what decoding and shrinking the file took.
    """

    path: Path
    width: int
    height: int
    pixels: np.ndarray
    read_s: float


@dataclass(frozen=True)
class Encoded(_Read):
    """A picture that can be asked about.

    Attributes:
        tokens: (1, Q, D) float32.
        encode_s: what its image tokens took.
    """

    tokens: np.ndarray
    encode_s: float


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be used."""

    path: Path
    error: TinyvError


class PicturePrefetcher:
    """Pictures in their order, made ready before they are wanted; also a session's encoder.

    Args:
        encoder: is used by one thread alone.
        words: that open the pictures, by the names of their lines; the first are begun at once.
        image_px: S, the side of the square that the vision tower sees.
        n_ahead: how many are made ready at most while one is answered; 0 makes each when wanted.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        words: Mapping[Path, str],
        image_px: int,
        n_ahead: int = N_AHEAD,
    ) -> None:
        self._encoder = encoder
        self._image_px = image_px
        self._words = words
        self._paths = iter(words)
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")
        self._encoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self._begun: deque[Future[Encoded | Unreadable]] = deque()
        self._current: Encoded | None = None
        self._is_cancelled = False
        for path in islice(self._paths, n_ahead):
            self._begin(path)

    def __iter__(self) -> Iterator[Encoded | Unreadable]:
        """Waits for one picture after the other.

        Raises:
            TinyvError: a picture cannot be encoded, which is no picture's fault.
        """
        while True:
            following = next(self._paths, None)
            if following is not None:
                self._begin(following)
            if not self._begun:
                return
            picture = self._begun.popleft().result()
            if isinstance(picture, Encoded):
                self._current = picture
            yield picture

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the image tokens (1, Q, D) of the picture that came last."""
        assert self._current is not None
        assert pixels is self._current.pixels
        return self._current.tokens

    def wait(self) -> None:
        """Waits until every picture that was begun is ready."""
        for each in self._begun:
            each.exception()

    def cancel(self) -> None:
        """Begins no further picture, and waits for no pipe any longer."""
        self._is_cancelled = True
        for each in (self._encoding, self._reading):
            each.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Begins no further picture, and waits for those under way."""
        self.cancel()
        for each in (self._encoding, self._reading):
            each.shutdown()

    def _begin(self, path: Path) -> None:
        read = self._reading.submit(self._read, path)
        self._begun.append(self._encoding.submit(self._encode, read))

    def _read(self, path: Path) -> "_Read | Unreadable":
        """Reads one picture, in the first thread."""
        started = perf_counter()
        try:
            word = self._words[path]
            if is_pipe(path):
                picture = self._read_pipe(path)
            elif not is_url(word):
                picture = read_picture(path)
            elif is_data_url(word):
                picture = open_picture(word)
            else:
                raise make_url_error(word)
        except TinyvError as error:
            return Unreadable(path, error)
        pixels = to_pixels(picture, self._image_px)
        return _Read(path, picture.width, picture.height, pixels, perf_counter() - started)

    def _read_pipe(self, path: Path) -> Image.Image:
        """Reads a picture from a pipe, for as long as pictures are wanted.

        Raises:
            InputError: nobody writes into it, or it holds no picture.
        """
        way_out = "name a picture's file, or write the picture into the pipe: `<(cat cat.png)`"
        try:
            content = read_bytes(path, lambda: not self._is_cancelled)
        except OSError as error:
            problem = f"{path} cannot be read: {describe_os_error(error)}"
            raise InputError(problem, way_out) from error
        try:
            return read_picture(content)
        except TinyvError as error:
            raise type(error)(f"{path}: {error.problem}", way_out) from error

    def _encode(self, read: "Future[_Read | Unreadable]") -> Encoded | Unreadable:
        """Encodes one picture as soon as it was read, in the second thread."""
        picture = read.result()
        if isinstance(picture, Unreadable):
            return picture
        started = perf_counter()
        tokens = self._encoder.encode(picture.pixels)
        return Encoded(**vars(picture), tokens=tokens, encode_s=perf_counter() - started)


def answer_pictures(
    engine: Engine,
    words: Mapping[Path, str],
    prompt: str,
    options: AnswerOptions,
    *,
    caches_images: bool,
) -> Generator[dict[str, Any]]:
    """Opens a variant, asks every picture the same, yields its line, and frees the variant.

    Args:
        engine: that answers.
        words: that open the pictures, by the names of their lines and in their order. Where the
            vision side is offloaded, all of them are encoded before the first is answered.
        prompt: asked exactly as given.
        options: how answers are made.
        caches_images: whether image tokens are taken from the cache and kept there.

    Raises:
        InputError: the prompt does not fit the context, whatever the picture.
        TinyvError: the variant cannot be opened, or a picture not encoded.
    """
    n_ahead = len(words) if engine.is_offloaded else N_AHEAD
    begun: list[PicturePrefetcher] = []

    def prefetch(encoder: ImageEncoder) -> PicturePrefetcher:
        begun.append(PicturePrefetcher(encoder, words, engine.image_px, n_ahead))
        return begun[0]

    with engine.open(prefetch, caches_images=caches_images) as opened:
        session = opened.start_session()
        for picture in begun[0]:
            if isinstance(picture, Unreadable):
                error = picture.error
                problem = {"problem": error.problem, "hint": error.hint}
                yield {"path": str(picture.path), "error": problem}
            else:
                session.show_pixels(picture.pixels)
                yield _to_line(picture, session.ask(prompt, options).finish())


def _to_line(picture: Encoded, answer: Answer) -> dict[str, Any]:
    """Makes the line of a picture and its answer; times are seconds of work on this picture.

    Reading and encoding went on while others were answered: totals add up to more than a clock's.
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
            "total": picture.read_s + picture.encode_s + timings.total_s,
        },
    }
