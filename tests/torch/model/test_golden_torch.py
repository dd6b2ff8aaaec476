"""The published implementation's tensors and words, computed again by the network in torch."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from quantize.measure.reference import compute_image_tokens, compute_logits
from tests.golden import CASES, GOLDEN, needs_golden
from tinyv_cli.answers.generate import ImageTokens, Rules, Segment, generate
from tinyv_cli.answers.sampling import Sampler, SamplingOptions
from tinyv_cli.model.decoder import TorchDecoder
from tinyv_cli.model.tinygptv import TinyGptV, load_model
from tinyv_cli.pictures.image import read_picture, to_pixels
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources

pytestmark = needs_golden

BOUND = 1e-4  # ‖out − reference‖ / ‖reference‖
EVERY_TURN = pytest.mark.parametrize("turn", [0, 1])
EVERY_PENALTY = pytest.mark.parametrize(
    ("penalty", "ids_name"), [(1.0, "greedy_ids"), (1.05, "greedy_ids_repetition_penalty_1.05")]
)


@dataclass(frozen=True)
class Case:
    folder: str
    model: TinyGptV
    tensors: dict[str, Tensor]
    turns: list[dict[str, Any]]

    def make_segments(self, turn: int) -> list[Segment]:
        """The prompt of a turn, with the published picture in place."""
        before, after = self.turns[turn]["segment_ids"]
        picture = ImageTokens(self.tensors["image_embeds"][0].numpy(), key=self.folder)
        return [tuple(before), picture, tuple(after)]

    def make_embeddings(self, turn: int) -> Tensor:
        """The same as (1, T, D), with the picture as encoded here."""
        before, after = (torch.tensor(ids) for ids in self.turns[turn]["segment_ids"])
        embed = self.model.language.embed_tokens
        picture = self.model.encode(self.tensors["pixel_values"])[0]
        return torch.cat((embed(before), picture, embed(after)))[None]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    folder = GOLDEN / request.param
    with open_weights(resolve_sources(folder)) as weights:
        model = load_model(weights.spec, weights.read)
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return Case(request.param, model, load_file(folder / "expected.safetensors"), expected["turns"])


def check_near(out: Tensor, reference: Tensor) -> None:
    assert out.shape == reference.shape
    assert float((out - reference).norm() / reference.norm()) < BOUND


def test_a_picture_becomes_the_published_tensors(case: Case):
    features_before_norm: list[Tensor] = []
    hook = case.model.vision.ln_vision.register_forward_pre_hook(
        lambda _, inputs: features_before_norm.append(inputs[0])
    )
    features = case.model.vision(case.tensors["pixel_values"])
    hook.remove()
    query_tokens = case.model.qformer(features)
    check_near(features_before_norm[0][:, ::16], case.tensors["vit_every_16th_token"])
    check_near(features[:, ::16], case.tensors["ln_vision_every_16th_token"])
    check_near(query_tokens, case.tensors["qformer"])
    check_near(case.model.projection(query_tokens), case.tensors["image_embeds"])


def test_the_picture_file_becomes_the_published_image_tokens(case: Case):
    picture = read_picture(GOLDEN / case.folder / "image.png")
    pixels = to_pixels(picture, case.model.spec.vision.image_px)
    check_near(case.model.encode(torch.from_numpy(pixels)), case.tensors["image_embeds"])


@EVERY_TURN
def test_a_prompt_becomes_the_published_logits(case: Case, turn: int):
    embeddings = case.make_embeddings(turn)
    logits = case.model.language(embeddings)
    check_near(embeddings, case.tensors[f"turn{turn}_inputs_embeds"])
    check_near(logits[:, -4:], case.tensors[f"turn{turn}_logits"])
    check_near(logits.sum(-1), case.tensors[f"turn{turn}_all_logits_sum"])


@EVERY_TURN
@EVERY_PENALTY
def test_the_cached_decoder_answers_as_published(
    case: Case, turn: int, penalty: float, ids_name: str
):
    decoder = TorchDecoder(case.model.language)
    sampler = Sampler(SamplingOptions(repetition_penalty=penalty))
    expected = case.turns[turn][ids_name]
    assert [
        each.tokens[0]
        for each in generate(decoder, case.make_segments(turn), Rules(sampler, (), len(expected)))
    ] == expected


@EVERY_TURN
@EVERY_PENALTY
def test_without_a_cache_the_answer_is_as_published(
    case: Case, turn: int, penalty: float, ids_name: str
):
    embeddings = case.make_embeddings(turn)
    sampler = Sampler(SamplingOptions(repetition_penalty=penalty))
    generated: list[int] = []
    for _ in case.turns[turn][ids_name]:
        logits = case.model.language(embeddings)[0, -1].numpy()
        generated.append(sampler.choose(logits, generated))
        new = case.model.language.embed_tokens(torch.tensor([generated[-1:]]))
        embeddings = torch.cat((embeddings, new), dim=1)
    assert generated == case.turns[turn][ids_name]


def test_the_streamed_reference_gives_the_published_tensors(case: Case):
    with open_weights(resolve_sources(GOLDEN / case.folder)) as weights:
        pixels = case.tensors["pixel_values"].numpy()
        image_tokens = compute_image_tokens(weights.spec, weights.read, pixels)
        prompts = [case.tensors[f"turn{turn}_inputs_embeds"][0].numpy() for turn in (0, 1)]
        logits = compute_logits(weights.spec, weights.read, prompts)
    check_near(torch.from_numpy(image_tokens), case.tensors["image_embeds"])
    for turn in (0, 1):
        check_near(torch.from_numpy(logits[turn])[None, -4:], case.tensors[f"turn{turn}_logits"])
