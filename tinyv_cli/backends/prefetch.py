"""A picture becomes image tokens in a thread, while something else is opened."""

from threading import Thread

import numpy as np

from tinyv_cli.answers.generate import ImageEncoder


class PrefetchingEncoder:
    """An encoder that begins with one picture at once, in a thread; it encodes others too.

    Args:
        encoder: is used by the thread alone until that picture is done.
        pixels: (1, 3, S, S) float32 of the picture.
    """

    def __init__(self, encoder: ImageEncoder, pixels: np.ndarray) -> None:
        self._encoder = encoder
        self._pixels = pixels
        self._tokens: np.ndarray | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Returns image tokens (B, Q, D) of pixels (B, 3, S, S), both float32.

        Raises:
            TinyvError: as the encoder does, also for the picture of the thread.
        """
        self._thread.join()
        if not np.array_equal(pixels, self._pixels):
            return self._encoder.encode(pixels)
        if self._tokens is None:
            assert self._error is not None
            raise self._error
        return self._tokens

    def wait(self) -> None:
        """Waits for the thread, whatever comes of it."""
        self._thread.join()

    def cancel(self) -> None:
        """Does nothing: the one picture is under way already."""

    def close(self) -> None:
        """Waits for the thread, so that it does not outlive the encoder."""
        self.wait()

    def _work(self) -> None:
        try:
            self._tokens = self._encoder.encode(self._pixels)
        except BaseException as error:  # noqa: BLE001 - is raised again where tokens are asked for
            self._error = error
