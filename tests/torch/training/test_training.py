"""Stages on a toy network: what is trained, what is frozen, what is written, and resuming."""

import errno
import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.faults import Disk, watched
from tests.torch.quantize.tiny_sources import write_tiny
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.errors import ExitCode, UsageError, WeightsError
from tinyv_cli.model.tinygptv import TinyGptV, load_model
from weights.reading.checkpoint import open_weights
from weights.reading.sources import make_checkpoint_name, resolve_sources
from weights.training.__main__ import main
from weights.training.language.dialogues import Dialogue
from weights.training.learning.examples import Example, make_stage_loss
from weights.training.learning.optimizers import compute_rate, make_optimizers
from weights.training.learning.trainer import Trainer, TrainOptions
from weights.training.network.publish import write_checkpoint
from weights.training.network.stages import PARTS, load_for_training, round_frozen, thaw
from weights.training.world.glyphs import open_glyphs

IMAGE_PX = 28  # four patches
OPTIONS = TrainOptions(n_steps=8, n_warm_up=2, rates=(1e-4, 1e-2, 1e-3), save_every=3)


def draw_noise(step: int) -> list[Example]:
    """Two kinds of noise, each with its own answer."""
    generator = np.random.default_rng([7, step])
    examples = []
    for answer in ("the image", "of what"):
        pixels = generator.standard_normal((3, IMAGE_PX, IMAGE_PX), np.float32)
        shift = 2 if answer == "the image" else -2
        dialogues = [Dialogue((), question, answer) for question in ("[vqa] what?", "is it?")]
        examples.append(Example(pixels + shift, dialogues, "human-system"))
    return examples


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[int, Path]:
    """Folders of sources, by the stage of their checkpoint."""
    return {
        stage: write_tiny(tmp_path_factory.mktemp(f"stage{stage}") / "sources", stage)
        for stage in (1, 3)
    }


@pytest.fixture(scope="module")
def tokenizer(sources) -> Tokenizer:
    return Tokenizer(sources[1] / "phi-2" / "tokenizer.json")


def load(folder: Path, stage: int) -> tuple[TinyGptV, float, object]:
    with open_weights(resolve_sources(folder), IMAGE_PX) as weights:
        model, spec = load_for_training(weights, stage, rank=4, seed=0)
        return model, weights.lora_alpha, spec


def train(folder, stage, tokenizer, state, *, options=OPTIONS, stop_at=None):
    model, alpha, spec = load(folder, stage)
    loss = make_stage_loss(model, draw_noise, tokenizer)
    trainer = Trainer(f"stage{stage}", thaw(model, stage), loss, state, options)
    trainer.run(lambda _: None, stop_at)
    return model, alpha, spec


def copy_tensors(model: TinyGptV) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


@pytest.mark.parametrize(("start", "stage"), [(1, 1), (1, 2), (3, 4)])
def test_a_stage_changes_what_it_trains_and_nothing_else(
    start, stage, sources, tokenizer, tmp_path
):
    before = copy_tensors(load(sources[start], stage)[0])
    after = copy_tensors(train(sources[start], stage, tokenizer, tmp_path)[0])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    norms = {n for n in before if n.startswith("language.") and n.endswith("layernorm.weight")}
    lora = {name for name in before if name.endswith((".a", ".b"))}
    projections = {name for name in before if name.startswith("projection.")}
    assert changed == norms | lora | projections
    assert len(norms) == 4 * 2 + 1
    assert len(lora) == (0 if stage == 1 else 2 * 2 * 2)


