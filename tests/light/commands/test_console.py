import io
import json
import os
import subprocess
import sys

import pytest

from tinyv_cli import progress as progress_module
from tinyv_cli.console import Console, to_size, to_table, wrap_words
from tinyv_cli.errors import InputError
from tinyv_cli.progress import LineBar, SilentBar, WholeProgress

ERROR = InputError("cat.heic is not a picture Pillow can read", "convert it to JPEG or PNG")


def make_stream(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="\n")


def read_stream(stream):
    return stream.buffer.getvalue().decode(stream.encoding)


def test_brackets_and_markup_in_an_answer_survive(capsys):
    console = Console()
    for piece in ["[bold]no[/bold] ", "{<12><3><40><50>}", " [vqa] :smile: <p>a cat</p>"]:
        console.write_piece(piece)
    console.end_answer()
    expected = "[bold]no[/bold] {<12><3><40><50>} [vqa] :smile: <p>a cat</p>\n"
    assert capsys.readouterr() == (expected, "")


def test_each_piece_arrives_at_once(monkeypatch):
    stream = make_stream("utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    console = Console()
    console.write_piece("a ")
    assert read_stream(stream) == "a "
    console.write_piece("cat")
    assert read_stream(stream) == "a cat"


def test_an_answer_that_broke_off_ends_its_line_and_none_begins_one(capsys):
    console = Console()
    console.end_broken_answer()
    console.write_piece("")
    console.end_broken_answer()
    assert capsys.readouterr().out == ""
    console.write_piece("a c")
    console.end_broken_answer()
    console.end_broken_answer()
    assert capsys.readouterr().out == "a c\n"
    console.write_piece("a cat\n")
    console.end_broken_answer()
    assert capsys.readouterr().out == "a cat\n"


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "caf? ?"), ("latin-1", "café ?")])
def test_a_character_the_terminal_lacks_is_replaced(monkeypatch, encoding, shown):
    stream = make_stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    Console().write_piece("café 猫")
    assert read_stream(stream) == shown


def test_what_the_user_chose_for_such_characters_is_kept(monkeypatch):
    stream = make_stream("ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    Console().write_piece("café")
    assert read_stream(stream) == "caf\\xe9"


def test_half_a_surrogate_pair_does_not_stop_an_answer(monkeypatch):
    stream = make_stream("utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    Console().write_piece("a \ud83d cat")
    assert read_stream(stream) == "a ? cat"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_document_is_one_line_of_json_and_loses_no_character(monkeypatch, encoding):
    stream = make_stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    document = {"answer": 'a "café" 猫\n[b]'}
    Console().write_json(document)
    text = read_stream(stream)
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    assert json.loads(text) == document
    assert ("猫" in text) == (encoding == "utf-8")


def test_notes_reports_and_errors_go_to_stderr(capsys):
    console = Console()
    console.write_note("the newest variant answers")
    console.write_report("a\nb")
    console.write_error(ERROR)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "note: the newest variant answers\na\nb\n"
        "error: cat.heic is not a picture Pillow can read\nhint:  convert it to JPEG or PNG\n"
    )


def test_a_terminal_does_not_obey_what_an_answer_holds(monkeypatch, capsys):
    hostile = "a\tcat\x1b]0;title\x07\r\x9b2J\nis here é"
    Console().write_piece(hostile)
    assert capsys.readouterr().out == hostile  # a pipe gets it as it is
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Console().write_piece(hostile)
    assert capsys.readouterr().out == "a\tcat\\x1b]0;title\\x07\\r\\x9b2J\nis here é"


def test_quiet_keeps_everything_back_but_errors_and_answers(capsys):
    console = Console(quiet=True)
    console.write_note("note")
    console.write_report("report")
    with console.progress("reading", total=3) as bar:
        bar.advance()
    console.write_error(ERROR)
    console.write_line("answer")
    out, err = capsys.readouterr()
    assert out == "answer\n"
    assert err.startswith("error: cat.heic")
    assert err.count("\n") == 2


def test_control_characters_of_a_file_name_do_not_reach_the_terminal(capsys):
    Console().write_error(InputError("a\x1b[2J\nb.png is no picture", "rename it"))
    assert capsys.readouterr().err == "error: a\\x1b[2J\\nb.png is no picture\nhint:  rename it\n"


def test_closed_streams_are_written_to_without_a_word(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console = Console()
    console.write_piece("a cat")
    console.write_json({"answer": "ü"})
    console.write_error(ERROR)
    with console.progress("reading", 3) as bar:
        bar.advance()


def test_nobody_left_on_stderr_does_not_stop_an_answer(monkeypatch, capsys):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    Console().write_note("hello")
    Console().write_error(ERROR)
    Console().write_line("a cat")
    assert capsys.readouterr().out == "a cat\n"


def test_a_table_lines_up_its_columns():
    rows = [("stage4-4bit", "2.1 GB"), ("b", "900 MB")]
    assert to_table(("name", "size"), rows) == (
        "name           size\nstage4-4bit  2.1 GB\nb            900 MB"
    )


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (2_100_000_000, "2.1 GB"),
        (8_100_000_000_000_000, "8100 TB"),
    ],
)
def test_sizes_are_read_as_people_write_them(size_bytes, text):
    assert to_size(size_bytes) == text


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: `clock[0]` is the time in seconds."""
    now_s = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now_s[0])
    return now_s


def test_a_long_step_in_a_log_is_a_line_now_and_then(clock):
    lines = []
    with LineBar("reading", 50, lines.append) as bar:
        for _ in range(50):
            clock[0] += 0.5
            bar.advance()
    assert lines == [
        "reading: 40 %, 2.00 a second, 15 s left",
        "reading: 80 %, 2.00 a second, 5 s left",
        "reading: done in 25.0 s",
    ]


def test_a_long_step_without_a_total_counts(clock):
    lines = []
    with LineBar("packing", None, lines.append) as bar:
        clock[0] += 10
        bar.advance(7)
    assert lines == ["packing: 7", "packing: done in 10.0 s"]


def test_a_short_step_in_a_log_is_not_told(clock):
    lines = []
    with LineBar("reading", 50, lines.append) as bar:
        bar.advance(50)
        clock[0] += 0.9
    assert lines == []


def test_a_step_that_failed_is_not_called_done(clock):
    lines = []

    def read():
        with LineBar("reading", 50, lines.append):
            clock[0] += 5
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        read()
    assert lines == []


def test_steps_are_lines_where_stderr_is_no_terminal_and_rich_stays_unloaded(capsys):
    assert isinstance(Console().progress("reading", 3), LineBar)
    assert isinstance(Console(quiet=True).progress("reading", 3), SilentBar)


def run_on_terminal(code, **environment):
    """Runs code with stderr on a terminal; returns its stdout and what the terminal got."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    master, slave = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "TERM"}}
    try:
        out = subprocess.run(
            [sys.executable, "-c", f"from tinyv_cli.console import *\n{code}"],
            stdout=subprocess.PIPE,
            stderr=slave,
            env=clean | {"TERM": "xterm-256color", "COLUMNS": "200"} | environment,
            check=True,
            timeout=60,
        ).stdout
    finally:
        os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:  # Linux tells in this way that the other end is closed
        pass
    finally:
        os.close(master)
    return out.decode(), shown.decode()


