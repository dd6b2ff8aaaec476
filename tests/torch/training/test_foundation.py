"""What the stages start from: a vocabulary, texts, labels that scenes give, and whole sources."""

import json
import os
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.light.weights.test_recipe import MINIATURE
from tests.torch.training.test_training import has_font
from tinyv_cli.answers.tokenizer import Tokenizer, derive_stop_ids
from tinyv_cli.app import main as run_tinyv
from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.model.phi import make_rotary
from tinyv_cli.model.tinygptv import load_model
from tinyv_cli.spec import make_tiny_spec
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources
from weights.synthetic.tokenizer_files import make_small_merges, write_tokenizer
from weights.training.__main__ import main as run_training
from weights.training.curve import draw_curves
from weights.training.curve import main as draw_curve
from weights.training.language.reading import read_scene
from weights.training.language.slots import (
    GROUP_SIZE,
    N_GROUPS,
    N_SLOTS,
    NUMBERS,
    WORD_PLACES,
    WORDS,
)
from weights.training.language.vocabulary import find_word_ids, learn_merges, list_texts
from weights.training.learning.seeing import (
    SceneLabels,
    SeeingHeads,
    average_boxes,
    compute_seeing_loss,
    label_scene,
    match,
    see,
)
from weights.training.learning.speaking import SpeakingOptions, make_speaking_loss
from weights.training.network.fresh import make_fresh_model, make_waves, relate_tokens
from weights.training.network.publish import write_network
from weights.training.recipe import read_recipe
from weights.training.world.placement import make_scene
from weights.training.world.scene import NOTHING, label_patches
from weights.training.world.splits import make_generator

