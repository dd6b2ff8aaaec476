"""`tinyv show` and `tinyv list`: what a variant is, in words and as a document."""

import json
import os
from pathlib import Path

import pytest

from tests.light.toy_variant import write_variant
from tests.light.variants.miniature_sources import make_sources
from tinyv_cli import console
from tinyv_cli.app import main
from tinyv_cli.disk.places import variants_dir
from tinyv_cli.errors import ExitCode
from tinyv_cli.options.guidance.completion import list_devices, list_models, list_tasks
from tinyv_cli.variants import miniature
from weights.training.world.kinds import KINDS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home with two variants, and an installation with a miniature."""
    for name in [name for name in os.environ if name.startswith("TINYV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    folder = tmp_path / "installation"
    write_variant(folder / "variant", sources=make_sources())
    (folder / "kinds.txt").write_text("cat\ndog\n")
    monkeypatch.setattr(miniature, "miniature_dir", lambda: folder)
    write_variant(variants_dir() / "old", made_s=1, bits=8)
    write_variant(variants_dir() / "new", made_s=2)


def show(capsys, *words):
    assert main(list(words)) == ExitCode.OK
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_variant_that_answers_is_marked_as_one_is_named_or_none(capsys, monkeypatch):
    for chosen, marked in (("", "new"), ("old", "old"), ("miniature", "miniature")):
        monkeypatch.setenv("TINYV_MODEL", chosen)
        header, *rows = show(capsys, "list").splitlines()
        assert header.endswith("answers")
        assert [row.split()[0] for row in rows if row.endswith("yes")] == [marked]
        entries = json.loads(show(capsys, "list", "--json"))["variants"]
        assert [each["name"] for each in entries if each["answers"]] == [marked]
        assert [each["name"] for each in entries if each["toy"]] == ["miniature"]


def test_a_list_fits_a_terminal_of_80_columns_and_reads_at_40(capsys, monkeypatch):
    monkeypatch.setattr(console, "is_terminal", lambda _: True)
    monkeypatch.setenv("COLUMNS", "80")
    table = show(capsys, "list")
    assert max(map(len, table.splitlines())) <= 80
    assert len(table.splitlines()) == 4
    monkeypatch.setenv("COLUMNS", "40")
    blocks = show(capsys, "list")
    assert max(map(len, blocks.splitlines())) <= 40
    assert blocks.splitlines()[0] == "miniature" or blocks.splitlines()[0] == "new"
    assert blocks.count("same token") == 3


def test_the_kinds_that_the_miniature_knows_are_named(capsys):
    assert show(capsys, "list", "-v").endswith("drawings of 2 kinds:\ncat, dog\n")
    kept = (ROOT / "weights" / "demo" / "kinds.txt").read_text("utf-8").splitlines()
    assert kept == [kind.name for kind in KINDS]


def test_a_manifest_is_told_in_words(capsys, monkeypatch):
    text = show(capsys, "show", "old")
    for line in ("name      old", "bits      8 a weight", "template  human, of training stage"):
        assert f"{line}" in text
    assert "toy " not in text
    assert "toy " in show(capsys, "show", "miniature")
    assert show(capsys, "show").startswith("name      new\n")
    monkeypatch.setattr(console, "is_terminal", lambda _: True)
    monkeypatch.setenv("COLUMNS", "80")
    wrapped = show(capsys, "show", "old")
    assert " ".join(wrapped.split()) == " ".join(text.split())
    long = [line for line in wrapped.splitlines() if len(line) > 80]
    assert all(line.startswith("folder") or " /" in line for line in long)


def test_a_manifest_is_one_document_too(capsys):
    document = json.loads(show(capsys, "show", "old", "--json"))
    assert (document["name"], document["bits"], document["toy"]) == ("old", 8, False)
    assert {"spec", "recipe", "sources", "files", "stop_ids", "made_by"} < set(document)


def test_a_name_that_is_no_variants_is_told(capsys):
    assert main(["show", "odl"]) == ExitCode.WEIGHTS
    assert "did you mean `-m old`?" in capsys.readouterr().err


def test_a_shell_is_offered_what_is_there(tmp_path, monkeypatch):
    assert list_models("") == ["new", "old", "miniature"]
    assert list_models("o") == ["old"]
    assert list_tasks("de") == ["detection"]
    assert list_devices("cu") == ["cuda"]
    monkeypatch.setattr(miniature, "miniature_dir", lambda: tmp_path / "nowhere")
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home" / "variants" / "old" / "manifest.json"))
    assert list_models("") == []
