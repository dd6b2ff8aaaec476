"""Every option that takes a path, against every kind of path: two lines, or it works.

Seen in: issue "what other people's reports broke", table B: paths that may not be looked at, are
too long or are not UTF-8 ended with a traceback, and chat with the conversation lost.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.light.disk.path_cases import HOME, KINDS, OPTIONS
from tinyv_cli.errors import ExitCode

ROOT = Path(__file__).resolve().parents[3]
PLANNED = {ExitCode.USAGE, ExitCode.INPUT, ExitCode.WEIGHTS, ExitCode.DEVICE, ExitCode.BATCH}
BY_PERMISSION = {"locked", "read-only"}
RIGHTS = "-dac_override,-dac_read_search"

READS = {"not UTF-8", "read-only"}  # where what is wanted lies there
ONLY_WRITES = {"not UTF-8"}
LOOKS = {"not UTF-8", "folder", "read-only"}
ONLY_LISTS = {"not UTF-8", "folder", "FIFO", "ring", "/dev/full", "read-only"}
WORKS = {
    **dict.fromkeys(("ask PICTURE", "ask --image", "ask --prompt-file", "ask -m"), READS),
    **dict.fromkeys(("chat PICTURE", "chat -m", "batch PICTURE", "batch list", "batch -m"), READS),
    **dict.fromkeys(("eval -m", "eval --against", "pull VARIANT", "push NAME"), READS),
    **dict.fromkeys(("ask --draw", "batch -o", "batch --sheet"), ONLY_WRITES),
    **dict.fromkeys(("pull VARIANT --to", "push FOLDER"), ONLY_WRITES),
    **dict.fromkeys(("TINYV_HOME list", "TINYV_HOME list --json"), LOOKS),
    **dict.fromkeys(("TINYV_HOME doctor", "TINYV_HOME doctor --json"), LOOKS),
    "TINYV_HOME pull VARIANT": {"not UTF-8", "folder"},
    **dict.fromkeys(("TINYV_HOME rm --sources", "TINYV_HOME pull --dry-run"), ONLY_LISTS),
    "pull --dry-run --to": ONLY_LISTS,
    **dict.fromkeys(("/image", "/save", "/export md", "/export json", "/draw", "/load"), KINDS),
}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such paths")


def is_root():
    return os.geteuid() == 0


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """What came of all of them; root's right to pass over permissions is given up first."""
    folder = tmp_path_factory.mktemp("paths")
    setpriv = shutil.which("setpriv")
    drop = [setpriv, f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}"]
    command = [*(drop if is_root() and setpriv else ()), sys.executable]
    done = subprocess.run(
        [*command, "-m", "tests.light.disk.path_cases", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    for place in folder.glob("*/*"):  # so that the folder can be removed
        if not place.is_symlink() and place.is_dir():
            place.chmod(0o755)
    assert done.returncode == 0, done.stderr
    found = map(json.loads, done.stdout.splitlines())
    return {(each["option"], each["kind"]): each for each in found}


@lru_cache(maxsize=1)
def has_rights_to_give_up():
    return not is_root() or shutil.which("setpriv") is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", OPTIONS)
def test_each_path_works_or_is_told_in_two_lines(cases, option, kind):
    if kind in BY_PERMISSION and not has_rights_to_give_up():
        pytest.skip("root may read everything, and there is no setpriv to give that up")
    case = cases[option, kind]
    works = kind in WORKS.get(option, ())
    assert case["code"] in ({ExitCode.OK} if works else PLANNED), case
    lines = [line for line in case["err"].splitlines() if not line.startswith("note:")]
    if not works:
        assert [line[:7] for line in lines] == ["error: ", "hint:  "], case
    if option.startswith("/") and option not in HOME:
        assert case["out"].endswith(":still there?\n"), case


@pytest.mark.parametrize("option", ["ask PICTURE", "batch -o", "ask -m", "quantize -o", "/save"])
def test_the_path_is_named(cases, option):
    if option.startswith("quantize") and find_spec("torch") is None:
        pytest.skip("without torch that is what `tinyv quantize` tells first")
    for kind in ("locked", "long", "ring"):
        if kind == "locked" and not has_rights_to_give_up():
            continue
        case = cases[option, kind]
        name = "x" * 240 if kind == "long" else "path"
        assert name in case["err"].replace("locked/path", "path"), case
