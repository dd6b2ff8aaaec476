"""One process at a time holds a place, and no lock file lies in the user's folder."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.light.disk.killed import run_killed
from tinyv_cli.disk.lock import hold
from tinyv_cli.disk.places import locks_dir

HOLDER = """
import sys
from pathlib import Path
from tinyv_cli.disk.lock import hold
with hold(Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    sys.stdin.read()
"""


class AlreadyHeldError(Exception):
    pass


def refuse() -> None:
    raise AlreadyHeldError


@pytest.fixture
def hold_elsewhere():
    """Holds a place in another process until the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(place: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(place)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, **pipes)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with process:
            process.stdin.close()


def test_a_place_that_another_process_holds_is_refused_at_once(hold_elsewhere, tmp_path):
    hold_elsewhere(tmp_path / "v")
    with pytest.raises(AlreadyHeldError), hold(tmp_path / "v", refuse):
        pass
    with hold(tmp_path / "w", refuse):
        assert list(tmp_path.glob("[vw]*")) == []


def test_who_waits_is_told_once_and_then_holds_the_place(hold_elsewhere, tmp_path):
    other = hold_elsewhere(tmp_path / "v")
    told: list[str] = []

    def wait() -> None:
        told.append("waiting")
        other.stdin.close()

    with hold(tmp_path / "v", wait):
        assert told == ["waiting"]
        assert other.wait(10) == 0


def test_a_killed_process_holds_nothing(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom tinyv_cli.disk.lock import hold\n"
        "with hold(Path(sys.argv[1]), die): die()\n"
    )
    run_killed(code, tmp_path / "v")
    with hold(tmp_path / "v", refuse):
        pass


def test_a_place_is_held_once_whatever_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "v").mkdir()
    (tmp_path / "link").symlink_to("v")
    monkeypatch.chdir(tmp_path)
    for name in ("v", "./v", str(tmp_path / "link"), "v/../v"):
        with (
            hold(tmp_path / "v", refuse),
            pytest.raises(AlreadyHeldError),
            hold(Path(name), refuse),
        ):
            pass


def test_a_place_is_free_again_after_a_failure(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "v", refuse):
        raise KeyError
    with hold(tmp_path / "v", refuse):
        pass


def make_home_unusable(kind: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tinyv's own folder be one that nothing can be written into; root may write anywhere."""
    if kind == "not a folder":
        home.write_text("", "utf-8")
    else:
        locks_dir().mkdir(parents=True)
        monkeypatch.setattr(os, "access", lambda path, _: Path(path) != locks_dir())
    monkeypatch.setenv("TMPDIR", str(home.with_name("temporary")))
    home.with_name("temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.parametrize("kind", ["not a folder", "read-only"])
def test_where_tinyvs_own_folder_is_read_only_the_lock_lies_among_temporary_files(
    kind, tmp_path, monkeypatch
):
    home = tmp_path / "home"
    monkeypatch.setenv("TINYV_HOME", str(home))
    make_home_unusable(kind, home, monkeypatch)
    with (
        hold(tmp_path / "v", refuse),
        pytest.raises(AlreadyHeldError),
        hold(tmp_path / "v", refuse),
    ):
        pass
    [folder] = (tmp_path / "temporary").iterdir()
    assert folder.name == f"tinyv-locks-{os.getuid()}"
    if kind == "read-only":
        assert list(locks_dir().iterdir()) == []


def test_users_without_a_name_have_a_folder_of_locks_each(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("TINYV_HOME", str(home))
    monkeypatch.delenv("USER", raising=False)
    make_home_unusable("not a folder", home, monkeypatch)
    for user in (1000, 1001):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        with hold(tmp_path / "v", refuse):
            pass
    names = {folder.name for folder in (tmp_path / "temporary").iterdir()}
    assert names == {"tinyv-locks-1000", "tinyv-locks-1001"}
