"""Answers and documents go to stdout, everything else to stderr; nothing else writes there.

A model's text is written plain, piece by piece; brackets are never taken for markup. rich is loaded
only where stderr is a terminal. A reader that has gone away ends the program on stdout, and is
ignored on stderr.
"""

import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import TextIO

from tinyv_cli.errors import DeviceError, TinyvError, describe_os_error
from tinyv_cli.progress import Bar, LineBar, SilentBar, TerminalBar, Unit

_GLUE = "\0"  # stands for a blank that no line is broken at
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and newlines
_NARROW, _USUAL = 60, 80  # columns
ENDLESS = 1_000_000  # columns; no line has so many


class Console:
    """Writes for one command.

    Attributes:
        quiet: keeps notes, reports and progress back; warnings and errors are written all the same.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._line_is_open = False

    def write_piece(self, text: str) -> None:
        """Writes a piece of an answer to stdout at once."""
        if text:
            _write_stdout(text)
            self._line_is_open = not text.endswith("\n")

    def end_answer(self) -> None:
        """Ends an answer with one newline."""
        _write_stdout("\n")
        self._line_is_open = False

    def end_broken_answer(self) -> None:
        """Ends the line of an answer that broke off, so that what follows starts on its own."""
        if self._line_is_open:
            self.end_answer()

    def write_line(self, text: str) -> None:
        """Writes one line, or several, to stdout."""
        _write_stdout(text + "\n")

    def write_json(self, document: object) -> None:
        """Writes one JSON document on one line of stdout, escaped where stdout is not UTF-8."""
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        if _to_encodable(text, sys.stdout) != text:
            text = json.dumps(document, allow_nan=False)
        self.write_line(text)

    def write_note(self, text: str) -> None:
        """Writes one line for the user to stderr."""
        if not self.quiet:
            _write_stderr("note:", _to_printable(text))

    def write_warning(self, text: str) -> None:
        """Writes one line to stderr that is wanted with `--quiet` too: an answer may be wrong."""
        _write_stderr("warning:", _to_printable(text))

    def write_report(self, text: str, *, is_asked: bool = False) -> None:
        """Writes a table or another text of several lines to stderr, as it is.

        Args:
            text: of any number of lines.
            is_asked: whether an option of its own asks for it, so that it is written in any case.
        """
        if is_asked or not self.quiet:
            _write_stderr("", text)

    def write_error(self, error: TinyvError) -> None:
        """Writes problem and hint to stderr."""
        _write_stderr("error:", _to_printable(error.problem))
        _write_stderr("hint: ", _to_printable(error.hint))

    def progress(
        self, label: str, total: int | None = None, unit: Unit = "steps"
    ) -> AbstractContextManager[Bar]:
        """Opens a long step: a bar on a terminal, few lines elsewhere, nothing when quiet."""
        if self.quiet:
            return SilentBar()
        if is_terminal(sys.stderr):
            return TerminalBar(label, total, unit)
        return LineBar(label, total, lambda line: _write_stderr("", line), unit)


def measure_columns(stream: TextIO | None) -> int:
    """Returns the columns of a terminal; of anything else, more than any line has.

    `COLUMNS` wins. `shutil.get_terminal_size` asks stdout alone, which may be piped.
    """
    if stream is None or not is_terminal(stream):
        return ENDLESS
    chosen = os.environ.get("COLUMNS", "")
    with suppress(OSError, ValueError):
        return int(chosen or 0) or os.get_terminal_size(stream.fileno()).columns or _USUAL
    return _USUAL


def to_table(header: Sequence[str], rows: Sequence[Sequence[str]], n_columns: int = ENDLESS) -> str:
    """Lines up cells: the first of a row to the left, the others to the right.

    Args:
        header: a name for each cell of a row.
        rows: of as many cells.
        n_columns: of the terminal. Where a line would be longer, each row becomes a block instead,
            with its cells below each other.

    Returns:
        Lines without spaces or a newline at the end.
    """
    lines = [header, *rows]
    widths = [max(len(line[cell]) for line in lines) for cell in range(len(header))]
    if sum(widths) + 2 * len(widths) - 2 > n_columns:
        label = max(map(len, header[1:]))
        return "\n".join(
            "\n".join([row[0], *(f"  {name:<{label}}  {cell}".rstrip() for name, cell in rest)])
            for row in rows
            for rest in [list(zip(header[1:], row[1:], strict=True))]
        )
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def to_size(size_bytes: float, n_digits: int = 1) -> str:
    """Formats a number of bytes with powers of 1000: `1.7 GB`.

    Args:
        size_bytes: the number.
        n_digits: behind the point, of what is below 100 and not in bytes; two where sizes are
            compared, which may be near each other.
    """
    size, unit = float(size_bytes), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    digits = n_digits if size < 99.95 and unit != "bytes" else 0
    return f"{size:.{digits}f} {unit}"


def abandon_stdout() -> None:
    """Sends what is still buffered to nowhere, so that the interpreter's own flush cannot fail.

    Source: Python documentation, `signal`, "Note on SIGPIPE".
    """
    _abandon(sys.stdout)


def _write(stream: TextIO | None, text: str) -> None:
    """Writes and flushes; characters the stream cannot hold become question marks."""
    if stream is not None:  # a closed descriptor leaves no stream at all
        stream.write(_to_encodable(text, stream))
        stream.flush()


def _write_stdout(text: str) -> None:
    """Writes to stdout and flushes; a terminal is shown control characters, and does not obey them.

    Raises:
        BrokenPipeError: the reader has gone away.
        DeviceError: it is refused otherwise, as by a full disk; nothing more is written there.
    """
    if is_terminal(sys.stdout):
        text = _CONTROLS.sub(lambda found: _escape(found[0]), text)
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_stdout()
        raise DeviceError(
            f"stdout cannot be written: {describe_os_error(error)}",
            "make room, or send it elsewhere: `tinyv … > FILE`",
        ) from error


def _write_stderr(label: str, text: str) -> None:
    """Writes a text with a label to stderr, the label in colour on a terminal."""
    try:
        if label and is_terminal(sys.stderr):
            from rich.console import Console as RichConsole  # it keeps `NO_COLOR`, dumb terminals
            from rich.text import Text

            style = {"error:": "bold red", "warning:": "bold yellow"}.get(label, "bold")
            whole = wrap_words(f"{label} {text}", measure_columns(sys.stderr))
            line = Text.assemble((label, style), whole[len(label) :])
            RichConsole(file=sys.stderr).print(line, soft_wrap=True, highlight=False)
        else:
            _write(sys.stderr, f"{label} {text}\n" if label else f"{text}\n")
    except OSError:
        _abandon(sys.stderr)


def wrap_words(text: str, n_columns: int) -> str:
    """Breaks one line at words; what stands in backticks stays whole, to be copied.

    Lines after the first stand below the words behind the label, on a narrow terminal further left.

    Args:
        text: begins with a label, as in `note: a text`.
        n_columns: that a line has at most, but for a longer command.
    """
    whole = re.sub(r"`[^`]*`", lambda found: found[0].replace(" ", _GLUE), text)
    label = re.match(r"\S*\s*", text)
    indent = " " * (label.end() if label and n_columns > _NARROW else 2)
    lines = textwrap.wrap(
        whole,
        n_columns,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )
    return "\n".join(lines).replace(_GLUE, " ")


def _to_printable(text: str) -> str:
    """Escapes control characters and newlines: file and tensor names can hold anything.

    Secrets of URLs are hidden where such errors are made; here too, whatever may quote one.
    """
    from tinyv_cli.addresses import hide_secrets  # `--help` writes no note

    return "".join(each if each.isprintable() else _escape(each) for each in hide_secrets(text))


def _escape(character: str) -> str:
    """Writes a character as it stands in Python source."""
    return character.encode("unicode_escape").decode()


def _to_encodable(text: str, stream: TextIO | None) -> str:
    """Replaces characters that the stream's encoding lacks by question marks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding, getattr(stream, "errors", None) or "strict")
    except UnicodeEncodeError:
        return text.encode(encoding, "replace").decode(encoding)
    return text


def is_terminal(stream: TextIO | None) -> bool:
    """Returns whether a stream is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def _abandon(stream: TextIO | None) -> None:
    """Points a stream's descriptor at the null device."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]  # None: AttributeError
        os.close(nowhere)
