import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = "tests/campaign/damage/rounds.py"


def test_short_rounds_against_files_find_nothing():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROUNDS]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
