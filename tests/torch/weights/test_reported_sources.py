"""Faults of sources that users of programs like this one reported, refused by name."""

import json
import zipfile

import pytest
import torch

from tests.damaged_sources import count_outcomes, read_sources
from tests.torch.quantize.tiny_sources import (
    CHECKPOINT,
    PHI,
    QFORMER,
    VISION,
    change_content,
    change_tensors,
    write_tiny,
)
from tinyv_cli.errors import WeightsError
from weights.reading.sources import resolve_sources

FC1 = "model.layers.0.mlp.fc1.weight"
TOKENIZER = "phi-2/tokenizer.json"
CONFIG = "phi-2/config.json"


def change_json(path, change):
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values), "utf-8")


def pack_again(path):
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def flip_a_bit_of_a_number(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0x40
    path.write_bytes(whole)


def zero_the_second_half(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))


def shorten_record(path, n_bytes):
    """Packs an archive anew with one tensor's record shorter (longer below zero)."""
    with zipfile.ZipFile(path) as archive:
        content = [(record, archive.read(record)) for record in archive.infolist()]
    victim = [record.filename for record, data in content if len(data) > 100][2]
    with zipfile.ZipFile(path, "w") as archive:
        for record, data in content:
            keeps = len(data) - n_bytes if record.filename == victim else len(data)
            archive.writestr(record.filename, data[:keeps].ljust(keeps, b"\0"))


def add_token(token_id):
    entry = {"content": "[PAD]", "special": True, "normalized": False}
    entry |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return lambda values: values["added_tokens"].append(entry | {"id": token_id})


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        # OpenRLHF 87
        (TOKENIZER, lambda p: change_json(p, add_token(512)), "'[PAD]' the id 512"),
        (TOKENIZER, lambda p: change_json(p, add_token(2**31)), "'[PAD]' the id 2147483648"),
        # LAVIS 530
        (VISION, flip_a_bit_of_a_number, "checksum"),
        (QFORMER, flip_a_bit_of_a_number, "checksum"),
        (PHI, lambda p: change_tensors(p, lambda t: t[FC1][0, 0].fill_(3e38)), FC1),
        (PHI, lambda p: change_tensors(p, lambda t: t[FC1].zero_()), "nothing but zeros"),
        (CHECKPOINT, pack_again, "packed again with compression"),
        (PHI, lambda p: p.write_bytes(p.read_bytes()[:8] + b"\0" * 99), "damaged"),
        (
            CHECKPOINT,
            lambda p: change_content(p, lambda c: c["config"]["model"].update(use_rslora=True)),
            "use_rslora",
        ),
        (CONFIG, lambda p: change_json(p, lambda v: v.update(rotary_dim=4)), "rotary_dim is 4"),
    ],
)
def test_a_fault_that_was_reported_is_refused_by_name(tmp_path, file, damage, words):
    folder = write_tiny(tmp_path / "s")
    damage(folder / file)
    with pytest.raises(WeightsError) as caught:
        read_sources(folder)
    assert file.rpartition("/")[2] in caught.value.problem
    assert words in caught.value.problem


@pytest.mark.parametrize("file", [VISION, QFORMER, CHECKPOINT])
@pytest.mark.parametrize("n_bytes", [1, 4, 64, -64])
def test_a_record_of_another_length_than_its_storage_is_refused_by_name(tmp_path, file, n_bytes):
    folder = write_tiny(tmp_path / "s")
    shorten_record(folder / file, 0)
    read_sources(folder)
    shorten_record(folder / file, n_bytes)
    with pytest.raises(WeightsError, match=rf"{file} is damaged: .* needs \d+ bytes, its record"):
        read_sources(folder)


@pytest.mark.parametrize("container", ["safetensors", "safetensors-sharded"])
def test_a_safetensors_file_whose_second_half_is_zero_is_refused_by_name(tmp_path, container):
    """aprender 2337: a variant was made of it, with good figures."""
    folder = write_tiny(tmp_path / "s", container=container)
    path = sorted(folder.glob("phi-2/*.safetensors"))[-1]
    zero_the_second_half(path)
    with pytest.raises(WeightsError, match=rf"in phi-2/{path.name} holds nothing but zeros"):
        read_sources(folder)


def test_rows_of_zeros_and_byte_order_marks_are_no_fault(tmp_path):
    folder = write_tiny(tmp_path / "s")
    change_tensors(folder / PHI, lambda t: t[FC1][3:].zero_())
    for name in (CONFIG, "architecture.json", TOKENIZER):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    read_sources(folder)


def test_an_index_that_names_the_one_file_beside_it_changes_no_bit(tmp_path):
    """mlx-examples 413."""
    folder = write_tiny(tmp_path / "s")
    before = read_sources(folder)[0]
    tensors = torch.load(folder / PHI, weights_only=True)
    index = {"weight_map": dict.fromkeys(tensors, "pytorch_model.bin")}
    (folder / f"{PHI}.index.json").write_text(json.dumps(index))
    after = read_sources(folder)[0]
    assert all(torch.equal(before[name], after[name]) for name in before)
    index["weight_map"][FC1] = "m" * 300
    (folder / f"{PHI}.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"too long|more than once"):
        read_sources(folder)


def test_flipped_bits_are_refused_by_name_or_change_nothing_where_there_is_a_checksum(tmp_path):
    files = resolve_sources(write_tiny(tmp_path / "s"))
    for path in files.all_files:
        outcomes = count_outcomes(files, path, 25)
        # JSON has no checksum: another number there is another network.
        extra = {"changed"} if path.suffix == ".json" else set()
        assert outcomes.keys() <= {"right", "refused"} | extra
