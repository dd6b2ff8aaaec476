"""Pictures are read and encoded in threads, one after the other, before they are asked about.

Reading, the vision side and the decoder each have a thread: a large photograph takes longer to read
than a small model to encode. Where the two sides of the model would want the same cores they
compute in turn.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from tinyv_cli.answers.generate import ImageEncoder, ImageTokens
from tinyv_cli.errors import TinyvError
from tinyv_cli.pictures.image import hash_pixels, to_pixels

_N_AHEAD = 2  # one waits while the next is made ready; a picture takes 2.4 MB


@dataclass(frozen=True)
class Preparing:
    """How pictures are made ready.

    Attributes:
        image_px: S, the side of the square that the vision tower sees.
        n_ahead: how many are made ready at most before they are wanted; None for all of them.
        takes_turns: whether a picture is read ahead alone, and encoded while it is waited for.
    """

    image_px: int
    n_ahead: int | None = _N_AHEAD
    takes_turns: bool = False


@dataclass(frozen=True)
class _Picture:
    """A picture that could be read.

    Attributes:
        path: that names it.
        width: of the upright picture, in pixels.
        height: likewise.
        read_s: what decoding and shrinking the file took.
    """

    path: Path
    width: int
    height: int
    read_s: float


@dataclass(frozen=True)
class _Read(_Picture):
    """A picture that waits for the vision side: its pixels are (1, 3, S, S) float32."""

    pixels: np.ndarray


@dataclass(frozen=True)
class Encoded(_Picture):
    """A picture that can be asked about.

    Attributes:
        image: its image tokens.
        encode_s: what they took.
    """

    image: ImageTokens
    encode_s: float


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be used."""

    path: Path
    error: TinyvError


@dataclass
class _Begun:
    """A picture that is being read, and perhaps encoded."""

    read: "Future[_Read | Unreadable]"
    encoded: Future[Encoded | Unreadable] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether all that was asked for is done."""
        return self.encoded.done() if self.encoded else self.read.done()


class PicturePrefetcher:
    """Pictures in their order, made ready before they are wanted; also a session's encoder.

    Args:
        encoder: is used by one thread alone.
        paths: that name the pictures; the first is encoded at once, while something is opened.
        read: opens a picture by its name, in a thread, or raises a `TinyvError`.
        preparing: how they are made ready.
        look: is given each picture's name and pixels, (1, 3, S, S), in the reading thread.

    Attributes:
        is_cancelled: whether what is under way is no longer wanted.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        paths: Iterable[Path],
        read: Callable[[Path], Image.Image],
        preparing: Preparing,
        look: Callable[[Path, np.ndarray], None] = lambda *_: None,
    ) -> None:
        self._encoder = encoder
        self._preparing = preparing
        self._open = read
        self._look = look
        self._paths = iter(paths)
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")
        self._encoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self._begun: deque[_Begun] = deque()
        self.is_cancelled = False
        for path in islice(self._paths, preparing.n_ahead):
            self._begin(path)
        if self._begun:
            self._encode_begun(self._begun[0])

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
            yield self._encode_begun(self._begun.popleft()).result()

    def as_ready(self, may_wait: Callable[[], bool]) -> Iterator[Encoded | Unreadable | None]:
        """Yields one picture after the other, or None where the next is not ready.

        Where the sides take turns, one that was read is encoded then and there.

        Args:
            may_wait: whether nothing else is to be done meanwhile, so that it is waited for.

        Raises:
            TinyvError: a picture cannot be encoded, which is no picture's fault.
        """
        pictures = iter(self)
        while True:
            if self._begun and not self._begun[0].is_ready and not may_wait():
                yield None
                continue
            picture = next(pictures, None)
            if picture is None:
                return
            yield picture

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Returns image tokens (B, Q, D) of pixels (B, 3, S, S), after those that were begun."""
        return self._encoding.submit(self._encoder.encode, pixels).result()

    def wait(self) -> None:
        """Encodes every picture that was begun, and waits for it."""
        for each in self._begun:
            self._encode_begun(each).exception()

    def cancel(self) -> None:
        """Begins no further picture."""
        self.is_cancelled = True
        for each in (self._encoding, self._reading):
            each.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Begins no further picture, and waits for those under way."""
        self.cancel()
        for each in (self._encoding, self._reading):
            each.shutdown()

    def _begin(self, path: Path) -> None:
        self._begun.append(_Begun(self._reading.submit(self._read, path)))
        if not self._preparing.takes_turns:
            self._encode_begun(self._begun[-1])

    def _encode_begun(self, begun: _Begun) -> Future[Encoded | Unreadable]:
        """Begins to encode a picture, unless that was done before."""
        begun.encoded = begun.encoded or self._encoding.submit(self._encode, begun.read)
        return begun.encoded

    def _read(self, path: Path) -> "_Read | Unreadable":
        """Reads one picture, in the first thread."""
        started = perf_counter()
        try:
            picture = self._open(path)
        except TinyvError as error:
            return Unreadable(path, error)
        pixels = to_pixels(picture, self._preparing.image_px)
        self._look(path, pixels)
        return _Read(path, picture.width, picture.height, perf_counter() - started, pixels)

    def _encode(self, read: "Future[_Read | Unreadable]") -> Encoded | Unreadable:
        """Encodes one picture once it has been read, in the second thread."""
        picture = read.result()
        if isinstance(picture, Unreadable):
            return picture
        started = perf_counter()
        tokens = self._encoder.encode(picture.pixels)[0]
        image = ImageTokens(tokens, hash_pixels(picture.pixels))
        about = (picture.path, picture.width, picture.height, picture.read_s)
        return Encoded(*about, image, perf_counter() - started)
