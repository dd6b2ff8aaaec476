"""Whole variants by the recipe: what `--calibrated`, `--calibrate`, a kill and five bits change."""

import json
from pathlib import Path

import pytest
import torch

from quantize import language_side
from quantize.calibrate import language, material
from quantize.calibrate.kept import KeptLayers
from quantize.pipeline import QuantizeOptions, make_variant
from quantize.recipe import LANGUAGE_MATRICES, RECIPES
from tinyv_cli.app import main
from tinyv_cli.disk.places import rounding_cache_dir
from tinyv_cli.errors import ExitCode, InputError
from tinyv_cli.progress import show_nothing
from tinyv_cli.variants.manifest import read_variant
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources

NAMES = ("decoder.data", "decoder.onnx", "vision.data", "embeddings.npy")


@pytest.fixture(autouse=True)
def few_positions(monkeypatch):
    monkeypatch.setattr(language_side, "_POSITIONS_A_COLUMN", 2)


def make(sources, folder, **options):
    options = QuantizeOptions(sources, folder, threads=1, **options)
    return make_variant(options, show_nothing).variant


def read_files(folder):
    return {name: (folder / name).read_bytes() for name in NAMES}


def test_a_calibrated_variant_is_nearer_than_a_quick_one_at_the_same_bytes(tiny_sources, tmp_path):
    quick, calibrated = (
        make(tiny_sources, tmp_path / str(each), quick=each) for each in (True, False)
    )
    assert calibrated.manifest.errors.logits_kl_nats < 0.8 * quick.manifest.errors.logits_kl_nats
    files, others = (read_files(each.folder) for each in (quick, calibrated))
    assert [len(each) for each in files.values()] == [len(each) for each in others.values()]
    changed = {name for name in NAMES if files[name] != others[name]}
    assert changed == {"decoder.data", "decoder.onnx"}  # short biases stand in the graph


def test_errors_are_those_of_many_positions_with_their_intervals(tiny_model):
    errors = read_variant(tiny_model).manifest.errors
    assert 1500 < errors.n_positions <= 2500
    assert errors.logits_kl_low < errors.logits_kl_nats < errors.logits_kl_high
    assert errors.top1_low < errors.top1_agreement < errors.top1_high


def test_a_killed_process_goes_on_behind_the_last_layer_it_finished(
    tiny_sources, tmp_path, monkeypatch
):
    kept_before = set(rounding_cache_dir().glob("*"))  # of other attempts that failed
    whole = make(tiny_sources, tmp_path / "whole")
    rounded, save, rounding = [], KeptLayers.save, language.round_layer

    def note_and_round(block, *streams):
        rounded.append(block)
        return rounding(block, *streams)

    def save_and_die(self, layer, arrays, states):
        save(self, layer, arrays, states)
        if layer == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(language, "round_layer", note_and_round)
    monkeypatch.setattr(KeptLayers, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        make(tiny_sources, tmp_path / "v")
    assert not (tmp_path / "v").exists()
    assert len(rounded) == 2
    monkeypatch.setattr(KeptLayers, "save", save)
    resumed = make(tiny_sources, tmp_path / "v")
    assert len(rounded) == resumed.manifest.spec.language.n_layers
    assert read_files(resumed.folder) == read_files(whole.folder)
    assert resumed.manifest.errors == whole.manifest.errors
    assert set(rounding_cache_dir().glob("*")) == kept_before


def test_layers_of_another_recipe_or_of_other_material_are_not_taken(tmp_path):
    arrays = {"a": torch.ones(3)}
    kept = KeptLayers(tmp_path / "k", "one")
    kept.save(0, arrays, arrays)
    assert KeptLayers(tmp_path / "k", "one").load(0) is not None
    assert KeptLayers(tmp_path / "k", "one").load(1) is None
    assert KeptLayers(tmp_path / "k", "other").load(0) is None
    assert KeptLayers(tmp_path / "k", "one").load(0) is None


def test_a_layer_without_its_states_is_rounded_again(tmp_path):
    arrays = {"a": torch.ones(3)}
    kept = KeptLayers(tmp_path / "k", "one")
    kept.save(0, arrays, arrays)
    kept.save(1, arrays, arrays)
    (tmp_path / "k" / "states-1.safetensors").rename(tmp_path / "k" / "states-0.safetensors")
    assert kept.load(0) is not None
    assert kept.load(1) is None


def test_five_bits_are_spent_where_four_lose_most(tiny_sources, tmp_path):
    variant = make(tiny_sources, tmp_path / "five", bits=5)
    manifest = variant.manifest
    assert manifest.bits == 5
    eight = {r["tensors"] for r in manifest.recipe["rules"] if r["tensors"].count("*") == 0}
    assert eight
    with open_weights(resolve_sources(tiny_sources)) as weights:
        shapes = weights.shapes
    recipe = RECIPES[5].spend(shapes, sorted(eight))
    bits = n_weights = 0.0
    for name, shape in shapes.items():
        if recipe.rounding(name).bits in (4, 8) and ".layers." in name and "language" in name:
            n = shape[0] * shape[1]
            bits += n * recipe.rounding(name).fit(shape[1]).bits_a_weight
            n_weights += n
    assert 4.4 < bits / n_weights <= 5.0
    assert len(LANGUAGE_MATRICES) == 4


def test_the_users_own_questions_take_most_of_the_positions(tiny_sources, tmp_path, monkeypatch):
    picture = material.make_material(1).pictures[0]
    picture.save(tmp_path / "a.png")
    line = {"picture": "a.png", "task": "what", "question": "what is this?", "answer": "a wall"}
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(line) + "\n" for _ in range(200)), "utf-8")
    packed = []
    pack = language_side.pack
    monkeypatch.setattr(
        language_side,
        "pack",
        lambda each, *others, **more: packed.append(each) or pack(each, *others, **more),
    )
    make(tiny_sources, tmp_path / "own", calibrate=questions)
    own = packed[0][0]
    n_own = sum(len(each) for each in packed[0] if each.shape == own.shape)
    n_all = sum(len(each) for each in packed[0])
    assert 0.85 < n_own / n_all < 0.97


def test_a_file_that_cannot_be_read_is_told_before_anything_is_rounded(
    tiny_sources, tmp_path, capsys
):
    words = ["quantize", "--sources", str(tiny_sources), "-o", str(tmp_path / "v"), "-q"]
    assert main([*words, "--calibrate", str(tmp_path / "no.jsonl")]) == ExitCode.INPUT
    assert capsys.readouterr().err.startswith("error: there is no file ")
    assert main([*words, "--calibrate", "q.jsonl", "--quick"]) == ExitCode.USAGE
    assert main([*words, "--calibrate", "q.jsonl", "--bits", "8"]) == ExitCode.USAGE


def test_the_program_s_own_material_is_the_same_every_time_and_of_all_kinds():
    first, again = material.make_material(40), material.make_material(40)
    assert first.exercises == again.exercises
    pairs = zip(first.pictures, again.pictures, strict=True)
    assert all(one.tobytes() == other.tobytes() for one, other in pairs)
    assert {each.picture for each in first.exercises} == set(range(material.N_PICTURES))
    questions = " ".join(each.question for each in first.exercises)
    for tag in ("[vqa]", "[refer]", "[identify]", "[caption]", "[detection]", "[grounding]"):
        assert tag in questions
    with pytest.raises(InputError):
        material.read_material(Path("no.jsonl"))
