"""Lines of a run are counted as they come, for its progress and its last notes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from tinyv_cli.console import Console
from tinyv_cli.progress import Bar
from tinyv_cli.session import AnswerOptions
from tinyv_cli.variants.miniature import make_doubts


@dataclass
class Tally:
    """The pictures of a run so far.

    Attributes:
        bar: moves with each.
        n_lines: as many came.
        n_cut: as many of their answers were as long as is allowed.
        n_no_drawing: as many of their pictures are none that a toy can answer about.
    """

    bar: Bar
    n_lines: int = 0
    n_cut: int = 0
    n_no_drawing: int = 0
    _started_s: float = field(default_factory=perf_counter)

    def count(self, line: Mapping[str, Any]) -> None:
        """Adds a line."""
        self.n_lines += 1
        self.n_cut += line.get("finish_reason") == "length"
        self.n_no_drawing += line.get("drawing") is False
        if "error" in line:
            self.bar.count_failure()
        self.bar.advance()

    def tell(self, console: Console, options: AnswerOptions) -> None:
        """Says what the user is to know at the end.

        Args:
            console: takes warnings and notes.
            options: that answers were made with.
        """
        if self.n_no_drawing:
            console.write_warning(make_doubts(self.n_no_drawing, self.n_lines))
        elapsed_s = perf_counter() - self._started_s
        rate = self.n_lines / elapsed_s
        console.write_note(f"{self.n_lines} pictures in {elapsed_s:.1f} s, {rate:.2f} a second")
        if self.n_cut:
            n = options.max_new_tokens
            verb = "cut" if options.grammar is None else "brought to an end"
            note = f"{self.n_cut} answers were {verb} after {n} tokens; `-n {2 * n}` allows more"
            console.write_note(note)
