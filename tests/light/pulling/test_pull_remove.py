"""Variants and sources are removed, after asking."""

import io
import os
import sys

import pytest
import typer
from typer.testing import CliRunner

from tests.light.toy_variant import write_variant
from tinyv_cli.commands.variants.remove import remove_files
from tinyv_cli.disk import places
from tinyv_cli.errors import UsageError, WeightsError
from tinyv_cli.options.declare import takes
from tinyv_cli.options.pull import PullArguments, RemoveArguments
from tinyv_cli.variants import miniature


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def variants(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    for name in ("first", "second"):
        write_variant(places.variants_dir() / name)
    return places.variants_dir()


@pytest.fixture
def sources():
    folder = places.sources_dir()
    (folder / "phi-2").mkdir(parents=True)
    names = ("eva_vit_g.pth", "eva_vit_g.pth.wrong", "phi-2/config.json", "pulled.json")
    parts = ("TinyGPT-V_for_Stage4.pth.c74973388674.part", "phi-2/model-00001-of-00002.safetensors")
    for name in (*names, *parts):
        (folder / name).write_bytes(b"x")
    return folder


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_with_yes_a_variant_goes_and_the_others_stay(variants, capsys):
    remove_files(RemoveArguments(["first"], yes=True))
    assert list_names(variants) == ["second"]
    assert capsys.readouterr().out == f"{variants / 'first'}\n"


def test_without_a_terminal_nothing_is_asked_and_nothing_goes(variants):
    with pytest.raises(UsageError) as caught:
        remove_files(RemoveArguments(["first"]))
    assert "--yes" in caught.value.hint
    assert list_names(variants) == ["first", "second"]


@pytest.mark.parametrize(
    ("answer", "left"), [("y\n", ["second"]), ("Yes\n", ["second"]), ("\n", None), ("", None)]
)
def test_on_a_terminal_only_a_yes_removes(variants, monkeypatch, capsys, answer, left):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    remove_files(RemoveArguments(["first"]))
    assert list_names(variants) == (left or ["first", "second"])
    assert "first" in capsys.readouterr().err


def test_where_one_name_is_wrong_nothing_goes(variants):
    with pytest.raises(WeightsError, match="no variant 'third'"):
        remove_files(RemoveArguments(["first", "third"], yes=True))
    assert list_names(variants) == ["first", "second"]


@pytest.mark.parametrize("name", ["..", ".", "", "/", "../home", "first/..", ".first"])
def test_a_path_is_no_name(variants, name):
    with pytest.raises(WeightsError):
        remove_files(RemoveArguments([name], yes=True))
    assert list_names(variants) == ["first", "second"]


def test_the_miniature_cannot_be_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(miniature, "miniature_dir", lambda: tmp_path / "demo")
    write_variant(tmp_path / "demo" / "variant")
    with pytest.raises(WeightsError, match="comes with tinyv"):
        remove_files(RemoveArguments(["miniature"], yes=True))
    assert (tmp_path / "demo/variant/manifest.json").is_file()


def test_a_variant_of_ones_own_that_is_called_miniature_can(variants, tmp_path, monkeypatch):
    monkeypatch.setattr(miniature, "miniature_dir", lambda: tmp_path / "demo")
    write_variant(tmp_path / "demo" / "variant")
    write_variant(variants / "miniature")
    remove_files(RemoveArguments(["miniature"], yes=True))
    assert list_names(variants) == ["first", "second"]
    assert (tmp_path / "demo/variant/manifest.json").is_file()


def test_a_damaged_variant_can_be_removed(variants):
    (variants / "first" / "manifest.json").write_text("{")
    remove_files(RemoveArguments(["first"], yes=True))
    assert list_names(variants) == ["second"]


def test_what_is_called_as_a_removed_variant_was_once_set_aside_stays(variants):
    other = variants / f".first.removed-{os.getpid()}" / "notes.txt"
    other.parent.mkdir()
    other.write_text("mine")
    remove_files(RemoveArguments(["first"], yes=True))
    assert list_names(variants) == [other.parent.name, "second"]
    assert other.read_text() == "mine"


def test_a_variant_with_the_longest_name_there_can_be_is_removed(variants):
    write_variant(variants / ("v" * 255))
    remove_files(RemoveArguments(["v" * 255], yes=True))
    assert list_names(variants) == ["first", "second"]


def test_of_a_link_only_the_link_goes(variants, tmp_path):
    write_variant(tmp_path / "elsewhere")
    (variants / "linked").symlink_to(tmp_path / "elsewhere")
    remove_files(RemoveArguments(["linked"], yes=True))
    assert (tmp_path / "elsewhere/manifest.json").is_file()
    assert list_names(variants) == ["first", "second"]


def test_sources_go_with_what_was_begun_and_set_aside(sources, variants):
    remove_files(RemoveArguments(sources=True, yes=True))
    assert not sources.exists()
    assert list_names(variants) == ["first", "second"]


def test_files_of_the_users_own_stay_beside_the_sources(sources, capsys):
    (sources / "notes.txt").write_text("mine")
    (sources / "phi-2" / "notes.part").write_text("mine")
    remove_files(RemoveArguments(sources=True, yes=True))
    assert list_names(sources) == ["notes.txt", "phi-2"]
    assert list_names(sources / "phi-2") == ["notes.part"]
    assert "notes.txt" in capsys.readouterr().err


def test_without_sources_there_is_nothing_to_remove(capsys):
    remove_files(RemoveArguments(sources=True, yes=True))
    assert "no sources" in capsys.readouterr().err


def test_the_words_that_are_typed_become_the_arguments():
    app, seen = typer.Typer(), []
    app.command("rm")(takes(RemoveArguments)(seen.append))
    app.command("pull")(takes(PullArguments)(seen.append))
    runner = CliRunner()
    for line in (
        "rm a b --sources --yes",
        "pull --from hub --to x --stage 3 --offline",
        "pull a/b --force",
    ):
        done = runner.invoke(app, line.split())
        assert done.exit_code == 0, done.output
    assert seen == [
        RemoveArguments(["a", "b"], sources=True, yes=True),
        PullArguments(stage=3, to="x", from_="hub", offline=True),
        PullArguments("a/b", force=True),
    ]


def test_nothing_named_is_a_usage_error():
    with pytest.raises(UsageError):
        remove_files(RemoveArguments())
