"""A minute without a line is told, with its likely cause; does not know what runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

STALLED_S = 60.0


@contextmanager
def watch_for_stalls(
    describe: Callable[[], str], write_note: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Says when nothing comes for a minute, and why that may be; yields what calls it off."""
    seen_s, is_over = [monotonic()], threading.Event()

    def look() -> None:
        said_s = STALLED_S
        while not is_over.wait(min(STALLED_S / 4, 5.0)):
            still_s = monotonic() - seen_s[0]
            if still_s < STALLED_S:
                said_s = STALLED_S
            elif still_s >= said_s:
                said_s = 2 * still_s  # each time twice as late
                write_note(f"no progress for {still_s:.0f} s: {describe()}")

    def see() -> None:
        seen_s[0] = monotonic()

    watcher = threading.Thread(target=look, name="watch", daemon=True)
    watcher.start()
    try:
        yield see
    finally:
        is_over.set()
        watcher.join()
