"""Two roundings of one small network are evaluated and compared, as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.torch.conftest import open_variant
from tinyv_cli.answers.generate import ImageTokens
from tinyv_cli.app import main
from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.pictures.image import read_picture, to_pixels
from tinyv_cli.prompts.prompt import TEMPLATES, make_prompt
from tinyv_cli.variants.manifest import read_variant

QUESTIONS = [
    ("a.png", "what", "[vqa] what is this?", "a cat"),
    ("b.png", "colour", "[vqa] what colour is it?", "red"),
    ("a.png", "refer", "[refer] the cat", "{<10><20><60><70>}"),
    ("b.png", "caption", "[caption] describe it", "two cats and a car on a red background"),
]


@pytest.fixture(scope="module")
def place(tiny_sources, tmp_path_factory) -> Path:
    """A folder with pictures, questions and the variants `4` and `32`."""
    folder = tmp_path_factory.mktemp("eval")
    for bits in ("4", "32"):
        words = ["--sources", str(tiny_sources), "--bits", bits, "-o", str(folder / bits)]
        assert main(["quantize", *words, "-q"]) == 0
    draw = np.random.default_rng(4)
    for name in ("a.png", "b.png"):
        Image.fromarray(draw.integers(0, 256, (50, 40, 3), np.uint8)).save(folder / name)
    keys = ("picture", "task", "question", "answer")
    lines = [json.dumps(dict(zip(keys, values, strict=True))) for values in QUESTIONS]
    (folder / "questions.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


def compute_logits(place, bits, name, question, answer):
    """Logits along an answer in one variant, its whole prompt computed at once."""
    opened = open_variant(read_variant(place / bits))
    manifest = opened.variant.manifest
    pixels = to_pixels(read_picture(place / name), manifest.spec.vision.image_px)
    image = ImageTokens(opened.backend.encoder.encode(pixels)[0], name)
    before, after = make_prompt(TEMPLATES[manifest.template], (), question).pieces
    encode = opened.tokenizer.encode
    prompt = [tuple(encode(before)), image, tuple(encode(after))]
    logits = [opened.backend.decoder.extend(prompt)]
    logits += [opened.backend.decoder.extend([(token,)]) for token in encode(answer)]
    return np.stack(logits)


def evaluate(place, capsys, *flags):
    words = ["eval", str(place / "questions.jsonl"), "-n", "8", "-t", "1", *flags]
    assert main([*words, "-m", str(place / "4"), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_two_roundings_are_compared_along_the_reference_answers(place, capsys):
    document = evaluate(place, capsys, "--against", str(place / "32"))
    assert (document["model"], document["against"]) == ("4", "32")
    assert {task: row["n"] for task, row in document["tasks"].items()} == {
        "what": 1,
        "colour": 1,
        "caption": 1,
        "refer": 1,
    }
    divergences, same = [], []
    for name, _, question, answer in QUESTIONS:
        exact = compute_logits(place, "32", name, question, answer)
        rounded = compute_logits(place, "4", name, question, answer)
        divergences += [*compute_divergences(exact, rounded)]
        same += [*(exact.argmax(-1) == rounded.argmax(-1))]
    # Kernels for one position and for many round activations otherwise at 4 bits.
    assert document["kl_nats"] == pytest.approx(np.mean(divergences), rel=0.05)
    assert 0 < document["kl_nats_low"] < document["kl_nats"] < document["kl_nats_high"]
    assert document["top1_agreement"] == pytest.approx(np.mean(same), abs=0.1)
    again = evaluate(place, capsys, "--against", str(place / "32"))
    assert {**again, "seconds": 0} == {**document, "seconds": 0}


def test_answers_are_those_of_ask(place, capsys):
    evaluate(place, capsys)
    ledgers = [path.read_text("utf-8") for path in place.glob("questions.eval-*.jsonl")]
    answered = []
    for name, _, question, _ in QUESTIONS:
        words = ["ask", str(place / name), question, "-m", str(place / "4"), "-n", "8"]
        assert main([*words, "-t", "1", "--json"]) == 0
        answered.append(json.loads(capsys.readouterr().out)["answer"])
    kept = [[json.loads(line) for line in text.splitlines()] for text in ledgers]
    assert answered in [
        [each.get("answer") for each in sorted(lines, key=lambda each: each["index"])]
        for lines in kept
    ]


def test_a_variant_does_not_diverge_from_itself(place, capsys):
    document = evaluate(place, capsys, "--against", str(place / "4"))
    assert document["kl_nats"] == 0
    assert document["all"]["agreement"] == document["top1_agreement"] == 1
