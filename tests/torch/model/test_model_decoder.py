"""The cached decoder: whatever way a sequence is fed, the logits are those of the whole of it."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.torch.weights.random_weights import make_read
from tinyv_cli.answers.generate import ImageTokens, Segment
from tinyv_cli.model.decoder import TorchDecoder
from tinyv_cli.model.tinygptv import TinyGptV, load_model
from tinyv_cli.spec import make_tiny_spec

SPEC = make_tiny_spec(3)
BOUND = 1e-5  # of the logits' norm, as `PhiLanguage.forward` promises


@pytest.fixture(scope="module")
def model() -> TinyGptV:
    return load_model(SPEC, make_read(SPEC))


def make_ids(rng: np.random.Generator, n: int) -> tuple[int, ...]:
    return tuple(rng.integers(SPEC.language.vocab_size, size=n).tolist())


def make_image_tokens(rng: np.random.Generator) -> ImageTokens:
    shape = (SPEC.qformer.n_queries, SPEC.language.width)
    return ImageTokens(rng.standard_normal(shape, dtype=np.float32), key="a picture")


def compute_last_logits(model: TinyGptV, segments: list[Segment]) -> np.ndarray:
    parts = [
        torch.from_numpy(s.embeddings)
        if isinstance(s, ImageTokens)
        else model.language.embed_tokens(torch.tensor(s))
        for s in segments
    ]
    return model.language(torch.cat(parts)[None])[0, -1].numpy()


def relative_error(out: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(out - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("seed", range(5))
def test_a_prompt_split_anywhere_gives_the_logits_of_the_whole(model: TinyGptV, seed: int):
    rng = np.random.default_rng(seed)
    ids = make_ids(rng, 60)
    cuts = [0, *sorted(rng.choice(np.arange(1, 60), size=6, replace=False).tolist()), 60]
    decoder = TorchDecoder(model.language)
    for start, end in pairwise(cuts):
        logits = decoder.extend([ids[start:end]])
        assert decoder.length == end
        assert relative_error(logits, compute_last_logits(model, [ids[:end]])) < BOUND


@pytest.mark.parametrize("seed", range(5))
def test_a_rewound_decoder_has_forgotten(model: TinyGptV, seed: int):
    rng = np.random.default_rng(seed)
    decoder = TorchDecoder(model.language)
    ids: tuple[int, ...] = ()
    for _ in range(6):
        kept = int(rng.integers(len(ids) + 1))
        decoder.rewind(kept)
        ids = ids[:kept] + make_ids(rng, int(rng.integers(1, 20)))
        logits = decoder.extend([ids[kept:]])
        assert decoder.length == len(ids)
        assert relative_error(logits, compute_last_logits(model, [ids])) < BOUND


def test_image_tokens_stand_where_they_were_put(model: TinyGptV):
    rng = np.random.default_rng(0)
    before, after = make_ids(rng, 4), make_ids(rng, 3)
    picture = make_image_tokens(rng)
    decoder = TorchDecoder(model.language)
    logits = decoder.extend([before, picture, after])
    assert decoder.length == 4 + 32 + 3
    assert logits.dtype == np.float32
    assert relative_error(logits, compute_last_logits(model, [before, picture, after])) < BOUND
    assert relative_error(logits, compute_last_logits(model, [picture, before, after])) > 1e-2


def test_the_context_can_be_filled_to_its_end_and_no_further(model: TinyGptV):
    rng = np.random.default_rng(0)
    decoder = TorchDecoder(model.language, context_length=8)
    assert decoder.context_length == 8
    ids = make_ids(rng, 8)
    decoder.extend([ids[:7]])
    with pytest.raises(ValueError, match="2 positions after 7 of 8"):
        decoder.extend([ids[:2]])
    logits = decoder.extend([ids[7:]])
    assert relative_error(logits, compute_last_logits(model, [ids])) < BOUND


def test_the_network_says_how_long_a_context_is_when_nobody_else_does(model: TinyGptV):
    assert TorchDecoder(model.language).context_length == SPEC.language.context_length


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_decoder_runs_at_the_networks_own_precision(model: TinyGptV, dtype: torch.dtype):
    rng = np.random.default_rng(0)
    segments = [make_ids(rng, 6), make_image_tokens(rng), make_ids(rng, 6)]
    decoder = TorchDecoder(deepcopy(model.language).to(dtype))
    decoder.extend(segments[:2])
    logits = decoder.extend(segments[2:])
    assert logits.dtype == np.float32
    assert relative_error(logits, compute_last_logits(model, segments)) < 0.05


def test_nothing_to_read_has_no_logits(model: TinyGptV):
    decoder = TorchDecoder(model.language)
    with pytest.raises(ValueError, match="0 positions"):
        decoder.extend([()])


@pytest.mark.parametrize("length", [-1, 4])
def test_a_decoder_rewinds_only_to_where_it_has_been(model: TinyGptV, length: int):
    decoder = TorchDecoder(model.language)
    decoder.extend([(1, 2, 3)])
    with pytest.raises(ValueError, match="cannot rewind"):
        decoder.rewind(length)
    assert decoder.length == 3
