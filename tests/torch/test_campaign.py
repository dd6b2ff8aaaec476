"""A short round of each campaign that starts programs; long ones are run by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "words",
    [
        "kills --count 3 --cuts 2",
        "pairs --count 3",
        "interrupts --count 2",
        "writes --count 2 --works ask train",
        "server --count 60",
    ],
)
def test_a_short_round_finds_nothing(words):
    name, *others = words.split()
    command = [sys.executable, "-m", f"tests.campaign.{name}", *others]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
