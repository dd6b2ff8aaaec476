"""What a GPU needs and does at the published size, traced on the meta device."""

import pytest
import torch

from quantize.plan import VariantPlan, make_plan
from quantize.recipe import RECIPES
from tests.torch.cuda.memory_trace import MetaGpu, count_started, make_language, trace_peak
from tests.torch.one_slot import OneSlot
from tinyv_cli.backends.cuda.torch_decoder import FIRST_SPAN
from tinyv_cli.backends.cuda.torch_modules import Int8WeightLinear
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.spec import make_full_spec
from tinyv_cli.variants.memory import (
    cuda_table_bytes,
    estimate_cuda_decoder_bytes,
    estimate_cuda_encoder_bytes,
)

GIB = 2**30
SPEC = make_full_spec(4)  # pictures of 448 px
CONTEXT = SPEC.language.context_length
# What NF4 is unpacked to for a prompt, inside bitsandbytes' kernels.
UNPACKED_BYTES = {4: 2 * SPEC.language.width * SPEC.language.mlp_width, 8: 0}
EVERY_BITS = pytest.mark.parametrize("bits", [4, 8])


def open_decoder(bits: int, *, has_int8_products: bool = True) -> tuple[OneSlot, int]:
    """The decoder on the meta device, and the bytes that it took beside its weights."""
    gpu = MetaGpu()
    language = make_language(SPEC.language, bits, gpu, has_int8_products=has_int8_products)
    with trace_peak() as peak:
        decoder = OneSlot(language, CONTEXT, gpu, use_graphs=False)
    return decoder, peak.now_bytes


def trace_prompt(decoder: OneSlot, n_positions: int) -> int:
    decoder.rewind(0)
    with trace_peak() as peak:
        decoder.steps._readers[0]._compute([tuple(range(n_positions))])
    return peak.peak_bytes


def trace_picture(bits: int = 16) -> int:
    gpu = MetaGpu()
    model, side = make_empty_model(SPEC).half(), SPEC.vision.image_px
    for name, module in list(model.vision.layers.named_modules()):
        if bits == 8 and isinstance(module, torch.nn.Linear):
            codes, scales = module.weight.to(torch.int8), module.weight[:, 0].float()
            model.vision.layers.set_submodule(name, Int8WeightLinear(codes, scales, module.bias))
    with trace_peak() as peak:
        model.encode(torch.empty(1, 3, side, side, dtype=gpu.dtype, device=gpu.name))
    return peak.peak_bytes


def plan(bits: int, vision_bits: int = 16) -> VariantPlan:
    shapes = {name: tuple(t.shape) for name, t in make_empty_model(SPEC).state_dict().items()}
    return make_plan(SPEC, shapes, RECIPES[bits], ("cuda",), vision_bits)


@EVERY_BITS
def test_what_a_prompt_works_in_is_what_is_planned_for_it(bits):
    decoder, taken_bytes = open_decoder(bits)
    planned_bytes = estimate_cuda_decoder_bytes(SPEC, cuda_table_bytes(SPEC.language), CONTEXT)
    traced_bytes = taken_bytes + trace_prompt(decoder, CONTEXT) + UNPACKED_BYTES[bits]
    assert traced_bytes <= planned_bytes <= 1.05 * traced_bytes
    # Without keys and values, which are nearly all of it:
    assert planned_bytes - taken_bytes <= 1.3 * (traced_bytes - taken_bytes)


@EVERY_BITS
def test_before_turing_the_head_read_back_is_planned(bits):
    table_bytes = cuda_table_bytes(SPEC.language)
    decoder, taken_bytes = open_decoder(bits, has_int8_products=False)
    traced_bytes = taken_bytes + trace_prompt(decoder, 512)
    planned_bytes = estimate_cuda_decoder_bytes(SPEC, table_bytes, CONTEXT, has_int8_products=False)
    assert traced_bytes <= planned_bytes <= 1.1 * traced_bytes
    assert estimate_cuda_decoder_bytes(SPEC, table_bytes, CONTEXT) < traced_bytes


def test_a_long_prompt_takes_little_more_than_a_chunk_of_it():
    decoder, _ = open_decoder(4)
    embeddings_bytes = 4 * CONTEXT * SPEC.language.width
    assert trace_prompt(decoder, CONTEXT) <= trace_prompt(decoder, 512) + 1.1 * embeddings_bytes


def test_a_picture_takes_no_convolution_for_which_a_gpu_would_load_a_library():
    with count_started() as started:
        trace_picture()
    assert started.names
    assert not [name for name in started.names if "conv" in name]


@pytest.mark.parametrize("bits", [8, 16])
def test_what_a_picture_works_in_is_what_is_planned_for_it(bits):
    planned_bytes, traced_bytes = estimate_cuda_encoder_bytes(SPEC, 0), trace_picture(bits)
    assert traced_bytes <= planned_bytes <= 2 * traced_bytes


@EVERY_BITS
@pytest.mark.parametrize("span", [FIRST_SPAN, CONTEXT])
def test_a_step_asks_nothing_of_the_gpu_and_takes_next_to_nothing(bits, span):
    decoder, _ = open_decoder(bits)
    with trace_peak() as peak:
        decoder.steps._run(span)  # the meta device has no numbers that could be asked for
    assert 0 < peak.peak_bytes < 1e6
    assert peak.now_bytes == 0


@pytest.mark.parametrize(("bits", "allowed"), [(4, 31), (8, 63)])
def test_a_step_starts_few_kernels_a_layer(bits, allowed):
    decoder, _ = open_decoder(bits)
    with count_started() as started:
        decoder.steps._run(FIRST_SPAN)
    assert 20 < started.count / SPEC.language.n_layers < allowed


@pytest.mark.parametrize(("bits", "allowed_gib"), [(4, 4.5), (8, 6.5)])
def test_both_sides_and_a_full_context_fit_what_is_allowed_at_these_bits(bits, allowed_gib):
    decoder, taken_bytes = open_decoder(bits)
    working_bytes = max(trace_prompt(decoder, CONTEXT) + UNPACKED_BYTES[bits], trace_picture())
    files_bytes = sum(part.size_bytes for part in plan(bits).parts)
    weights_bytes = files_bytes - cuda_table_bytes(SPEC.language)
    whole_bytes = weights_bytes + taken_bytes + working_bytes
    assert 0.8 * allowed_gib < whole_bytes / GIB < 0.95 * allowed_gib


def test_a_vision_side_of_8_bits_takes_half():
    wide, narrow = (
        next(part.size_bytes for part in plan(4, bits).parts if part.name == "cuda-vision")
        for bits in (16, 8)
    )
    assert 0.5 * wide < narrow < 0.52 * wide
