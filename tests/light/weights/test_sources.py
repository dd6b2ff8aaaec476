"""A folder of sources is resolved, or refused with the names of what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinyv_cli.errors import WeightsError
from weights.reading.sources import SourceFiles, resolve_sources

FILES = (
    "phi-2/config.json",
    "phi-2/tokenizer.json",
    "phi-2/pytorch_model.bin",
    "eva_vit_g.pth",
    "blip2_pretrained_flant5xxl.pth",
    "TinyGPT-V_for_Stage4.pth",
)
SHARDS = {"model.a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "phi-2").mkdir()
    for name in FILES:
        (tmp_path / name).touch()
    return tmp_path


def write_index(folder, weight_map, name="model.safetensors.index.json"):
    (folder / "phi-2" / "pytorch_model.bin").unlink()
    (folder / "phi-2" / name).write_text(json.dumps({"weight_map": weight_map}))


def refuse(folder, stage=None) -> WeightsError:
    with pytest.raises(WeightsError) as caught:
        resolve_sources(folder, stage)
    assert caught.value.hint
    return caught.value


def test_a_complete_folder_is_resolved(folder):
    files = resolve_sources(folder)

    assert isinstance(files, SourceFiles)
    assert files.stage == 4
    assert files.phi == (folder / "phi-2" / "pytorch_model.bin",)
    assert files.architecture is None
    assert {path.relative_to(folder).as_posix() for path in files.all_files} == set(FILES)


def test_the_highest_stage_is_taken_unless_told(folder):
    (folder / "TinyGPT-V_for_Stage2.pth").touch()
    assert resolve_sources(folder).stage == 4
    assert resolve_sources(folder, 2).checkpoint.name == "TinyGPT-V_for_Stage2.pth"

    (folder / "TinyGPT-V_for_Stage4.pth").unlink()
    assert resolve_sources(folder).stage == 2


def test_every_missing_file_is_named(folder):
    for name in ("phi-2/config.json", "phi-2/pytorch_model.bin", "eva_vit_g.pth"):
        (folder / name).unlink()

    problem = refuse(folder, stage=3).problem

    for name in ("phi-2/config.json", "phi-2/model", "eva_vit_g.pth", "TinyGPT-V_for_Stage3.pth"):
        assert name in problem
    assert "blip2" not in problem


def test_a_stage_that_does_not_exist_is_refused(folder):
    assert "no stage 5" in refuse(folder, stage=5).problem


@pytest.mark.parametrize("name", ["nowhere", "eva_vit_g.pth"])
def test_what_is_no_folder_is_refused(folder, name):
    assert "is not a folder" in refuse(folder / name).problem


def test_a_variant_is_no_folder_of_sources(folder):
    (folder / "manifest.json").touch()
    error = refuse(folder)
    assert "is a variant" in error.problem
    assert "tinyv ask" in error.hint


def test_weights_in_two_forms_are_refused_rather_than_chosen_from(folder):
    (folder / "phi-2" / "model.safetensors").touch()
    problem = refuse(folder).problem
    assert "model.safetensors and pytorch_model.bin" in problem


def test_shards_come_in_the_order_of_their_names_with_their_index(folder):
    write_index(folder, dict(reversed(SHARDS.items())))
    for shard in SHARDS.values():
        (folder / "phi-2" / shard).touch()

    files = resolve_sources(folder)

    assert [path.name for path in files.phi] == list(SHARDS.values())
    assert files.phi_index in files.all_files


def test_a_shard_that_the_index_names_and_the_folder_lacks_is_named(folder):
    write_index(folder, SHARDS)
    (folder / "phi-2" / SHARDS["b"]).touch()
    named = "(named by phi-2/model.safetensors.index.json)"
    assert f"lacks phi-2/{SHARDS['model.a']} {named}" in refuse(folder).problem


@pytest.mark.parametrize(
    "shard", ["a\x1b[31m.safetensors", "a\n.safetensors", "caf\udce9.bin", "m" * 256]
)
def test_a_shard_whose_name_no_terminal_or_disk_takes_is_refused(folder, shard):
    write_index(folder, {"a": shard})
    problem = refuse(folder).problem
    assert "model.safetensors.index.json names a shard by what is too long or not text" in problem
    assert problem.isprintable()


def test_a_folder_whose_name_is_no_utf_8_is_refused_unless_it_is_not_needed(folder, monkeypatch):
    """torch and safetensors open files by names in UTF-8 alone."""
    place = folder.parent / os.fsdecode(b"caf\xe9")
    try:
        folder.rename(place)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    error = refuse(place)
    assert "has a name that is not UTF-8" in error.problem
    assert "`--sources .`" in error.hint
    monkeypatch.chdir(place)
    assert resolve_sources(Path()).stage == 4


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "is a Git LFS pointer"),
        ("\n<!DOCTYPE html><html>", "is a web page"),
        ("<?xml version='1.0'?><Error>", "is a web page"),
    ],
)
def test_what_stands_in_place_of_an_index_is_called_what_it_is(folder, start, words):
    write_index(folder, {})
    path = folder / "phi-2" / "model.safetensors.index.json"
    path.write_text(start, "utf-8")
    assert refuse(folder).problem.startswith(f"{path} {words}")


def test_a_shard_that_no_index_names_is_refused(folder):
    (folder / "phi-2" / "pytorch_model-00001-of-00002.bin").touch()
    assert "pytorch_model-00001-of-00002.bin" in refuse(folder).problem


@pytest.mark.parametrize(
    "shard", ["../eva_vit_g.pth", "/etc/passwd", "..", "", "a/b.bin", "a\\b.bin", "C:b.bin", 7]
)
def test_an_index_may_not_lead_out_of_its_folder(folder, shard):
    write_index(folder, {"a": shard})
    error = refuse(folder)
    assert "outside its folder" in error.problem
    assert repr(shard) in error.problem


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "\udcff", "[" * 100_000],
)
def test_a_corrupt_index_is_refused(folder, text):
    (folder / "phi-2" / "pytorch_model.bin").unlink()
    index = folder / "phi-2" / "pytorch_model.bin.index.json"
    index.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert str(index) in refuse(folder).problem


def test_finding_sources_and_their_numbers_needs_no_torch():
    names = ("sources", "naming", "dimensions")
    modules = ", ".join(f"weights.reading.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
