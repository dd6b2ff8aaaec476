"""Stages on a toy network: what is trained, what is frozen, what is written, and resuming."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.torch.tiny_sources import write_tiny
from tinyv_cli.errors import ExitCode, UsageError, WeightsError
from tinyv_cli.model.tinygptv import TinyGptV, load_model
from tinyv_cli.prompt import Turn
from tinyv_cli.tokenizer import Tokenizer
from weights.checkpoint import open_weights
from weights.sources import make_checkpoint_name, resolve_sources
from weights.training.__main__ import main
from weights.training.examples import (
    Example,
    TokenIds,
    compute_loss,
    make_stage_loss,
    tokenize,
)
from weights.training.glyphs import open_glyphs
from weights.training.network import load_for_training
from weights.training.publish import write_checkpoint
from weights.training.stages import STAGES, Stage, compute_rate, thaw
from weights.training.trainer import Trainer, TrainOptions

IMAGE_PX = 28  # four patches
OPTIONS = TrainOptions(n_steps=8, n_warm_up=2, rates=(1e-4, 1e-2, 1e-3), save_every=3)


class ToyCorpus:
    """Two kinds of noise, each with its own answer."""

    def draw(self, step: int) -> list[Example]:
        generator = np.random.default_rng([7, step])
        examples = []
        for answer in ("the image", "of what"):
            pixels = generator.standard_normal((3, IMAGE_PX, IMAGE_PX), np.float32)
            shift = 2 if answer == "the image" else -2
            examples.append(Example(pixels + shift, (), "[vqa] what is it?", answer))
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
        model, spec = load_for_training(weights, STAGES[stage], rank=4, seed=0)
        return model, weights.lora_alpha, spec


def train(folder, stage, tokenizer, state, *, options=OPTIONS, stop_at=None):
    model, alpha, spec = load(folder, stage)
    loss = make_stage_loss(model, ToyCorpus(), tokenizer, STAGES[stage].template)
    trainer = Trainer(f"stage{stage}", thaw(model, STAGES[stage]), loss, state)
    trainer.run(options, lambda _: None, stop_at)
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


@pytest.mark.parametrize("stop_at", [3, 5])
def test_a_stopped_run_goes_on_to_the_same_numbers(stop_at, sources, tokenizer, tmp_path):
    whole = copy_tensors(train(sources[1], 2, tokenizer, tmp_path / "whole")[0])
    train(sources[1], 2, tokenizer, tmp_path / "parts", stop_at=stop_at)
    rest = copy_tensors(train(sources[1], 2, tokenizer, tmp_path / "parts")[0])
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    logs = [(tmp_path / name / "stage2.log.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_steps_after_the_last_state_are_taken_again(sources, tokenizer, tmp_path):
    whole = copy_tensors(train(sources[1], 2, tokenizer, tmp_path / "whole")[0])
    train(sources[1], 2, tokenizer, tmp_path / "killed", stop_at=3)
    log = tmp_path / "killed" / "stage2.log.jsonl"
    with log.open("a") as file:  # a step that a kill kept from the state
        file.write('{"step": 3, "loss": 0.0, "rate": 0.0}\n{"step": 4, "lo')
    rest = copy_tensors(train(sources[1], 2, tokenizer, tmp_path / "killed")[0])
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert log.read_text() == (tmp_path / "whole" / "stage2.log.jsonl").read_text()


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
    assert not list(folder.glob("*writing*"))
    with open_weights(resolve_sources(folder)) as weights:
        assert weights.spec == spec
        merged = load_model(weights.spec, weights.read)
    example = ToyCorpus().draw(0)[0]
    pixels = torch.from_numpy(example.pixels[None])
    torch.testing.assert_close(merged.encode(pixels), model.encode(pixels), rtol=1e-5, atol=1e-5)
    embeddings = torch.randn(1, 9, spec.language.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.language(embeddings)
    torch.testing.assert_close(merged.language(embeddings), expected, rtol=1e-4, atol=1e-4)


def test_only_the_answer_and_its_stop_are_learnt(sources, tokenizer):
    model = load(sources[1], 1)[0]
    example = ToyCorpus().draw(0)[0]
    text = tokenize(example, tokenizer, STAGES[1].template)
    assert tokenizer.decode(text.answer) == "the image###"
    loss = compute_loss(model, [example], [text])
    embeddings = model.language.embed_tokens
    image = model.encode(torch.from_numpy(example.pixels[None]))[0]
    ids = torch.tensor([*text.after, *text.answer])
    rows = torch.cat([embeddings(torch.tensor(text.before)), image, embeddings(ids)])
    logits = model.language(rows[None])[0]
    n = len(text.answer)
    expected = torch.nn.functional.cross_entropy(logits[-n - 1 : -1], ids[-n:])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_padding_changes_no_loss(sources, tokenizer):
    model = load(sources[1], 1)[0]
    short, long = ToyCorpus().draw(0)
    long = Example(long.pixels, (Turn("what is the image?", "the image"),), "why?", "of what")
    texts = [tokenize(each, tokenizer, "human") for each in (short, long)]
    together = compute_loss(model, [short, long], texts)
    alone = [compute_loss(model, [e], [t]) for e, t in zip((short, long), texts, strict=True)]
    n_tokens = [len(text.answer) for text in texts]
    expected = sum(loss * n for loss, n in zip(alone, n_tokens, strict=True)) / sum(n_tokens)
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: f"stage {stage.number}")
def test_a_training_text_begins_with_the_end_of_text_once(stage: Stage, tokenizer):
    example = Example(np.zeros((3, 1, 1)), (), "what?", "the image")
    text: TokenIds = tokenize(example, tokenizer, stage.template)
    end = tokenizer.find_special("<|endoftext|>")
    assert text.before[0] == end
    assert (text.before + text.after + text.answer).count(end) == 1


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


@pytest.mark.skipif(not has_font(), reason="Noto Color Emoji is not installed")
def test_the_command_trains_one_stage_after_another(tmp_path, capsys):
    folder = write_tiny(tmp_path / "sources", stage=1)
    flags = ["--sources", str(folder), "--steps", "2", "--batch", "2", "--image-px", "28"]
    main([*flags, "--stage", "2", "--lora-rank", "4"])
    main([*flags, "--stage", "3", "--lora-rank", "4"])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(folder / make_checkpoint_name(stage)) for stage in (2, 3)]
    with open_weights(resolve_sources(folder)) as weights:
        assert weights.spec.stage == 3
        assert weights.read_lora("language.layers.0.attention.qkv.weight")[0].shape[0] == 4


def test_the_command_refuses_a_stage_without_its_forerunner(tmp_path, capsys):
    folder = write_tiny(tmp_path / "sources", stage=1)
    with pytest.raises(SystemExit) as stop:
        main(["--sources", str(folder), "--steps", "2", "--stage", "4"])
    assert stop.value.code == ExitCode.WEIGHTS
    assert make_checkpoint_name(3) in capsys.readouterr().err
