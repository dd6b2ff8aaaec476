"""The miniature that comes along: whole, small, and right about the pictures beside it."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.demo import DEMO
from tinyv_cli.app import main
from tinyv_cli.variants import miniature
from tinyv_cli.variants.manifest import read_variant


@pytest.fixture(autouse=True)
def come_along(tmp_path, monkeypatch):
    """A home without variants, so that the miniature answers."""
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TINYV_MODEL", raising=False)
    monkeypatch.setattr(miniature, "miniature_dir", lambda: DEMO)


def list_sources() -> list[Path]:
    return [path for path in (DEMO / "sources").rglob("*") if path.is_file()]


def test_the_variant_was_made_of_the_sources_beside_it():
    entries = {
        entry.path: entry.sha256 for entry in read_variant(DEMO / "variant").manifest.sources
    }
    assert len(entries) > 5
    for name, expected in entries.items():
        content = (DEMO / "sources" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == expected, name


def test_sources_and_variant_are_as_small_as_they_should_be():
    assert sum(path.stat().st_size for path in list_sources()) < 25e6
    manifest = read_variant(DEMO / "variant").manifest
    assert manifest.size_bytes < 10.6e6
    assert manifest.bits == 4
    assert manifest.spec.stage == 4


@pytest.mark.parametrize(
    ("picture", "question", "answer"),
    [
        ("cat", "what is this?", "a cat"),
        ("cat", "[vqa] what colour is the background?", "green"),
        ("car-and-tree", "[vqa] what colour is the car?", "red"),
        ("car-and-tree", "[vqa] is there a dog?", "no"),
        ("three-apples", "[vqa] how many apples are there?", "three"),
        ("three-apples", "[caption] describe this image.", "three apples on a blue background"),
    ],
)
def test_it_is_right_about_the_examples(picture, question, answer, capfd):
    assert main(["ask", str(DEMO / "examples" / f"{picture}.png"), question]) == 0
    out, err = capfd.readouterr()
    assert out == f"{answer}\n"
    assert err.count("\n") == 1
    assert "miniature" in err


def test_the_kept_log_tells_every_run():
    lines = (DEMO / "log.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    runs = list(dict.fromkeys(entry["run"] for entry in entries))
    assert runs == ["seeing", "speaking", "stage1", "stage2", "stage3", "stage4"]
    for run in ("seeing", "speaking", "stage1"):
        losses = [entry["loss"] for entry in entries if entry["run"] == run]
        assert losses[-1] < 0.6 * losses[0]
    assert (DEMO / "loss.png").read_bytes().startswith(b"\x89PNG")
