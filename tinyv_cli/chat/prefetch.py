"""A picture becomes an open session in a thread, while the user types."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import TypeAlias

import numpy as np

from tinyv_cli.engine import OpenEngine
from tinyv_cli.session import Session

Opened: TypeAlias = tuple[Session, OpenEngine]
OpenAbout: TypeAlias = Callable[[np.ndarray | None], AbstractContextManager[Opened]]


class SessionPrefetcher:
    """One session, opened and shown pictures by a thread of its own.

    The thread does one thing after the other, so that the caller of `wait` has the session alone
    until the next `show`.

    Args:
        open_about: opens a session about a picture's pixels (1, 3, S, S), or about none.
        stays_open: whether an open session can be shown another picture; else it is opened anew,
            as where memory does not hold decoder and vision side at once.
    """

    def __init__(self, open_about: OpenAbout, *, stays_open: bool) -> None:
        self._open_about = open_about
        self._stays_open = stays_open
        self._worker = ThreadPoolExecutor(1, "session")
        self._stack = ExitStack()
        self._opened: Opened | None = None
        self._has_picture = False  # whether what is open was opened with one
        self._pixels: np.ndarray | None = None
        self._begun: Future[Opened] | None = None

    def show(self, pixels: np.ndarray | None) -> None:
        """Begins to open and to encode a picture; without one, nothing until it is waited for."""
        self._pixels = pixels
        self._begun = None
        if pixels is not None:
            self._begun = self._worker.submit(self._prepare, pixels)

    def wait(self) -> Opened:
        """Waits for the session, and returns it.

        Raises:
            TinyvError: it cannot be opened; waiting again tries again.
            KeyboardInterrupt: Ctrl-C; the thread goes on.
        """
        if self._begun is None:
            self._begun = self._worker.submit(self._prepare, self._pixels)
        begun = self._begun
        try:
            return begun.result()
        finally:
            if begun.done() and begun.exception() is not None:
                self._begun = None

    def close(self) -> None:
        """Closes what is open, after the thread's last piece of work."""
        self._worker.submit(self._close).result()
        self._worker.shutdown()

    def _prepare(self, pixels: np.ndarray | None) -> Opened:
        # What was opened without a picture keeps no image tokens for next time.
        can_show = self._stays_open and self._has_picture and pixels is not None
        if self._opened is None or not can_show:
            self._close()
            self._opened = self._stack.enter_context(self._open_about(pixels))
            self._has_picture = pixels is not None
        elif pixels is not None:
            session, _ = self._opened
            session.show_pixels(pixels)
            session.look()
        return self._opened

    def _close(self) -> None:
        self._opened = None
        self._stack.close()
