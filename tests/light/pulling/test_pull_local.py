"""Files that the user has already are taken from wherever they lie."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from tests.light.pulling.toy_hub import check_complete, refuse, run
from tests.light.weights.toy_sources import FUSED_FILES, SHARDS
from tinyv_cli.disk import places
from weights.pulling import folder as pulled_folder
from weights.pulling import local

VISION = "eva_vit_g.pth"
OWNERS = {"fused": "susnato", "split": "microsoft"}  # of the repository that has the weights so
_ODD = {
    "TinyGPT-V_for_Stage4.pth": "old/checkpoint_49.pth",
    "eva_vit_g.pth": "eva.bin",
    "blip2_pretrained_flant5xxl.pth": "cache/hub/blobs/4b3839",
    "pytorch_model.bin": "models/phi/weights",
    "config.json": "models/phi/config.json",
    "tokenizer.json": "models/phi/tokenizer.json",
}


@pytest.fixture
def attic(hub, tmp_path):
    """All files under other names, beside files that have nothing to do with them."""
    attic = tmp_path / "attic"
    for name, odd in _ODD.items():
        (attic / odd).parent.mkdir(parents=True, exist_ok=True)
        (attic / odd).write_bytes(hub.read(name))
    (attic / "models/bert").mkdir()
    (attic / "models/bert/config.json").write_text('{"model_type": "bert"}')
    (attic / "models/bert/tokenizer.json").write_text('{"model": "bert"}')
    (attic / "holiday.pth").write_bytes(b"x" * 200_000)
    hub.server.log.clear()
    return attic


def test_files_are_recognised_whatever_they_are_called(hub, attic):
    run(hub, from_=str(attic))
    check_complete(hub)
    assert hub.server.log == []


def test_the_users_files_stay_and_take_no_second_place_on_the_disk(hub, attic):
    run(hub, from_=str(attic))
    assert (attic / "eva.bin").samefile(places.sources_dir() / VISION)


def test_where_the_disk_cannot_link_files_are_copied(hub, attic, monkeypatch):
    def refuse_link(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(pulled_folder.os, "link", refuse_link)
    run(hub, from_=str(attic))
    check_complete(hub)
    assert not (attic / "eva.bin").samefile(places.sources_dir() / VISION)


def test_links_as_in_the_hubs_cache_are_followed(hub, attic, tmp_path):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for odd in _ODD.values():
        (snapshot / odd.rpartition("/")[2]).symlink_to(attic / odd)
    run(hub, from_=str(snapshot))
    check_complete(hub)
    assert not any(path.is_symlink() for path in places.sources_dir().rglob("*"))


def test_what_is_not_there_is_named_and_what_is_there_is_kept(hub, attic):
    (attic / "eva.bin").write_bytes(b"y" * 300_000)
    error = refuse(hub, from_=str(attic))
    assert f"does not hold {VISION}" in error.problem
    assert "tinyv pull" in error.hint
    assert (places.sources_dir() / "TinyGPT-V_for_Stage4.pth").is_file()
    assert not (places.sources_dir() / VISION).exists()
    run(hub)
    check_complete(hub)
    assert {path for _, path, _ in hub.server.log} == {f"/plain/{VISION}"}


def test_a_split_phi_is_taken_with_its_index(hub, attic):
    (attic / "models/phi/weights").unlink()
    for name in (*SHARDS, "model.safetensors.index.json"):
        shutil.copy(hub.published / "microsoft/phi-2" / name, attic / "models/phi" / name)
    run(hub, from_=str(attic))
    for name in SHARDS:
        assert (places.sources_dir() / "phi-2" / name).read_bytes() == hub.read(name)


def write_other_phi(folder, **files):
    folder.mkdir(parents=True)
    config = {"model_type": "phi", "hidden_size": 99}
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_of_two_configs_the_one_beside_the_weights_is_taken(hub, attic):
    # Seen in: sparkrun, issue 11.
    write_other_phi(attic / "a-phi-1_5", weights=b"of a smaller one")
    run(hub, from_=str(attic))
    check_complete(hub)


@pytest.mark.parametrize("form", ["fused", "split"])
def test_of_two_revisions_in_the_hubs_cache_the_one_with_the_weights_is_taken(
    hub, attic, tmp_path, form
):
    repository = tmp_path / "cache/models--microsoft--phi-2"
    (repository / "snapshots/aaa").mkdir(parents=True)
    (repository / "snapshots/bbb").mkdir()
    (repository / "blobs").mkdir()

    def put(revision, name, content):
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (repository / "snapshots" / revision / name).symlink_to(f"../../blobs/{blob.name}")

    put("aaa", "config.json", b'{"model_type": "phi", "hidden_size": 99}')
    put("aaa", "tokenizer.json", b'{"model": "another"}')
    index = "model.safetensors.index.json"
    names = {"fused": ["pytorch_model.bin"], "split": [index, *SHARDS]}[form]
    for name in ("config.json", "tokenizer.json", *names):
        put("bbb", name, (hub.published / f"{OWNERS[form]}/phi-2" / name).read_bytes())
    if form == "split":  # of another revision the index is there alone
        put("aaa", index, b'{"weight_map": {"lm_head.bias": "model-1-of-1.safetensors"}}')
    shutil.rmtree(attic / "models/phi")
    for name in ("old", "eva.bin", "cache"):
        shutil.move(attic / name, tmp_path / "cache" / name)
    run(hub, from_=str(tmp_path / "cache"))
    for name in ("config.json", "tokenizer.json", *names):
        assert (places.sources_dir() / "phi-2" / name).read_bytes() == hub.read(name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_two_different_files_beside_the_same_weights_are_not_guessed_between(hub, attic, name):
    other = attic / "models/z-phi"
    write_other_phi(other, weights=hub.read("pytorch_model.bin"))
    shutil.copy(attic / "models/phi/config.json", other)
    shutil.copy(attic / "models/phi/tokenizer.json", other)
    (other / name).write_text('{"model_type": "phi", "more": 1}')
    error = refuse(hub, from_=str(attic))
    assert f"there are 2 different {name} of a Phi" in error.problem
    assert str(attic / "models/phi" / name) in error.problem
    assert str(other / name) in error.problem
    assert "--from" in error.hint


@pytest.mark.parametrize(
    ("mark", "kind", "command"),
    [
        ("architecture.json", "holds the sources of a network of other", "quantize --sources"),
        ("manifest.json", "is a variant", "pull"),
    ],
)
def test_what_is_something_else_is_called_that_and_nothing_of_it_is_taken(
    hub, attic, mark, kind, command
):
    other = attic / "an other"
    shutil.move(attic / "models/phi", other / "phi-2")
    (other / mark).write_text('{"format_version": 1}')
    # Of an extension of a browser, say.
    (attic / "manifest.json").write_text('{"manifest_version": 3}')
    for origin in (other, attic):
        error = refuse(hub, from_=str(origin))
        assert f"{other} {kind}" in error.problem
        assert f"tinyv {command} '{other}'" in error.hint
    here = {path.name for path in (places.sources_dir() / "phi-2").iterdir()}
    assert here == {"pytorch_model.bin"}  # known by its hash


def test_a_folder_that_is_none_is_an_error(hub, tmp_path):
    assert "is not a folder" in refuse(hub, from_=str(tmp_path / "nowhere")).problem


def test_without_torch_it_says_what_telling_by_tensors_needs(
    hub,
    attic,
    monkeypatch,
    capsys,
):
    monkeypatch.setattr(local, "find_spec", lambda name: None)
    (attic / "eva.bin").unlink()
    refuse(hub, from_=str(attic))
    assert "pip install 'tinyv[quantize]'" in capsys.readouterr().err


def test_taking_from_a_folder_needs_no_torch(hub, attic):
    code = (
        "import sys; from tinyv_cli.commands.fetching.pull import pull_weights\n"
        "from pathlib import Path; from tinyv_cli.options.pull import PullArguments\n"
        "from weights.pulling.catalog import read_catalog\n"
        "pull_weights(PullArguments(from_=sys.argv[2]), read_catalog(Path(sys.argv[1])))\n"
        "assert not {'torch', 'transformers', 'onnxruntime'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(hub.catalog_path), str(attic)]
    (attic / "holiday.pth").unlink()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert {
        p.relative_to(places.sources_dir()).as_posix() for p in places.sources_dir().rglob("*")
    } >= {*FUSED_FILES}