WRITE_ERROR = "Console().write_error(TinyvError('[b]x[/b] is wrong', 'do [this]'))"


def test_an_error_on_a_terminal_has_colour_and_keeps_its_brackets_and_its_line():
    out, shown = run_on_terminal(WRITE_ERROR, COLUMNS="30")
    assert out == ""
    assert "\x1b[1;31merror:" in shown
    assert "[b]x[/b] is wrong" in shown
    assert "do [this]" in shown


def test_no_color_is_kept():
    _, shown = run_on_terminal(WRITE_ERROR, NO_COLOR="1")
    assert "error:" in shown
    assert "31m" not in shown


def test_a_bar_is_drawn_on_a_terminal_while_stdout_stays_plain():
    code = """
with Console().progress("reading [a]", total=3, unit="bytes") as bar:
    print("[bold]answer[/bold]")
    bar.advance(3)
"""
    out, shown = run_on_terminal(code)
    assert out == "[bold]answer[/bold]\n"
    assert "reading [a]" in shown
    assert "3/3 bytes" in shown


def test_steps_shown_as_one_move_it_by_their_shares_and_reach_its_end():
    moved = []

    class WholeBar(SilentBar):
        def advance(self, amount=1):
            moved.append(amount)

    progress = WholeProgress(WholeBar(), {"reading": 1, "rounding": 3})
    with progress("reading", 7) as bar:
        for _ in range(7):
            bar.advance()
    assert sum(moved) == 250
    with progress("opening") as bar:
        bar.advance(5)
    assert sum(moved) == 250
    failing = progress("rounding", 4)
    failing.advance(2)
    failing.__exit__(ValueError, ValueError(), None)  # what failed does not reach its end
    assert sum(moved) == 625
    progress = WholeProgress(WholeBar(), {"rounding": 3})
    moved.clear()
    with progress("rounding", 4) as bar:
        bar.advance(9)
    with progress("rounding", 4) as bar:  # a second time it takes none
        bar.advance()
    assert sum(moved) == 1000


@pytest.mark.parametrize("n_columns", [30, 40, 80])
def test_a_note_is_broken_at_words_and_a_command_in_it_not_at_all(n_columns):
    text = "note: there is no variant here at all; make one: `tinyv quantize --bits 4`, or take it"
    lines = wrap_words(text, n_columns).split("\n")
    assert len(lines) > 1
    assert max(map(len, lines)) <= n_columns
    assert " ".join(line.strip() for line in lines) == text
    assert sum("`tinyv quantize --bits 4`" in line for line in lines) == 1


def test_a_command_longer_than_a_line_is_kept_to_be_copied():
    command = "`tinyv quantize --sources /a/very/long/path --bits 4`"
    assert command in wrap_words(f"hint:  make one: {command}", 40)


def test_a_table_too_wide_for_the_terminal_becomes_blocks():
    header, rows = ["name", "size", "bits"], [["a long name", "1 MB", "4"], ["b", "2 MB", "8"]]
    assert to_table(header, rows, 23).count("\n") == 2
    assert to_table(header, rows, 20) == (
        "a long name\n  size  1 MB\n  bits  4\nb\n  size  2 MB\n  bits  8"
    )