MINIATURE_SPEC = read_recipe(MINIATURE).foundation.spec
_TINY = make_tiny_spec(1)
SPEC = replace(
    _TINY,
    vision=replace(_TINY.vision, image_px=56),
    language=replace(_TINY.language, vocab_size=1344),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """A vocabulary as the miniature learns it."""
    folder = tmp_path_factory.mktemp("vocabulary")
    write_tokenizer(folder, learn_merges(list_texts(0, 700), 1000))
    return Tokenizer(folder / "tokenizer.json")


def test_a_kill_leaves_no_vocabulary_that_a_later_run_would_take_for_whole(tmp_path, monkeypatch):
    def die(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        write_tokenizer(tmp_path, make_small_merges())
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(make_generator("train", 5, i), "train") for i in range(6)]


def train(parameters, compute_loss, n_steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    losses = []
    for _ in range(n_steps):
        loss = compute_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_learnt_vocabulary_keeps_stop_marks_and_texts(tmp_path):
    texts = list(list_texts(0, 60))
    merges = learn_merges(texts, 300)
    assert len(merges) == len(set(merges)) == 300
    n_tokens = write_tokenizer(tmp_path, merges)
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    assert n_tokens == 256 + 300 + 1 + 38
    assert len(derive_stop_ids(tokenizer)) == 3
    for text in texts[:10]:
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("<|endoftext|>", "")
    n_ids = sum(len(tokenizer.encode(text)) for text in texts)
    assert n_ids < 0.5 * sum(len(text.encode()) for text in texts)


def test_every_word_of_a_slot_is_one_token(tokenizer):
    ids = find_word_ids(tokenizer)
    assert len(set(ids)) == len(WORDS)
    assert [tokenizer.decode([token]) for token in ids] == [f" {word}" for word in WORDS]


def test_a_vocabulary_without_a_word_is_refused(tmp_path):
    write_tokenizer(tmp_path, make_small_merges())
    with pytest.raises(UsageError, match="tokens"):
        find_word_ids(Tokenizer(tmp_path / "tokenizer.json"))


def test_a_scene_is_read_the_same_every_time():
    for number in range(20):
        reading = read_scene(3, number, 4)
        assert reading == read_scene(3, number, 4)
        assert len(reading.slots) == N_SLOTS
        assert len(reading.dialogues) == 4


def test_labels_are_those_of_the_scene(scenes):
    for scene in scenes:
        labels = label_scene(scene, 4)
        assert (labels.owners.numpy() == label_patches(scene, 4).flatten()).all()
        for each, words in zip(scene.objects, labels.objects.tolist(), strict=True):
            assert WORDS[words[0]] == each.kind
            assert WORDS[words[1]] == (each.colour or "plain")
            assert words[2:] == list(each.box_percent)
        lefts = labels.objects[labels.order.argsort(), 2].tolist()
        assert lefts == sorted(lefts)
        assert WORDS[labels.whole[0]] == scene.background.colour


def tell(groups: dict[int, list[str]], sure: float) -> torch.Tensor:
    """Probabilities (32, W) of query tokens that tell these words."""
    chances = torch.full((N_SLOTS, len(WORDS)), (1 - sure) / len(WORDS))
    for group, words in groups.items():
        for i, word in enumerate(words):
            chances[2 + group * GROUP_SIZE + i, WORD_PLACES[word]] += sure
    return chances


CAT = ["cat", "plain", "10", "10", "30", "30"]
DOG = ["dog", "plain", "50", "50", "90", "90"]
LABELS = SceneLabels(
    owners=torch.tensor([0, NOTHING, 1, 1]),
    objects=torch.tensor([[WORD_PLACES[word] for word in words] for words in (CAT, DOG)]),
    order=torch.tensor([0, 1]),
    whole=torch.tensor([WORD_PLACES["red"], WORD_PLACES["nothing"]]),
)


def test_an_object_has_the_group_that_tells_it():
    chances = tell({4: CAT, 0: DOG}, sure=0.98)
    assert match(chances, average_boxes(chances[None])[0], LABELS).tolist() == [4, 0]


def test_an_object_that_no_group_tells_has_that_of_its_place():
    chances = tell({}, sure=0.0)
    assert match(chances, average_boxes(chances[None])[0], LABELS).tolist() == [0, 1]


def test_boxes_are_the_mean_of_the_numbers_told():
    chances = tell({1: CAT, 3: DOG}, sure=0.5)
    told = chances[2 + GROUP_SIZE + 2, NUMBERS]
    expected = (told * torch.arange(101)).sum() / told.sum() / 100
    boxes = average_boxes(chances[None])
    assert boxes.shape == (1, N_GROUPS, 4)
    assert boxes[0, 1, 0] == pytest.approx(expected.item())
    sure = average_boxes(tell({1: CAT}, sure=1.0)[None])[0, 1]
    assert sure.tolist() == pytest.approx([0.1, 0.1, 0.3, 0.3])


def test_a_tower_sees_pictures_of_another_side():
    vision = make_fresh_model(SPEC, seed=0).vision
    small = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(see(vision, small), vision(small))
    assert see(vision, torch.zeros(1, 3, 112, 112)).shape == (1, 1 + 64, SPEC.vision.width)


def make_normed(n: int) -> torch.Tensor:
    """Random positions, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, MINIATURE_SPEC.language.width, generator=generator)


def find_most_looked_at(head: int, normed: torch.Tensor) -> torch.Tensor:
    """Which earlier one each of (T, D) positions looks at most; heads are numbered through."""
    spec, n = MINIATURE_SPEC.language, len(normed)
    layer, place = divmod(head, spec.n_heads)
    attention = make_fresh_model(MINIATURE_SPEC, seed=0).language.layers[layer].attention
    q, k, _ = attention._split(attention.qkv(normed[None]))
    rotary = make_rotary(spec, torch.arange(n)[None], torch.float32)
    normed_heads = torch.stack((attention.q_layernorm(q), attention.k_layernorm(k)))
    q, k = attention._rotate(normed_heads, rotary)
    scores = (q @ k.transpose(2, 3))[0, place]
    return scores.masked_fill(torch.ones(n, n).triu() > 0, -1e9).argmax(-1)


@pytest.mark.parametrize("back", range(1, GROUP_SIZE))
def test_first_heads_look_back_by_as_many_words_as_a_group_has(back):
    normed = make_normed(90)
    found = torch.arange(90) - find_most_looked_at(back - 1, normed)
    assert (found[10:] == back).float().mean() > 0.8


@pytest.mark.parametrize("head", range(GROUP_SIZE, 12))
def test_the_next_heads_find_the_same_token(head):
    words = make_normed(40)
    normed = torch.cat((words, words.flip(0)))  # each twice, at all distances
    found = find_most_looked_at(head, normed)[40:]
    assert (found == torch.arange(39, -1, -1)).float().mean() > 0.9


def test_tokens_that_mean_the_same_begin_alike(tokenizer):
    language = make_fresh_model(MINIATURE_SPEC, seed=0).language
    relate_tokens(language, tokenizer)
    embeddings = language.embed_tokens.weight.detach()

    def compare(one: str, other: str) -> float:
        (a,), (b,) = tokenizer.encode(one), tokenizer.encode(other)
        return torch.cosine_similarity(embeddings[a], embeddings[b], dim=0).item()

    assert compare(" 41", "41") > compare(" 41", " 42") > compare(" 41", " 47") + 0.1
    assert abs(compare(" 41", " 90")) < 0.3
    assert compare(" cat", "cat") > 0.5 > abs(compare(" cat", " dog"))
    given_back = language.lm_head(embeddings[: tokenizer.vocab_size]).argmax(-1).tolist()
    texts = [(tokenizer.decode([i]), tokenizer.decode([j])) for i, j in enumerate(given_back)]
    assert sum(one.strip() == other.strip() for one, other in texts) > 0.98 * len(texts)


def test_waves_tell_every_place_apart():
    waves = make_waves(8, 192)
    assert waves.shape == (64, 192)
    apart = torch.cdist(waves, waves) + 100 * torch.eye(64)
    assert apart.min() > 1
    assert torch.cdist(waves[:1], waves[1:2]) < torch.cdist(waves[:1], waves[7:8])


def test_a_few_steps_of_seeing_lower_the_loss(scenes):
    model = make_fresh_model(SPEC, seed=0)
    torch.manual_seed(0)
    heads = SeeingHeads(SPEC)
    pixels = torch.randn(len(scenes), 3, 56, 56, generator=torch.Generator().manual_seed(1))
    labels = [label_scene(scene, 4) for scene in scenes]
    trained = [*model.vision.parameters(), *model.qformer.parameters(), *heads.parameters()]
    losses = train(trained, lambda: compute_seeing_loss(model, heads, pixels, labels), 25)
    assert losses[-1] < 0.6 * losses[0]
    assert all(parameter.grad is not None for parameter in trained)


def test_a_few_steps_of_speaking_lower_the_loss(tokenizer):
    language = make_fresh_model(SPEC, seed=0).language
    compute_loss = make_speaking_loss(
        language, tokenizer, SpeakingOptions(1, batch=2, n_dialogues=3)
    )
    assert compute_loss(0).item() == compute_loss(0).item() != compute_loss(1).item()
    losses = train(language.parameters(), lambda: compute_loss(0), 25)
    assert losses[-1] < 0.6 * losses[0]


def test_a_network_written_as_sources_reads_back(tmp_path):
    model = make_fresh_model(SPEC, seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.startswith("qformer"):
                parameter += 0.1 * torch.randn_like(parameter)
        for layer in model.language.layers:  # what the public files do not hold
            layer.attention.q_layernorm.bias.zero_()
            layer.attention.k_layernorm.bias.zero_()
    (tmp_path / "phi-2").mkdir()
    write_tokenizer(tmp_path / "phi-2", make_small_merges())
    write_network(tmp_path, model, SPEC)
    with open_weights(resolve_sources(tmp_path)) as weights:
        assert weights.spec == SPEC
        again = load_model(weights.spec, weights.read)
    pixels = torch.randn(2, 3, 56, 56)
    embeddings = torch.randn(1, 7, SPEC.language.width)
    with torch.no_grad():
        pairs = [
            (again.encode(pixels), model.encode(pixels)),
            (again.language(embeddings), model.language(embeddings)),
        ]
    for out, expected in pairs:
        assert (out - expected).norm() < 3e-3 * expected.norm()  # float16 has 11 bits


@pytest.mark.skipif(not has_font(), reason="Noto Color Emoji is not installed")
def test_from_nothing_to_an_answer(tmp_path, capsys):
    folder, recipe = tmp_path / "sources", tmp_path / "recipe.toml"
    text = MINIATURE.read_text("utf-8")
    for name, number in (
        ("steps", 2),
        ("batch", 4),
        ("warm_up", 1),
        ("large_from", 1),
        ("long_from", 1),
        ("dialogues", 2),
    ):
        text = re.sub(rf"^{name} = \d+", f"{name} = {number}", text, flags=re.MULTILINE)
    text = text.replace("vocabulary_scenes = 3000", "vocabulary_scenes = 700")
    recipe.write_text(text, "utf-8")
    vocabularies = []
    for _ in range(2):  # the second run finds all done
        run_training([str(recipe), "--out", str(folder)])
        vocabularies.append((folder / "phi-2" / "merges.txt").stat().st_mtime_ns)
    assert vocabularies[0] == vocabularies[1]
    for name in ("seeing", "speaking", "stage1", "stage4"):
        log = (folder / "training" / f"{name}.log.jsonl").read_text("utf-8").splitlines()
        assert [json.loads(line)["step"] for line in log] == [0, 1]
    variant = tmp_path / "variant"
    assert run_tinyv(["quantize", "--sources", str(folder), "-o", str(variant), "-q"]) == 0
    capsys.readouterr()
    picture = folder.parent / "p.png"
    from PIL import Image

    Image.fromarray(np.full((30, 30, 3), 90, np.uint8)).save(picture)
    words = ["ask", str(picture), "what is this?", "-m", str(variant), "-n", "3", "--json"]
    assert run_tinyv(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["template"] == "inst"
    assert Counter(document["usage"])["image_tokens"] == 32


def test_the_loss_curve_shows_every_run_there_is(tmp_path, capsys):
    folder = tmp_path / "training"
    folder.mkdir()
    for name, n_steps in (("seeing", 120), ("stage2", 3)):
        lines = [json.dumps({"step": i, "loss": 9 / (i + 1), "rate": 0.1}) for i in range(n_steps)]
        (folder / f"{name}.log.jsonl").write_text("\n".join(lines) + '\n{"step": 9', "utf-8")
    figure = draw_curves(folder)
    assert [panel.get_title() for panel in figure.axes] == ["seeing", "stage2"]
    assert [len(panel.lines[0].get_xdata()) for panel in figure.axes] == [120, 3]
    draw_curve([str(tmp_path)])
    assert capsys.readouterr().out == f"{folder / 'loss.png'}\n"
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_log_there_is_no_curve(tmp_path):
    with pytest.raises(InputError, match="no log"):
        draw_curves(tmp_path)
