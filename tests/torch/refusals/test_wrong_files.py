"""A file of weights that is another kind of file is called what it is."""

import pytest
import torch
from safetensors.torch import load_file

from tests.torch.quantize.tiny_sources import (
    PHI,
    write_tiny,
)
from tinyv_cli.errors import WeightsError
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources

SHARDS = ("phi-2/model-00001-of-00002.safetensors", "phi-2/model-00002-of-00002.safetensors")


def refuse(folder) -> str:
    with pytest.raises(WeightsError) as caught:
        open_weights(resolve_sources(folder))
    assert caught.value.hint
    assert "\n" not in caught.value.problem
    return caught.value.problem


def test_an_empty_safetensors_file_is_called_empty(tmp_path):
    folder = write_tiny(tmp_path / "s", container="safetensors")
    (folder / "phi-2/model.safetensors").write_bytes(b"")
    assert refuse(folder) == "phi-2/model.safetensors is empty"


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:7],
        lambda whole: whole[:100],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: b"\xff" * 8 + whole[8:],
    ],
)
def test_a_file_that_is_no_whole_safetensors_file_is_refused(tmp_path, damage):
    folder = write_tiny(tmp_path / "s", container="safetensors")
    path = folder / "phi-2/model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert refuse(folder).startswith("phi-2/model.safetensors is not a whole safetensors file")


def as_torch(path, is_zip=True):
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    path.unlink()
    torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n"),
            "is a Git LFS pointer",
        ),
        (lambda p: p.write_text("\n<!DOCTYPE html><html>404</html>"), "is a web page"),
        (lambda p: p.write_text("\ufeff<?xml version='1.0'?><Error>Denied"), "is a web page"),
        (lambda p: p.write_text("Repository not found, or gated"), "it is a text, 'Repository not"),
        (lambda p: p.write_bytes(bytes(9000)), "it begins with zeros"),
        (as_torch, "it is a zip archive, as PyTorch's .bin and .pth are"),
        (lambda p: as_torch(p, is_zip=False), "it is a pickle, as PyTorch's .bin was before 1.6"),
        (lambda p: p.write_bytes(b"GGUF\3\0\0\0" + bytes(90)), "it is a GGUF file"),
    ],
)
@pytest.mark.parametrize("container", ["safetensors", "safetensors-sharded"])
def test_another_file_called_safetensors_is_called_what_it_is(tmp_path, container, damage, words):
    folder = write_tiny(tmp_path / "s", container=container)
    file = SHARDS[1] if container == "safetensors-sharded" else "phi-2/model.safetensors"
    damage(folder / file)
    problem = refuse(folder)
    assert problem.startswith(f"{file} is ")
    assert words in problem


def test_a_safetensors_file_called_bin_is_called_what_it_is(tmp_path):
    folder = write_tiny(tmp_path / "s", container="safetensors")
    (folder / "phi-2/model.safetensors").rename(folder / PHI)
    assert refuse(folder) == f"{PHI} is not a PyTorch file: it is a safetensors file"
