"""What the stages start from: a vocabulary, texts, labels that scenes give, and whole sources."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.torch.test_training import has_font
from tinyv_cli.app import main as run_tinyv
from tinyv_cli.errors import InputError
from tinyv_cli.model.tinygptv import load_model
from tinyv_cli.spec import make_tiny_spec
from tinyv_cli.tokenizer import Tokenizer, derive_stop_ids
from weights.checkpoint import open_weights
from weights.sources import resolve_sources
from weights.tokenizer_files import make_small_merges, write_tokenizer
from weights.training.__main__ import main as run_stage
from weights.training.curve import draw_curves
from weights.training.curve import main as draw_curve
from weights.training.foundation import main as run_foundation
from weights.training.foundation import make_fresh_model
from weights.training.kinds import KINDS
from weights.training.placement import make_scene
from weights.training.publish import write_network
from weights.training.reading import describe, list_texts, read_scene
from weights.training.scene import NOTHING, label_patches
from weights.training.seeing import (
    SceneLabels,
    SeeingHeads,
    compute_seeing_loss,
    label_scene,
    match,
)
from weights.training.speaking import compute_speaking_loss
from weights.training.splits import make_generator
from weights.training.vocabulary import learn_merges

SPEC = replace(make_tiny_spec(1), vision=replace(make_tiny_spec(1).vision, image_px=56))


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


def test_a_text_describes_its_scene_where_the_picture_would_stand():
    for number in range(40):
        reading = read_scene(3, number)
        scene = make_scene(make_generator("train", 3, number), "train")
        assert f"<Img>{describe(scene)}</Img> " in reading.given
        assert reading == read_scene(3, number)
        assert reading.given.startswith("<|endoftext|>")
        assert reading.given.count("<|endoftext|>[INST]") in (0, reading.given.count("[INST]"))


def test_labels_are_those_of_the_scene(scenes):
    for scene in scenes:
        labels = label_scene(scene, 4)
        owners = label_patches(scene, 4).flatten()
        for kind, owner in zip(labels.patches.tolist(), owners, strict=True):
            expected = None if owner == NOTHING else scene.objects[owner].kind
            assert (KINDS[kind].name if kind < len(KINDS) else None) == expected
        assert [KINDS[kind].name for kind in labels.kinds] == [o.kind for o in scene.objects]
        assert labels.boxes.shape == (len(scene.objects), 4)
        assert [bool(tint) for tint in labels.tints] == [
            o.colour is not None for o in scene.objects
        ]


def test_each_object_is_matched_to_the_query_that_tells_it():
    boxes = torch.tensor([[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9]])
    nothing = torch.zeros(0, dtype=torch.long)
    labels = SceneLabels(nothing, torch.tensor([3, 3]), torch.tensor([0, 0]), boxes, 0)
    kinds = torch.full((5, len(KINDS) + 1), -4.0)
    kinds[:, -1] = 4.0
    told = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    for query, one in ((4, 0), (1, 1)):
        kinds[query, 3], kinds[query, -1] = 4.0, -4.0
        told[query] = boxes[one] + 0.01
    queries, objects = match(kinds, told, labels)
    assert dict(zip(objects.tolist(), queries.tolist(), strict=True)) == {0: 4, 1: 1}


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


def test_a_few_steps_of_speaking_lower_the_loss(tmp_path):
    write_tokenizer(tmp_path, make_small_merges())
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    readings = [read_scene(1, number) for number in range(4)]
    texts = [(tokenizer.encode(r.given)[-60:], tokenizer.encode(r.answer)) for r in readings]
    language = make_fresh_model(SPEC, seed=0).language
    losses = train(language.parameters(), lambda: compute_speaking_loss(language, texts), 25)
    assert losses[-1] < 0.6 * losses[0]


def test_padding_changes_no_speaking_loss(tmp_path):
    language = make_fresh_model(SPEC, seed=2).language
    texts = [(list(range(5, 25)), [7, 8, 9]), (list(range(40, 47)), [1, 2])]
    together = compute_speaking_loss(language, texts)
    reordered = compute_speaking_loss(language, texts[::-1])
    torch.testing.assert_close(together, reordered)
    alone = [compute_speaking_loss(language, [text]) for text in texts]
    assert min(alone) < together < max(alone)


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
    folder = tmp_path / "sources"
    steps = ["--seeing-steps", "2", "--speaking-steps", "2", "--batch", "2"]
    for _ in range(2):  # the second run finds all done
        run_foundation(["--out", str(folder), *steps])
    log = (folder / "training" / "seeing.log.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == [0, 1]
    flags = ["--sources", str(folder), "--steps", "1", "--batch", "2", "--lora-rank", "8"]
    for stage, image_px in (("1", "112"), ("2", "112"), ("3", "112"), ("4", "224")):
        run_stage([*flags, "--stage", stage, "--image-px", image_px])
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
