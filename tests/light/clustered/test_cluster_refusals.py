"""What `tinyv batch --cluster` refuses, and that no other run loads Ray; needs no Ray."""

import sys
import time

import pytest

from tests.light.toy_variant import write_picture, write_variant
from tests.test_architecture import list_loaded
from tinyv_cli.app import main
from tinyv_cli.batch.cluster import watchdog
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_variant(places.variants_dir() / "mine")
    write_picture(tmp_path / "cat.png")


def refuse(capsys, *flags):
    assert main(["batch", "cat.png", "what?", "-o", "out.jsonl", *flags]) == ExitCode.USAGE
    return capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--variant-from", "--column", "--id", "--workers"])
def test_flags_of_a_cluster_want_one(capsys, flag):
    assert f"{flag} goes with --cluster" in refuse(capsys, flag, "2")


@pytest.mark.parametrize("flags", [["--sidecar"], ["--sheet", "page.html"]])
def test_what_a_cluster_cannot_write_is_refused_before_it_starts(capsys, flags):
    said = refuse(capsys, "--cluster", "local", *flags)
    assert f"{flags[0]} and --cluster exclude each other" in said


def test_where_ray_is_missing_it_is_said_how_to_get_it(capsys, monkeypatch):
    for name in [each for each in sys.modules if each.startswith("tinyv_cli.batch.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = refuse(capsys, "--cluster", "local")
    assert "which `--cluster` needs, is not installed" in said
    assert "pip install 'tinyv[ray]'" in said


def test_a_batch_without_a_cluster_loads_no_ray():
    words = ["batch", "cat.png", "what?", "-o", "out.jsonl", "-m", "none"]
    loaded = list_loaded(f"from tinyv_cli.app import main\nmain({words!r})")
    assert "tokenizers" in loaded or "numpy" in loaded
    assert loaded.isdisjoint({"ray", "pyarrow", "fsspec"})


def test_a_stall_is_said_once_with_its_cause_and_called_off_by_a_line(monkeypatch):
    monkeypatch.setattr(watchdog, "STALLED_S", 0.2)
    notes = []
    with watchdog.watch_for_stalls(lambda: "no CPU is free", notes.append) as see:
        time.sleep(0.35)
        assert len(notes) == 1
        assert notes[0].endswith("no CPU is free")
        for _ in range(5):
            see()
            time.sleep(0.08)
    assert len(notes) == 1
