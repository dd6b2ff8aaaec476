"""Long steps become a moving bar, a line now and then, or nothing, on stderr."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    from rich import progress as rich_progress

Unit = Literal["steps", "bytes"]

LINE_EVERY_S = 10.0
WORTH_A_LINE_S = 1.0


class Bar(Protocol):
    """One step that is under way."""

    def advance(self, amount: int = 1) -> None:
        """Adds to the amount that is done."""

    def count_failure(self) -> None:
        """Counts a part of the amount that came to nothing; `advance` is called for it too."""


class Progress(Protocol):
    """Opens a step of a long piece of work and shows how far it is, as `Console.progress` does.

    `with progress("reading weights", total=n) as bar:` opens a step, `bar.advance(k)` moves it.
    """

    def __call__(
        self, label: str, total: int | None = None, unit: Unit = "steps"
    ) -> AbstractContextManager[Bar]:
        """Opens a step of `total` units; None if their number is unknown."""


class SilentBar:
    """A step that is not shown."""

    def advance(self, amount: int = 1) -> None:
        """Shows nothing."""

    def count_failure(self) -> None:
        """Shows nothing."""

    def __enter__(self) -> Self:
        """Shows nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Shows nothing."""


def show_nothing(label: str, total: int | None = None, unit: Unit = "steps") -> SilentBar:
    """Opens a step that is not shown; a `Progress`."""
    return SilentBar()


class WholeProgress:
    """Shows several steps as one, with the time left for all of them; a `Progress`.

    Args:
        bar: of the whole, `UNITS` long and under way.
        shares: a step's label → its part of the time; a label that is not there takes none.
    """

    UNITS = 1000

    def __init__(self, bar: Bar, shares: Mapping[str, float]) -> None:
        self._bar = bar
        self._units = {
            key: self.UNITS * each / sum(shares.values()) for key, each in shares.items()
        }
        self._reached, self._shown = 0.0, 0

    def __call__(self, label: str, total: int | None = None, unit: Unit = "steps") -> "ShareBar":
        """Opens a step."""
        return ShareBar(self, self._units.pop(label, 0.0), total)

    def move(self, units: float) -> None:
        """Moves the bar of the whole, in whole units."""
        self._reached += units
        more = round(self._reached) - self._shown
        self._shown += more
        if more:
            self._bar.advance(more)


class ShareBar:
    """A step that is shown as its share of the whole."""

    def __init__(self, whole: WholeProgress, units: float, total: int | None) -> None:
        self._whole, self._left, self._total = whole, units, total
        self._unit = units / total if total else 0.0

    def advance(self, amount: int = 1) -> None:
        """Moves the whole by what this is of it."""
        units = min(self._left, amount * self._unit)
        self._left -= units
        self._whole.move(units)

    def count_failure(self) -> None:
        """Shows nothing: a share has no line of its own."""

    def __enter__(self) -> Self:
        """Shows nothing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Moves the whole by the rest of the share, unless the step failed."""
        if kind is None:
            self._whole.move(self._left)


class LineBar:
    """A step written in whole lines: every ten seconds, and at its end if it took a second.

    For log files and pipes, where a bar would be drawn a thousand times.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        write_line: Callable[[str], None],
        unit: Unit = "steps",
    ) -> None:
        self._label, self._total, self._write_line, self._unit = label, total, write_line, unit
        self._done = self._n_failed = 0
        self._start_s = self._written_s = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        """Counts, and writes a line if the last one is old."""
        self._done += amount
        now_s = time.monotonic()
        if now_s - self._written_s >= LINE_EVERY_S:
            self._written_s = now_s
            failed = f", {self._n_failed} failed" if self._n_failed else ""
            self._write_line(f"{self._label}: {self._format_share(now_s - self._start_s)}{failed}")

    def count_failure(self) -> None:
        """Counts for the next line."""
        self._n_failed += 1

    def _format_share(self, elapsed_s: float) -> str:
        """Formats how much is done, how fast, and when the rest will be."""
        if not self._total:
            return str(self._done)
        share = f"{100 * self._done // self._total} %"
        if not 0 < self._done < self._total or self._unit != "steps":
            return share
        left_s = elapsed_s * (self._total - self._done) / self._done
        return f"{share}, {self._done / elapsed_s:.2f} a second, {left_s:.0f} s left"

    def __enter__(self) -> Self:
        """Starts the clock anew."""
        self._start_s = self._written_s = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Writes how long it took, unless it failed or was over at once."""
        elapsed_s = time.monotonic() - self._start_s
        if kind is None and elapsed_s >= WORTH_A_LINE_S:
            self._write_line(f"{self._label}: done in {elapsed_s:.1f} s")


class TerminalBar:
    """A step drawn by rich on a terminal; steps are not nested."""

    def __init__(self, label: str, total: int | None, unit: Unit) -> None:
        self._progress = _make_rich_progress(unit)
        self._label, self._n_failed = label, 0
        self._task = self._progress.add_task(label, total=total)

    def advance(self, amount: int = 1) -> None:
        """Moves the bar."""
        self._progress.advance(self._task, amount)

    def count_failure(self) -> None:
        """Shows how many there were."""
        self._n_failed += 1
        label = f"{self._label}, {self._n_failed} failed"
        self._progress.update(self._task, description=label)

    def __enter__(self) -> Self:
        """Starts drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Draws a last time and leaves the line standing."""
        self._progress.stop()


def _make_rich_progress(unit: Unit) -> "rich_progress.Progress":
    """Makes a bar and its columns; stdout is left alone, an answer may be on its way there."""
    from rich import progress as columns
    from rich.console import Console
    from rich.text import Text

    class StepRateColumn(columns.ProgressColumn):
        """Steps a second."""

        def render(self, task: columns.Task) -> Text:
            """Draws the rate, once there is one."""
            return Text(f"{task.speed:.2f}/s" if task.speed else "")

    count = columns.DownloadColumn() if unit == "bytes" else columns.MofNCompleteColumn()
    rate = columns.TransferSpeedColumn() if unit == "bytes" else StepRateColumn()
    return columns.Progress(
        columns.TextColumn("{task.description}", markup=False),
        columns.BarColumn(),
        count,
        rate,
        columns.TimeElapsedColumn(),
        columns.TextColumn("left"),
        columns.TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        redirect_stdout=False,
    )
