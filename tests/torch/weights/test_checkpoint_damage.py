"""What does not fit or is damaged is refused by name, before any number is read, and never run."""

import gzip
import json
import os
import pickle
import random
import zipfile

import pytest
import torch

from tests.torch.quantize.tiny_sources import (
    CHECKPOINT,
    LAYER,
    PHI,
    QFORMER,
    VISION,
    change_content,
    change_tensors,
    read_all,
    write_tiny,
)
from tinyv_cli.errors import WeightsError
from weights.reading.checkpoint import open_weights
from weights.reading.containers import open_tensor_file
from weights.reading.sources import resolve_sources

QKV = "model.layers.0.self_attn.query_key_value.weight"
LORA = f"{LAYER}.query_key_value.lora_A.weight"
SHARDS = ("phi-2/model-00001-of-00002.safetensors", "phi-2/model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path):
    return write_tiny(tmp_path / "s")


def refuse(folder) -> str:
    with pytest.raises(WeightsError) as caught:
        open_weights(resolve_sources(folder))
    assert caught.value.hint
    assert "\n" not in caught.value.problem
    return caught.value.problem


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (PHI, "model.layers.0.foo.weight"),
        (PHI, "model.layers.2.mlp.fc1.weight"),
        (PHI, "model.layers.0.self_attn.q_proj.weight"),
        (VISION, "blocks.3.norm1.weight"),
        (QFORMER, "Qformer.cls.predictions.bias"),
        (QFORMER, "Qformer.bert.encoder.layer.1.crossattention.self.query.weight"),
        (CHECKPOINT, f"{LAYER}.query_key_value.lora_A.other.weight"),
        (CHECKPOINT, "llama_model.base_model.model.model.layers.0.mlp.fc1.lora_A.weight"),
        (CHECKPOINT, "visual_encoder.cls_token"),
    ],
)
def test_a_tensor_that_nobody_knows_is_named(folder, file, name):
    change_tensors(folder / file, lambda t: t.update({name: torch.ones(1)}))
    assert refuse(folder) == f"{file} holds 1 unknown tensor: {name}"


def test_of_many_unknown_tensors_the_first_is_named_and_the_others_are_counted(folder):
    extra = {f"foo.{i}": torch.ones(1) for i in range(3)}
    change_tensors(folder / PHI, lambda t: t.update(extra))
    assert refuse(folder) == f"{PHI} holds 3 unknown tensors: foo.0, … (2 more)"


def test_unknown_tensors_beside_the_model_are_named(folder):
    average = {"ema": {"decay": 0.9, "shadow": [torch.ones(1)]}}
    change_content(folder / CHECKPOINT, lambda content: content.update(average))
    assert refuse(folder) == f"{CHECKPOINT} holds 1 unknown tensor: ema.shadow.0"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (PHI, "lm_head.bias"),
        (PHI, QKV),
        (PHI, "model.layers.1.input_layernorm.bias"),
        (VISION, "blocks.1.attn.v_bias"),
        (QFORMER, "ln_vision.weight"),
        (QFORMER, "query_tokens"),
        (CHECKPOINT, "llama_proj2.bias"),
        (CHECKPOINT, LORA),
        (CHECKPOINT, f"{LAYER}.dense.lora_B.weight"),
    ],
)
def test_a_missing_tensor_is_named(folder, file, name):
    change_tensors(folder / file, lambda t: t.pop(name))
    assert refuse(folder) == f"{file} lacks 1 tensor: {name}"


@pytest.mark.parametrize("lora_names", ["plain", "default", "base-layer"])
def test_a_checkpoint_without_any_lora_is_no_later_stage(tmp_path, lora_names):
    folder = write_tiny(tmp_path / "s", lora_names=lora_names)

    def drop(tensors):
        for name in [name for name in tensors if "lora_" in name]:
            del tensors[name]

    change_tensors(folder / CHECKPOINT, drop)
    assert f"lacks 8 tensors: {LAYER}.query_key_value.lora_A" in refuse(folder)


def test_a_first_stage_may_have_lora_but_not_in_some_layers_only(tmp_path):
    folder = write_tiny(tmp_path / "s", stage=2)
    first = folder / "TinyGPT-V_for_Stage1.pth"
    (folder / "TinyGPT-V_for_Stage2.pth").rename(first)
    open_weights(resolve_sources(folder)).close()

    change_tensors(first, lambda t: [t.pop(name) for name in list(t) if f"{LAYER}.dense" in name])
    assert f"{first.name} lacks 2 tensors: {LAYER}.dense.lora_A" in refuse(folder)


def test_phi_in_two_layouts_at_once_is_refused(folder, tmp_path):
    split = torch.load(write_tiny(tmp_path / "o", phi_layout="split") / PHI, weights_only=True)
    change_tensors(folder / PHI, lambda t: t.update(split))
    assert "unknown tensors: model.layers.0.self_attn.q" in refuse(folder)