def test_a_few_steps_lower_the_loss(sources, tokenizer, tmp_path):
    options = TrainOptions(n_steps=30, n_warm_up=3, rates=(1e-3, 1e-2, 1e-3))
    train(sources[1], 2, tokenizer, tmp_path, options=options)
    lines = (tmp_path / "stage2.log.jsonl").read_text("utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])


@pytest.mark.parametrize(("stop_at", "optimizer"), [(3, "adamw"), (5, "adamw"), (3, "muon")])
def test_a_stopped_run_goes_on_to_the_same_numbers(
    stop_at, optimizer, sources, tokenizer, tmp_path
):
    how = replace(OPTIONS, optimizer=optimizer)
    whole = copy_tensors(train(sources[1], 2, tokenizer, tmp_path / "whole", options=how)[0])
    train(sources[1], 2, tokenizer, tmp_path / "parts", options=how, stop_at=stop_at)
    rest = copy_tensors(train(sources[1], 2, tokenizer, tmp_path / "parts", options=how)[0])
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    logs = [(tmp_path / name / "stage2.log.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_muon_moves_matrices_and_adamw_the_rest():
    trained = {
        "qkv.weight": torch.nn.Parameter(torch.zeros(8, 4)),
        "embed_tokens.weight": torch.nn.Parameter(torch.zeros(8, 4)),
        "norm.weight": torch.nn.Parameter(torch.zeros(4)),
    }
    muon, adamw = make_optimizers(trained, "muon")
    by_muon = [each for group in muon.param_groups for each in group["params"]]
    by_adamw = [each for group in adamw.param_groups for each in group["params"]]
    assert [id(each) for each in by_muon] == [id(trained["qkv.weight"])]
    assert {id(each) for each in by_adamw} == {id(p) for n, p in trained.items() if n[0] != "q"}


def test_without_muon_a_newer_torch_is_asked_for(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UsageError, match="no Muon"):
        make_optimizers({}, "muon")


def test_steps_after_the_last_state_are_taken_again(sources, tokenizer, tmp_path):
    whole = copy_tensors(train(sources[1], 2, tokenizer, tmp_path / "whole")[0])
    train(sources[1], 2, tokenizer, tmp_path / "killed", stop_at=3)
    log = tmp_path / "killed" / "stage2.log.jsonl"
    with log.open("a") as file:  # a step that a kill kept from the state
        file.write('{"step": 3, "loss": 0.0, "rate": 0.0}\n{"step": 4, "lo')
    rest = copy_tensors(train(sources[1], 2, tokenizer, tmp_path / "killed")[0])
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert log.read_text() == (tmp_path / "whole" / "stage2.log.jsonl").read_text()


def test_a_power_cut_takes_no_line_that_the_state_counts(sources, tokenizer, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda opened: synced.append(os.fstat(opened)))
    train(sources[1], 2, tokenizer, tmp_path, stop_at=3)
    log, state = ((tmp_path / f"stage2.{end}").stat() for end in ("log.jsonl", "state.pt"))
    names = [each.st_ino for each in synced]
    assert names.index(log.st_ino) < names.index(state.st_ino)
    assert synced[names.index(log.st_ino)].st_size == log.st_size


def test_a_run_with_other_options_is_not_gone_on_with(sources, tokenizer, tmp_path):
    train(sources[1], 2, tokenizer, tmp_path, stop_at=3)
    other = TrainOptions(n_steps=9, n_warm_up=2, rates=(1e-4, 1e-2, 1e-3))
    with pytest.raises(UsageError, match="other options"):
        train(sources[1], 2, tokenizer, tmp_path, options=other)


def test_a_damaged_state_is_refused(sources, tokenizer, tmp_path):
    train(sources[1], 2, tokenizer, tmp_path, stop_at=3)
    state = tmp_path / "stage2.state.pt"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(WeightsError, match="damaged"):
        train(sources[1], 2, tokenizer, tmp_path)


@pytest.mark.parametrize(("start", "stage"), [(1, 1), (1, 2), (3, 4)])
def test_the_checkpoint_reads_back_as_what_was_trained(start, stage, sources, tokenizer, tmp_path):
    model, alpha, spec = train(sources[start], stage, tokenizer, tmp_path / "state")
    folder = tmp_path / "sources"
    folder.mkdir()
    for path in sources[start].iterdir():
        if path.name != make_checkpoint_name(start):
            (folder / path.name).symlink_to(path)
    write_checkpoint(folder / make_checkpoint_name(stage), model, spec, alpha)
    assert not list(folder.glob(".*"))
    with open_weights(resolve_sources(folder)) as weights:
        assert weights.spec == spec
        merged = load_model(weights.spec, weights.read)
    example = draw_noise(0)[0]
    pixels = torch.from_numpy(example.pixels[None])
    torch.testing.assert_close(merged.encode(pixels), model.encode(pixels), rtol=1e-5, atol=1e-5)
    embeddings = torch.randn(1, 9, spec.language.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.language(embeddings)
    torch.testing.assert_close(merged.language(embeddings), expected, rtol=1e-4, atol=1e-4)


def test_rounding_what_is_frozen_changes_nothing_that_bfloat16_would_not_change(sources):
    exact, rounded = (load(sources[1], 2)[0] for _ in range(2))
    trained = thaw(rounded, 2)
    round_frozen(rounded, trained)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert rounded.language.layers[0].attention.qkv.base.weight.dtype == torch.bfloat16
    embeddings = torch.randn(1, 9, exact.language.spec.width)
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        warnings.filterwarnings("ignore", "Mismatch dtype")
        assert torch.equal(rounded.language(embeddings), exact.language(embeddings))


def test_the_rate_warms_up_and_falls():
    rates = [compute_rate(step, 100, 10, (1e-6, 1e-4, 1e-5)) for step in range(101)]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[10] == pytest.approx(1e-4) == max(rates)
    assert rates[100] == pytest.approx(1e-5)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def has_font() -> bool:
    try:
        open_glyphs()
    except UsageError:
        return False
    return True


def write_recipe(folder: Path, *stages: tuple[int, int]) -> Path:
    """A recipe of two steps a stage, at 28 pixels; stages are (number, start)."""
    text = "seed = 3\nbfloat16 = false\nsave_every = 1\n"
    for number, start in stages:
        text += f"""
[[stages]]
number = {number}
start = {start}
image_px = 28
lora_rank = 4
templates = ["train-inst", "inst"]
[stages.schedule]
steps = 2
optimizer = "adamw"
warm_up = 0
rates = [1e-4, 1e-3, 1e-4]
batch = 2
dialogues = 2
"""
    path = folder / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.skipif(not has_font(), reason="Noto Color Emoji is not installed")
def test_the_command_trains_one_stage_after_another(tmp_path, capsys):
    folder = write_tiny(tmp_path / "sources", stage=1)
    recipe = write_recipe(tmp_path, (2, 1), (3, 2))
    for _ in range(2):  # the second run finds all done
        main([str(recipe), "--out", str(folder)])
        assert capsys.readouterr().out == f"{folder}\n"
        with open_weights(resolve_sources(folder)) as weights:
            assert weights.spec.stage == 3
            lora = weights.read_lora("language.layers.0.attention.qkv.weight")
            assert lora[0].shape[0] == 4
            assert lora[1].abs().max() > 0


@pytest.mark.skipif(not has_font(), reason="Noto Color Emoji is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="open files are named by /proc")
def test_whatever_a_disk_refuses_a_training_is_told_in_two_lines(tmp_path, capsys):
    recipe = write_recipe(tmp_path, (2, 1))

    def train_in(name, refused=None):
        folder = write_tiny(tmp_path / name, stage=1)
        with watched(Disk(folder, refused, errno.ENOSPC)) as disk:
            main([str(recipe), "--out", str(folder)])
        return disk.asked

    asked = train_in("whole")
    for what in ("open", "write", "fsync"):
        last = max(
            number
            for number, (each, place) in enumerate(asked)
            if each == what and place.endswith(".tmp")
        )
        with pytest.raises(SystemExit) as stop:
            train_in(what, last)
        assert stop.value.code == ExitCode.DEVICE
        problem, hint = capsys.readouterr().err.splitlines()[-2:]
        assert problem.startswith(f"error: {tmp_path / what}"), problem
        assert problem.endswith("cannot be written: no space left on device")
        assert hint.startswith("hint:  ")


def test_a_stage_without_its_forerunner_is_refused(tmp_path, capsys):
    folder = write_tiny(tmp_path / "sources", stage=1)
    with pytest.raises(SystemExit) as stop:
        main([str(write_recipe(tmp_path, (4, 3))), "--out", str(folder)])
    assert stop.value.code == ExitCode.WEIGHTS
    assert make_checkpoint_name(3) in capsys.readouterr().err


def test_a_checkpoint_that_another_training_made_stays(tmp_path, capsys):
    folder = write_tiny(tmp_path / "sources", stage=1)
    there = folder / make_checkpoint_name(2)
    there.write_bytes(b"downloaded")
    with pytest.raises(SystemExit) as stop:
        main([str(write_recipe(tmp_path, (2, 1))), "--out", str(folder)])
    assert stop.value.code == ExitCode.WEIGHTS
    assert there.read_bytes() == b"downloaded"
    assert "start = 2" in capsys.readouterr().err


def test_a_phase_that_the_recipe_lacks_is_refused(tmp_path, capsys):
    recipe = write_recipe(tmp_path, (2, 1))
    with pytest.raises(SystemExit) as stop:
        main([str(recipe), "--out", str(tmp_path), "--only", "seeing"])
    assert stop.value.code == ExitCode.USAGE
    assert "stage2" in capsys.readouterr().err


@pytest.mark.skipif(not has_font(), reason="Noto Color Emoji is not installed")
@pytest.mark.parametrize("part", PARTS)
def test_without_a_part_only_a_log_and_a_state_are_written(part, tmp_path):
    folder = write_tiny(tmp_path / "sources", stage=1)
    there = {path.name for path in folder.iterdir()}
    recipe = write_recipe(tmp_path, (2, 1))
    flags = ["--out", str(folder), "--without", part, "--stop-at", "1"]
    main([str(recipe), *flags])
    assert {path.name for path in folder.iterdir()} == there | {"training"}
    names = {path.name for path in (folder / "training").iterdir()}
    assert names == {f"stage2-without-{part}.state.pt", f"stage2-without-{part}.log.jsonl"}
    state = torch.load(folder / "training" / f"stage2-without-{part}.state.pt", weights_only=True)
    assert state["n_done"] == 1
    trained = set(state["trained"])
    lost = {
        "qk-norm": "q_layernorm.weight",
        "post-norm": "post_layernorm.weight",
        "input-norms": "input_layernorm.weight",
        "lora": ".a",
    }[part]
    assert not any(name.endswith(lost) for name in trained)
    assert any(name.startswith("projection.") for name in trained)
    assert any(name.endswith("final_layernorm.weight") for name in trained)
