"""A variant on a GPU: what the same code gives on the CPU, by kernels and recorded steps."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden import CASES, GOLDEN, needs_golden
from tests.torch.cuda.cuda_files import make_small_spec, write_variant
from tests.torch.one_slot import OneSlot
from tinyv_cli.answers.generate import ImageTokens
from tinyv_cli.backends.backend import Backend, BackendOptions, prefetch_nothing
from tinyv_cli.backends.cuda.torch_cuda import open_torch
from tinyv_cli.backends.cuda.torch_decoder import FIRST_SPAN
from tinyv_cli.backends.cuda.torch_device import TorchDevice
from tinyv_cli.backends.cuda.torch_weights import load_language
from tinyv_cli.backends.prefetch import PrefetchingEncoder
from tinyv_cli.errors import DeviceError
from tinyv_cli.variants.manifest import Variant

SPEC = make_small_spec()
EVERY_BITS = pytest.mark.parametrize("bits", [4, 8])
MIB = 2**20

# ‖GPU − CPU‖ / ‖CPU‖ of logits. Branches in float16 on the CPU are off by 0.001.
BOUNDS = {4: 0.01, 8: 0.01}


@pytest.fixture(scope="session")
def make_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Variant]:
    folder, made = tmp_path_factory.mktemp("variants"), {}

    def make(bits: int) -> Variant:
        if bits not in made:
            made[bits] = write_variant(folder / str(bits), SPEC, bits)
        return made[bits]

    return make


def open_on(device: str, variant: Variant, **options) -> Backend:
    return open_torch(variant, BackendOptions(**options), prefetch_nothing, device)


def relative(out: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(out - expected) / np.linalg.norm(expected))


def make_ids(n: int, seed: int) -> tuple[int, ...]:
    return tuple(map(int, np.random.default_rng(seed).integers(0, 384, n)))


def make_pixels(n: int = 1) -> np.ndarray:
    side = SPEC.vision.image_px
    return np.random.default_rng(0).standard_normal((n, 3, side, side), np.float32)


@EVERY_BITS
def test_a_gpu_gives_the_logits_of_the_cpu(bits, make_files):
    prompt, ids = make_ids(50, 1), make_ids(20, 2)
    decoders = [open_on(device, make_files(bits)).decoder for device in ("cuda", "cpu")]
    logits = [
        [decoder.extend([prompt]), *(decoder.extend([(token,)]) for token in ids)]
        for decoder in decoders
    ]
    assert max(map(relative, *logits)) < BOUNDS[bits]


@pytest.mark.parametrize("vision_bits", [8, 16])
def test_a_gpu_gives_the_image_tokens_of_the_cpu(vision_bits, tmp_path):
    variant = write_variant(tmp_path / "v", SPEC, 4, vision_bits)
    on_gpu, on_cpu = (open_on(device, variant).encoder for device in ("cuda", "cpu"))
    assert relative(on_gpu.encode(make_pixels(2)), on_cpu.encode(make_pixels(2))) < 0.01


@EVERY_BITS
def test_weights_take_on_a_gpu_what_their_file_takes_without_the_embeddings(bits, make_files):
    before_bytes, path = torch.cuda.memory_allocated(), make_files(bits).path("cuda-language")
    language = load_language(path, SPEC.language, "cuda", torch.float16)
    taken_bytes = torch.cuda.memory_allocated() - before_bytes
    table_bytes = sum(each.nbytes for each in language.embed_tokens.buffers())
    assert {each.device.type for each in language.embed_tokens.buffers()} == {"cpu"}
    assert taken_bytes == pytest.approx(path.stat().st_size - table_bytes, rel=0.1)


@EVERY_BITS
def test_the_first_gpu_by_its_number_is_the_gpu(bits, make_files):
    logits = [
        open_on(name, make_files(bits)).decoder.extend([make_ids(20, 9)])
        for name in ("cuda", "cuda:0")
    ]
    assert np.array_equal(*logits)


@EVERY_BITS
def test_a_recorded_step_gives_what_the_same_step_gives_unrecorded(bits, make_files):
    path = make_files(bits).path("cuda-language")
    device = TorchDevice("cuda")
    language = load_language(path, SPEC.language, "cuda", device.dtype)
    decoders = [
        OneSlot(language, 600, device, use_graphs=use_graphs, first_span=64)
        for use_graphs in (True, False)
    ]
    prompt, ids = make_ids(50, 3), make_ids(100, 4)  # over the end of the first two spans
    for decoder in decoders:
        decoder.extend([prompt])
    for token in ids:
        recorded, plain = (decoder.extend([(token,)]) for decoder in decoders)
        assert relative(recorded, plain) < 1e-3
    assert len(decoders[0].steps._graphs) == 3


@EVERY_BITS
def test_a_prompt_in_parts_and_rewound_gives_the_logits_of_the_whole(bits, make_files):
    decoder = open_on("cuda", make_files(bits)).decoder
    ids, other = make_ids(60, 5), make_ids(90, 6)
    whole = decoder.extend([ids])
    decoder.rewind(25)
    for token in other:
        decoder.extend([(token,)])
    decoder.rewind(25)
    for token in ids[25:]:
        again = decoder.extend([(token,)])
    assert relative(again, whole) < BOUNDS[bits]
    assert relative(decoder.extend([other[:5]]), whole) > 10 * BOUNDS[bits]


def test_the_whole_context_is_filled_step_by_step_past_the_first_span(make_files):
    context_length = FIRST_SPAN + 40
    decoder = open_on("cuda", make_files(4), context_length=context_length).decoder
    ids = make_ids(context_length, 7)
    decoder.extend([ids[: FIRST_SPAN - 10]])
    for token in ids[FIRST_SPAN - 10 :]:
        logits = decoder.extend([(token,)])
    assert decoder.length == context_length
    decoder.rewind(0)
    assert relative(logits, decoder.extend([ids])) < BOUNDS[4]


def test_a_picture_may_be_encoded_while_the_decoder_is_opened_and_recorded(make_files):
    ahead = []
    for _ in range(3):
        backend = open_torch(
            make_files(4),
            BackendOptions(),
            lambda encoder, _: ahead.append(PrefetchingEncoder(encoder, make_pixels())),
        )
        backend.decoder.extend([(1, 2, 3)])
        backend.decoder.extend([(4,)])
    tokens = [each.encode(make_pixels()) for each in ahead]
    assert relative(tokens[0], tokens[2]) < 1e-3
    assert np.isfinite(tokens[0]).all()


def test_memory_stays_under_the_budget_and_what_does_not_fit_is_told_with_figures(make_files):
    budget_bytes = 256 * MIB
    gc.collect()
    torch.cuda.empty_cache()
    backend = open_on("cuda", make_files(4), memory_budget_bytes=budget_bytes)
    backend.encoder.encode(make_pixels())
    backend.decoder.extend([make_ids(100, 8)])
    assert torch.cuda.memory_reserved() <= budget_bytes
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(budget_bytes, dtype=torch.uint8, device="cuda")
    with pytest.raises(DeviceError, match=r"of \d+ MB allowed are taken"):
        backend.encoder.encode(make_pixels(1000))
    backend.decoder.extend([(1,)])  # and goes on working


def test_a_closed_encoder_gives_its_memory_back(make_files):
    backend = open_on("cuda", make_files(4))
    before_bytes = torch.cuda.memory_allocated()
    backend.encoder.encode(make_pixels())
    assert torch.cuda.memory_allocated() > before_bytes
    backend.encoder.close()
    assert torch.cuda.memory_allocated() <= before_bytes + MIB


@needs_golden
@pytest.mark.parametrize("case", CASES)
@EVERY_BITS
def test_golden_cases_stay_within_the_bounds_of_the_cpu(
    case, bits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from quantize.pipeline import QuantizeOptions, make_variant
    from tests.torch.conftest import read_golden_case
    from tests.torch.cuda.test_torch_backend import LOGITS_BOUNDS
    from tinyv_cli.progress import show_nothing

    monkeypatch.setenv("TINYV_HOME", str(tmp_path))
    options = QuantizeOptions(GOLDEN / case, tmp_path / "v", bits, threads=1, target="cuda")
    backend = open_on("cuda", make_variant(options, show_nothing).variant)
    golden = read_golden_case(case)
    image = backend.encoder.encode(golden.tensors["pixel_values"])
    assert relative(image, golden.tensors["image_embeds"]) < 0.01
    for number, turn in enumerate(golden.turns):
        before, after = turn["segment_ids"]
        backend.decoder.rewind(0)
        backend.decoder.extend([tuple(before), ImageTokens(image[0], "k"), tuple(after[:-4])])
        logits = np.stack([backend.decoder.extend([(token,)]) for token in after[-4:]])
        expected = golden.tensors[f"turn{number}_logits"][0]
        assert relative(logits, expected) < LOGITS_BOUNDS[bits]