@pytest.mark.parametrize(
    ("file", "name", "shape", "complaint"),
    [
        (PHI, "model.embed_tokens.weight", (511, 160), "is (511, 160), not (512, 160)"),
        (PHI, QKV, (160, 160), "is (160, 160), not (480, 160)"),
        (VISION, "blocks.0.attn.q_bias", (1,), "is (1,), not (176,)"),
        (CHECKPOINT, LORA, (8, 161), "is (8, 161), not (8, 160)"),
        (CHECKPOINT, LORA, (8,), "is (8,), not (8, 160)"),
        (CHECKPOINT, f"{LAYER}.dense.lora_A.weight", (4, 160), "is (4, 160), not (8, 160)"),
        (CHECKPOINT, f"{LAYER}.dense.lora_B.weight", (160, 4), "is (160, 4), not (160, 8)"),
        (CHECKPOINT, "llama_proj2.weight", (160, 97), "is (160, 97), not (160, 96)"),
    ],
)
def test_a_misshapen_tensor_is_named_with_both_shapes(folder, file, name, shape, complaint):
    change_tensors(folder / file, lambda t: t.update({name: torch.ones(shape)}))
    assert refuse(folder) == f"{file} holds 1 tensor of the wrong shape: {name} {complaint}"


@pytest.mark.parametrize("n_rows", [0, 97])
def test_a_projection_that_fits_no_other_is_refused(folder, n_rows):
    change_tensors(
        folder / CHECKPOINT, lambda t: t.update({"llama_proj.weight": torch.ones(n_rows, 64)})
    )
    assert f"{CHECKPOINT} holds" in refuse(folder)
    assert "of the wrong shape: llama_proj" in refuse(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.float8_e4m3fn])
def test_a_dtype_that_is_not_read_is_refused(folder, dtype):
    change_tensors(folder / PHI, lambda t: t.update({QKV: t[QKV].to(dtype)}))
    assert refuse(folder) == f"{PHI} holds 1 tensor of a type that is not read: {QKV} ({dtype})"


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({f"module.{LORA}": torch.ones(8, 160)}, LORA),
        ({LORA.replace(".weight", ".default.weight"): torch.ones(8, 160)}, LORA),
        (
            {
                f"{LAYER}.dense.weight": torch.ones(1),
                f"{LAYER}.dense.base_layer.weight": torch.ones(1),
            },
            f"{LAYER}.dense.weight",
        ),
        ({"llama_model.model.final_layernorm.weight": torch.ones(160)}, "final_layernorm"),
    ],
)
def test_two_names_for_one_tensor_are_refused(folder, other, name):
    change_tensors(folder / CHECKPOINT, lambda t: t.update(other))
    problem = refuse(folder)
    assert "is there already, as" in problem
    assert name in problem


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = write_tiny(tmp_path / "s", container="bin-sharded")
    first, second = (folder / f"phi-2/pytorch_model-0000{i}-of-00002.bin" for i in (1, 2))
    name = next(iter(torch.load(first, weights_only=True)))
    change_tensors(second, lambda t: t.update({name: torch.ones(1)}))
    problem = refuse(folder)
    assert "pytorch_model-00001" in problem
    assert "pytorch_model-00002" in problem
    assert name in problem


