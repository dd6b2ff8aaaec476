"""The CPU's decoder: what is cached gives what computing everything anew gives."""

import numpy as np
import pytest

from tests.golden import CASES, needs_golden
from tests.torch.conftest import open_variant
from tinyv_cli.answers.generate import ImageTokens
from tinyv_cli.backends.backend import Backend, BackendOptions
from tinyv_cli.backends.cpu import onnx_decoder
from tinyv_cli.backends.cpu.onnx_cpu import OnnxEncoder
from tinyv_cli.backends.cpu.onnx_sessions import open_graph
from tinyv_cli.backends.opening import open_backend
from tinyv_cli.errors import UsageError

pytestmark = needs_golden

# ‖cached − uncached‖ / ‖uncached‖ of the logits. Unrounded, only the order of additions differs
# (measured: 5e-7). Rounded, one position and several take different kernels, and a last bit that
# differs can move an activation to the next of its 256 steps: measured 0.002 to 0.010.
BOUNDS = {32: 1e-5, 8: 0.03, 4: 0.03}


def relative(out: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(out - expected) / np.linalg.norm(expected))


@pytest.fixture(params=BOUNDS)
def opened(request, golden_variant) -> tuple[Backend, float]:
    backend = open_variant(golden_variant(CASES[1], request.param)).backend
    return backend, BOUNDS[request.param]


def make_ids(n: int, seed: int) -> tuple[int, ...]:
    return tuple(map(int, np.random.default_rng(seed).integers(0, 384, n)))


@pytest.mark.parametrize("seed", range(4))
def test_a_prompt_in_random_parts_gives_the_logits_of_the_whole(opened, seed):
    backend, bound = opened
    decoder, generator = backend.decoder, np.random.default_rng(seed)
    ids = make_ids(90, seed)
    decoder.rewind(0)
    whole = decoder.extend([ids])
    decoder.rewind(0)
    start = 0
    while start < len(ids):
        end = min(len(ids), start + int(generator.choice([1, 1, 2, 7, 30])))
        parts = decoder.extend([ids[start:end]])
        start = end
    assert decoder.length == len(ids)
    assert relative(parts, whole) < bound


def test_a_rewound_cache_holds_nothing_of_what_was_forgotten(opened):
    backend, bound = opened
    decoder = backend.decoder
    ids, other = make_ids(60, 1), make_ids(60, 2)
    decoder.rewind(0)
    fresh = decoder.extend([ids])
    decoder.rewind(25)
    decoder.extend([other])
    decoder.rewind(25)
    again = decoder.extend([ids[25:]])
    assert relative(again, fresh) < bound
    assert relative(decoder.extend([other[:5]]), fresh) > 10 * bound, "the bound tells nothing"


@pytest.mark.parametrize("bits", BOUNDS)
def test_a_prompt_longer_than_a_chunk_gives_the_logits_of_one_pass(
    bits, golden_variant, monkeypatch
):
    variant, ids = golden_variant(CASES[1], bits), make_ids(700, 3)
    in_chunks = open_variant(variant).backend.decoder.extend([ids])
    monkeypatch.setattr(onnx_decoder, "CHUNK_POSITIONS", 2048)
    at_once = open_variant(variant).backend.decoder.extend([ids])
    assert relative(in_chunks, at_once) < BOUNDS[bits]


def test_image_tokens_stand_where_they_are_put(opened):
    decoder = opened[0].decoder
    rows = opened[0].slots._embeddings.rows(make_ids(6, 4))
    decoder.rewind(0)
    as_ids = decoder.extend([make_ids(3, 5), make_ids(6, 4), make_ids(2, 6)])
    decoder.rewind(0)
    as_rows = decoder.extend([make_ids(3, 5), ImageTokens(rows, "k"), make_ids(2, 6)])
    assert np.array_equal(as_ids, as_rows)


def test_a_decoder_fills_its_context_to_the_last_position(golden_variant):
    variant = golden_variant(CASES[1], 32)
    short = open_backend(variant, BackendOptions(threads=1, context_length=40)).decoder
    full = open_variant(variant).backend.decoder
    ids = make_ids(40, 7)
    assert relative(short.extend([ids]), full.extend([ids])) < BOUNDS[32]
    assert short.length == short.context_length == 40


@pytest.mark.parametrize("context_length", [0, 2049, 10**9])
def test_a_context_the_model_does_not_know_is_refused(context_length, golden_variant):
    variant = golden_variant(CASES[1], 32)
    with pytest.raises(UsageError, match=str(context_length)):
        open_backend(variant, BackendOptions(context_length=context_length))


def test_a_device_that_does_not_exist_is_refused(golden_variant):
    with pytest.raises(UsageError, match="tpu"):
        open_backend(golden_variant(CASES[1], 32), BackendOptions(device="tpu"))


def test_an_encoder_that_is_closed_stops_encoding_and_can_begin_anew(golden_variant):
    variant = golden_variant(CASES[0], 32)
    side = variant.manifest.spec.vision.image_px
    pixels = np.zeros((1, 3, side, side), np.float32)
    closing = [True, False]

    def open_vision():
        if closing.pop(0):
            encoder.close()  # as another thread does
        return [open_graph(variant.path("vision"), 1)]

    encoder = OnnxEncoder(open_vision)
    with pytest.raises(Exception, match="terminate"):
        encoder.encode(pixels)
    encoder.close()
    assert encoder.encode(pixels).shape[0] == 1
