"""Benchmarks' prompts as golden token ids, and losses of choices against torch."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.golden import GOLDEN, needs_golden
from tests.torch.conftest import read_golden_case
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.app import main
from tinyv_cli.evaluation.published.benchmarks import BENCHMARKS
from tinyv_cli.model.tinygptv import load_model
from tinyv_cli.pictures.image import PLAINLY, read_picture, to_pixels
from tinyv_cli.prompts.prompt import make_prompt
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources

pytestmark = needs_golden

CASE = "stage4"
CHOICES = ["a cat", "two_dogs", "left, then right", "7"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(GOLDEN / CASE / "phi-2" / "tokenizer.json")


def encode(tokenizer, name, question):
    benchmark = BENCHMARKS[name]
    prompt = make_prompt(benchmark.template, (), benchmark.write_prompt(question))
    return [tokenizer.encode(piece) for piece in prompt.pieces]


@pytest.mark.parametrize("name", [each for each in BENCHMARKS if each != "iconqa"])
def test_a_prompt_lies_in_the_published_template(tokenizer, name):
    before, after = read_golden_case(CASE).turns[0]["segment_ids"]
    asked = tokenizer.encode(" [vqa] what is this?")
    start = next(i for i in range(len(after)) if after[i : i + len(asked)] == asked)
    published_before, published_after = after[:start], after[start + len(asked) :]
    question = "what is this?"
    head, body = encode(tokenizer, name, question)
    assert head == before
    said = tokenizer.encode(f" {BENCHMARKS[name].write_prompt(question)}")
    assert body == [*published_before, *said, *published_after]


def test_a_ranked_prompt_begins_with_the_end_id_and_has_a_blank_before_the_second_mark(tokenizer):
    before, _ = read_golden_case(CASE).turns[0]["segment_ids"]
    head, body = encode(tokenizer, "iconqa", "what is this?")
    end = tokenizer.find_special("<|endoftext|>")
    assert head == [end, *before]
    text = tokenizer.decode(body)
    assert text == (
        "</Img> [vqa] Based on the image, respond to this question with a short answer: "
        "what is this? ###Assistant: "
    )


def compute_losses(tokenizer, question, texts):
    """Mean losses of texts and their end mark, each prompt computed as a whole, without a cache."""
    with open_weights(resolve_sources(GOLDEN / CASE)) as weights:
        model = load_model(weights.spec, weights.read)
    picture = read_picture(GOLDEN / CASE / "image.png", PLAINLY)
    pixels = to_pixels(picture, model.spec.vision.image_px)
    image = model.encode(torch.from_numpy(pixels))[0]
    head, body = encode(tokenizer, "iconqa", question)
    embed = model.language.embed_tokens
    losses = {}
    for text in texts:
        ids = torch.tensor(tokenizer.encode(f"{text}###"))
        parts = (embed(torch.tensor(head)), image, embed(torch.tensor(body)), embed(ids))
        logits = model.language(torch.cat(parts)[None])[0]
        losses[text] = float(cross_entropy(logits[-len(ids) - 1 : -1], ids))
    return losses


def test_choices_losses_are_those_of_the_reference(tokenizer, golden_variant, tmp_path, capsys):
    problem = {"image_id": "7", "question": "which is it?", "choices": CHOICES, "answer": 0}
    (tmp_path / "choose_text_val.json").write_text(json.dumps([problem]))
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "image.png").write_bytes((GOLDEN / CASE / "image.png").read_bytes())
    folder = golden_variant(CASE, 32).folder
    words = ["eval", str(tmp_path), "--benchmark", "iconqa", "-m", str(folder), "-t", "1", "--json"]
    assert main(words) == 0
    rules = json.loads(capsys.readouterr().out)["rules"]
    (ledger,) = tmp_path.glob("*.jsonl")
    found = json.loads(ledger.read_text())["losses"]
    texts = [*CHOICES, "a cat", "two", "dogs"]
    expected = compute_losses(tokenizer, problem["question"], texts)
    assert found == pytest.approx(expected, abs=1e-4)
    ranked = [expected[text] for text in CHOICES]
    assert rules["official"]["chosen"] == [ranked.index(min(ranked))]
    split = [expected[text] for text in "_".join(CHOICES).split("_")]
    assert rules["paper"]["chosen"] == [split.index(min(split))]