@pytest.mark.parametrize("change", ["moved", "gone", "more"])
def test_an_index_that_its_shards_contradict_is_refused(tmp_path, change):
    folder = write_tiny(tmp_path / "s", container="safetensors-sharded")
    path = folder / "phi-2/model.safetensors.index.json"
    index = json.loads(path.read_text())
    name, shard = next(iter(index["weight_map"].items()))
    if change == "moved":
        index["weight_map"][name] = SHARDS[1].rpartition("/")[2]
    elif change == "gone":
        del index["weight_map"][name]
    else:
        name = "model.layers.0.foo.weight"
        index["weight_map"][name] = shard
    path.write_text(json.dumps(index))
    problem = refuse(folder)
    assert problem.startswith("phi-2/model.safetensors.index.json")
    assert name in problem


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("file", "name", "ours"),
    [
        (PHI, QKV, "language.layers.0.attention.qkv.weight"),
        (PHI, "lm_head.bias", "language.lm_head.bias"),
        (VISION, "blocks.1.attn.q_bias", "vision.layers.1.self_attn.qkv.bias"),
        (CHECKPOINT, LORA, "language.layers.0.attention.qkv.weight"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_when_read(folder, file, name, ours, value):
    change_tensors(folder / file, lambda t: t[name].view(-1)[-1:].fill_(value))
    with open_weights(resolve_sources(folder)) as weights:
        with pytest.raises(WeightsError) as caught:
            weights.read(ours)
        assert f"{name} in {file} holds numbers that are not finite" in caught.value.problem
        weights.read("projection.first.weight")


def test_a_product_that_overflows_is_refused(folder):
    huge = {LORA: torch.full((8, 160), 6e4)}
    huge[LORA.replace("lora_A", "lora_B")] = torch.full((480, 8), 6e4)
    change_tensors(folder / CHECKPOINT, lambda t: t.update(huge))
    with (
        open_weights(resolve_sources(folder)) as weights,
        pytest.raises(WeightsError, match="lora_B"),
    ):
        weights.read("language.layers.0.attention.qkv.weight")


@pytest.mark.parametrize("config", ["text", {"model": 3}, {"model": {"lora_alpha": "x"}}])
def test_nonsense_in_the_checkpoints_config_is_refused(folder, config):
    change_content(folder / CHECKPOINT, lambda content: content.update(config=config))
    assert CHECKPOINT in refuse(folder)


class Payload:
    """A pickle of this makes a folder when it is read by a reader that runs what it reads."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_a_foreign_class_is_refused_and_never_run(folder, tmp_path):
    proof = tmp_path / "the-payload-ran"
    torch.save({"model": {"a": Payload(proof)}}, folder / CHECKPOINT)

    problem = refuse(folder)

    assert CHECKPOINT in problem
    assert "mkdir" in problem
    assert not proof.exists()
    torch.load(folder / CHECKPOINT, weights_only=False)
    assert proof.exists(), "the payload is none: this test proves nothing"


def test_the_message_does_not_tell_how_to_run_the_file_all_the_same(folder, tmp_path):
    torch.save({"a": Payload(tmp_path / "x")}, folder / PHI)
    with pytest.raises(WeightsError) as caught:
        open_weights(resolve_sources(folder))
    assert "weights_only" not in caught.value.problem + caught.value.hint


def write_legacy(path):
    content = torch.load(path, weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")


@pytest.mark.parametrize("file", [PHI, VISION, QFORMER, CHECKPOINT])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("<html>not found</html>"), "is a web page"),
        (
            lambda path: path.write_text('{"error": "gated"}'),
            'it is a text, \'{"error": "gated"}\'',
        ),
        (lambda path: path.write_bytes(bytes(9000)), "it begins with zeros"),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes())), "it is packed by gzip"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "Git LFS"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is damaged"),
        (lambda path: path.write_bytes(pickle.dumps({})), "torch before 1.6"),
        (write_legacy, "torch before 1.6"),
        (write_other_zip, "is damaged"),
        (lambda path: torch.save([torch.ones(1)], path), "holds a list"),
        (lambda path: torch.save({"a": 1}, path), "not a tensor: 'a'"),
        (lambda path: torch.save({3: torch.ones(1)}, path), "not a tensor: 3"),
        (lambda path: torch.save({"a": torch.ones(1).to_sparse()}, path), "a form"),
    ],
)
def test_a_file_that_is_no_whole_pytorch_file_is_refused(folder, file, damage, words):
    damage(folder / file)
    problem = refuse(folder)
    assert file in problem
    assert words in problem


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_changed_bytes_are_read_as_numbers_or_refused_and_nothing_else(tmp_path, suffix):
    container = "bin" if suffix == "pth" else "safetensors"
    source = write_tiny(tmp_path / "s", container=container) / "phi-2"
    whole = next(source.glob("*model.*")).read_bytes()
    chance, path = random.Random(0), tmp_path / f"changed.{suffix}"
    refused = 0
    for _ in range(100):
        changed = bytearray(whole)
        for _ in range(5):
            near_the_names = chance.randrange(-5000, 5000)  # at either end of the file
            changed[near_the_names] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            file = open_tensor_file(path, path.name)
            for name in file.shapes:
                file.read(name).clone()
        except WeightsError:
            refused += 1
    assert refused > 10


def test_a_file_that_changes_after_it_was_opened_is_refused(folder):
    weights = open_weights(resolve_sources(folder))
    weights.close()
    change_tensors(folder / PHI, lambda t: t.pop("lm_head.bias"))
    with pytest.raises(WeightsError, match="changed while it was read"):
        weights.read("language.lm_head.bias")


def test_names_and_shapes_are_checked_before_numbers(folder):
    change_tensors(folder / PHI, lambda t: t[QKV].fill_(float("nan")))
    with open_weights(resolve_sources(folder)) as weights:
        weights.read("language.lm_head.bias")
    with pytest.raises(WeightsError, match="not finite"):
        read_all(folder)
    change_tensors(folder / CHECKPOINT, lambda t: t.pop("llama_proj.bias"))
    assert "lacks" in refuse(folder)


def test_a_name_that_would_write_on_the_terminal_is_shown_escaped(folder):
    change_tensors(folder / PHI, lambda t: t.update({"\x1b[31mred\n": torch.ones(1)}))
    problem = refuse(folder)
    assert "\x1b" not in problem
    assert "red" in problem
