"""A process whose work is done ends at once, and Ctrl-C is not what ends it.

Seen in: issue "what other people's reports broke", table F: killed by the signal in the second
after quantize's last line.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinyv_cli.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
ENDS_WITHIN_S = 0.5  # measured 0.05; the interpreter takes 1.5 to give such a heap back
# As many objects as torch and transformers leave, and a verb that has worked on them.
PROGRAM = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
heap = [{number: [number]} for number in range(800_000)]
sys.argv = ["tinyv", *sys.argv[1:]]
from tinyv_cli.__main__ import run
run()
"""


def start(*words, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("wait_s", [0, 0.01, 0.03, 0.1, 0.3])
def test_ctrl_c_behind_the_last_line_finds_the_process_ended_or_ending(wait_s):
    process = start("-c", PROGRAM, "--version")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("tinyv ")
    told_s = time.monotonic()
    time.sleep(wait_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - told_s < ENDS_WITHIN_S + wait_s
    assert process.returncode in (ExitCode.OK, ExitCode.INTERRUPTED)
    assert err == ""


def test_ctrl_c_while_the_verbs_are_loaded_is_an_interruption(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt", "utf-8")
    process = start("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}")
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("words", "code"), [(["--version"], 0), (["aks"], ExitCode.USAGE), (["ask", "no.png", "a"], 3)]
)
def test_the_exit_code_and_all_that_was_said_arrive(words, code):
    process = start("-m", "tinyv_cli", *words)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert (out if code == 0 else err).endswith("\n")
    assert (err if code == 0 else out) == ""


def test_what_nobody_planned_for_still_ends_with_its_traceback():
    code = "import tinyv_cli.app as app, tinyv_cli.__main__ as program\napp.main = 0\nprogram.run()"
    process = start("-c", code)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (ExitCode.BUG, "")
    assert err.startswith("Traceback")
