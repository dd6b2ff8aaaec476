"""Files for CUDA that are not as they should be, and modules that compute with codes."""

import json
from collections.abc import Callable

import bitsandbytes
import pytest
import torch
from safetensors.torch import save_file

from tests.torch.cuda.cuda_files import (
    Tensors,
    make_language_tensors,
    make_vision_tensors,
    to_nf4,
    to_rows,
)
from tinyv_cli.backends.cuda.torch_modules import (
    Int8Embedding,
    Int8Linear,
    Int8WeightLinear,
    NarrowingNorm,
    Nf4Linear,
)
from tinyv_cli.backends.cuda.torch_tensors import MemoryBlock
from tinyv_cli.backends.cuda.torch_weights import load_language, load_vision_side
from tinyv_cli.errors import WeightsError
from tinyv_cli.model.decoder import TorchDecoder
from tinyv_cli.spec import make_tiny_spec

SPEC = make_tiny_spec(3)
LAYER = "language.layers.1"
MATRIX = f"{LAYER}.mlp.fc1.weight"


def load_changed_language(tmp_path, change: Callable[[Tensors], object]) -> None:
    tensors = make_language_tensors(SPEC)
    change(tensors)
    save_file(tensors, tmp_path / "language.safetensors", {"format": "pt"})
    load_language(tmp_path / "language.safetensors", SPEC.language, "cpu", torch.float32)


def change_state(tensors: Tensors, **values: object) -> None:
    """Writes other values into what bitsandbytes saved beside a matrix as JSON."""
    name = f"{MATRIX}.quant_state.bitsandbytes__nf4"
    facts = json.loads(bytes(tensors[name].numpy())) | values
    tensors[name] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(("nested", "bits"), [(True, 4), (False, 4), (True, 8)])
def test_a_whole_file_is_loaded_with_nothing_left_on_the_meta_device(tmp_path, nested, bits):
    save_file(make_language_tensors(SPEC, bits, nested), tmp_path / "language.safetensors")
    language = load_language(tmp_path / "language.safetensors", SPEC.language, "cpu", torch.half)
    kind = Int8Linear if bits == 8 else Nf4Linear
    assert sum(isinstance(module, kind) for module in language.layers.modules()) == 4 * 2
    assert isinstance(language.lm_head, Int8Linear)
    tensors = [*language.parameters(), *language.buffers()]
    assert not any(tensor.is_meta or tensor.requires_grad for tensor in tensors)
    assert language.final_layernorm.weight.dtype == torch.float32
    assert language.layers[0].attention.q_layernorm.weight.dtype == torch.float16
    with torch.no_grad():
        hidden = language.layers[0].input_layernorm(torch.randn(1, 3, SPEC.language.width))
        assert language.layers[0].mlp(hidden).dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop(f"{LAYER}.attention.dense.bias"), "lacks .*1.attention.dense.bias$"),
        (lambda t: t.pop(MATRIX), f"lacks {MATRIX}$"),
        (lambda t: t.pop(f"{MATRIX}.absmax"), f"lacks {MATRIX}.absmax$"),
        (lambda t: t.pop("language.embed_tokens.weight.scales"), "embed_tokens.weight.scales"),
        (lambda t: t.clear(), r"lacks language\..*, … \(\d+ more\)"),
        (
            lambda t: t.update(foo=torch.zeros(1), bar=torch.zeros(1)),
            r"holds unknown tensors: bar, … \(1 more\)",
        ),
        (lambda t: t.update({MATRIX: t[MATRIX][1:]}), r"fc1.weight in .* U8 \[51199, 1\]"),
        (lambda t: t.update({MATRIX: t[MATRIX].view(torch.int8)}), "fc1.weight in .* is I8"),
        (lambda t: t.update({f"{MATRIX}.SCB": torch.ones(640)}), "fc1.weight.absmax"),
        (
            lambda t: t.update({"language.lm_head.weight": torch.zeros(512, 160)}),
            "lm_head.weight in .* F32 .*expected I8",
        ),
        (lambda t: change_state(t, shape=[160, 640]), r"fc1.weight in .*\(160, 640\).*expected"),
        (lambda t: change_state(t, blocksize=128), "128.*expected"),
        (lambda t: change_state(t, quant_type="fp4"), "fp4.*expected"),
        (lambda t: change_state(t, nested_blocksize=128), "fc1.weight in .*expected"),
        (lambda t: change_state(t, dtype="float17"), "quant_state.bitsandbytes__nf4 .*damaged"),
        (lambda t: change_state(t, nested_offset="far"), "quant_state.bitsandbytes__nf4 .*damaged"),
        (lambda t: change_state(t, surplus=1), "quant_state.bitsandbytes__nf4 .*damaged"),
        (
            lambda t: t[f"{MATRIX}.quant_state.bitsandbytes__nf4"].fill_(0),
            "quant_state.bitsandbytes__nf4 .*damaged",
        ),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_by_name(tmp_path, change, told):
    with pytest.raises(WeightsError, match=told) as caught:
        load_changed_language(tmp_path, change)
    assert "--target cuda" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not tensors at all", bytes(100), None])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "language.safetensors"
    if content is None:
        save_file(make_language_tensors(SPEC), path)
        content = path.read_bytes()[:-1]
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_language(path, SPEC.language, "cpu", torch.float32)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_language(tmp_path / "none", SPEC.language, "cpu", torch.float32)


def test_a_vision_side_has_all_its_tensors_and_no_language_model(tmp_path):
    path, tensors = tmp_path / "vision.safetensors", make_vision_tensors(SPEC)
    save_file(tensors, path)
    model = load_vision_side(path, SPEC, "cpu", torch.float32)
    side = SPEC.vision.image_px
    with torch.no_grad():
        tokens = model.encode(torch.zeros(1, 3, side, side))
    assert tokens.shape == (1, SPEC.qformer.n_queries, SPEC.language.width)
    assert all(parameter.is_meta for parameter in model.language.parameters())
    tensors["vision.surplus"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"vision\.surplus"):
        load_vision_side(path, SPEC, "cpu", torch.float32)
    del tensors["vision.surplus"], tensors["qformer.query_tokens"]
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"lacks qformer\.query_tokens"):
        load_vision_side(path, SPEC, "cpu", torch.float32)


@pytest.mark.parametrize("n_positions", [1, 5])
@pytest.mark.parametrize("largest", [1, 10, 100])
def test_a_matrix_in_int8_computes_what_its_numbers_say_whatever_columns_are_large(
    n_positions, largest
):
    generator = torch.Generator().manual_seed(n_positions)
    codes, scales = to_rows(torch.randn(96, 64, generator=generator))
    bias = torch.randn(96, generator=generator).half()
    activations = torch.randn(1, n_positions, 64, generator=generator).half()
    activations[..., [3, 40]] *= largest
    ours = Int8Linear(codes, scales, bias)
    expected = activations.float() @ (codes * scales[:, None] / 127).T + bias.float()
    error = (ours(activations).float() - expected).norm() / expected.norm()
    assert error < 1e-3
    assert ours(activations.float()).dtype == torch.float32
    theirs = bitsandbytes.nn.Linear8bitLt(64, 96, has_fp16_weights=False, threshold=6.0)
    theirs.weight = bitsandbytes.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False)
    theirs.weight.CB, theirs.weight.SCB = codes, scales
    theirs.bias = torch.nn.Parameter(bias, requires_grad=False)
    with torch.no_grad():
        by_parts = theirs.eval()(activations).float()
    assert error < (by_parts - expected).norm() / expected.norm() < 0.02


def test_positions_of_zeros_come_out_of_a_matrix_in_int8_as_its_bias():
    codes, scales = to_rows(torch.randn(96, 64, generator=torch.Generator().manual_seed(0)))
    bias = torch.randn(96, generator=torch.Generator().manual_seed(1)).half()
    out = Int8Linear(codes, scales, bias)(torch.zeros(2, 64))
    torch.testing.assert_close(out, bias.float().expand(2, -1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("n_positions", [1, 5])
@pytest.mark.parametrize("nested", [False, True])
def test_a_matrix_in_nf4_computes_what_bitsandbytes_computes(n_positions, nested):
    generator = torch.Generator().manual_seed(n_positions)
    matrix, bias = torch.randn(96, 64, generator=generator), torch.randn(96, generator=generator)
    activations = torch.randn(1, n_positions, 64, generator=generator)
    packed, state = to_nf4(matrix, nested)
    full = bitsandbytes.functional.dequantize_4bit(packed, state)
    out = Nf4Linear(packed, state, bias)(activations)
    torch.testing.assert_close(out, activations @ full.T + bias)
    as_on_a_gpu = bitsandbytes.matmul_4bit(activations, packed.t(), state, bias=bias)
    torch.testing.assert_close(out, as_on_a_gpu)


def test_rows_of_a_table_in_int8_are_off_by_half_a_step_at_most():
    table = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    codes, largest = to_rows(table)
    ids = torch.tensor([3, 49, 3])
    rows = Int8Embedding(codes, largest / 127)(ids)
    assert rows.dtype == torch.float32
    assert ((rows - table[ids]).abs() <= 0.5001 * largest[ids][:, None] / 127).all()


def test_a_norm_of_hidden_states_computes_in_float32_and_hands_on_in_float16():
    norm = torch.nn.LayerNorm(16)
    narrowing = NarrowingNorm(norm, torch.float16)
    narrowing.load_state_dict(norm.state_dict(), assign=True)
    hidden = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)) * 1e5
    assert torch.equal(narrowing(hidden), norm(hidden).half())
    assert narrowing(hidden).isfinite().all()


def test_a_memory_block_gives_each_tensor_back_from_one_storage():
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randint(0, 255, (7, 1), dtype=torch.uint8, generator=generator),
        torch.randn(3, 5, generator=generator),
        torch.randn(11, generator=generator).half(),
        torch.randint(-127, 127, (64, 8), dtype=torch.int8, generator=generator),
    ]
    block = MemoryBlock((tensor.nbytes for tensor in tensors), "cpu")
    placed = [block.put(tensor) for tensor in tensors]
    for place, tensor in zip(placed, tensors, strict=True):
        assert (place.dtype, place.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(place, tensor)
    assert len({place.untyped_storage().data_ptr() for place in placed}) == 1


@pytest.mark.parametrize("bits", [4, 8])
def test_on_a_gpu_all_lies_in_one_block_but_the_embeddings_and_what_is_cast(tmp_path, bits):
    path, half = tmp_path / "language.safetensors", torch.float16
    save_file(make_language_tensors(SPEC, bits), path)
    language = load_language(path, SPEC.language, "meta", half)  # stands for a GPU
    assert {buffer.device.type for buffer in language.embed_tokens.buffers()} == {"cpu"}
    del language.embed_tokens
    tensors = [*language.parameters(), *language.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    largest = max(tensors, key=lambda tensor: tensor.untyped_storage().nbytes())
    alone = [t for t in tensors if t.untyped_storage()._cdata != largest.untyped_storage()._cdata]
    assert {tensor.dtype for tensor in alone} == {half}
    assert all(tensor.ndim == 1 for tensor in alone)
    if bits == 4:
        assert language.layers[0].mlp.fc1.state.absmax.is_meta


def test_matrices_of_a_vision_side_in_int8_are_read_back_as_they_were_rounded(tmp_path):
    path, tensors = tmp_path / "vision.safetensors", make_vision_tensors(SPEC, bits=8)
    plain_path, plain = tmp_path / "plain.safetensors", make_vision_tensors(SPEC)
    for name in [name for name in plain if f"{name}.scales" in tensors]:
        plain[name] = tensors[name] * tensors[f"{name}.scales"][:, None]
    assert len(tensors) > len(plain)
    save_file(tensors, path)
    save_file(plain, plain_path)
    side = SPEC.vision.image_px
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rounded, expected = (
            load_vision_side(each, SPEC, "cpu", torch.float32).encode(pixels)
            for each in (path, plain_path)
        )
    assert torch.allclose(rounded, expected, rtol=1e-5, atol=1e-6)
    on_gpu = load_vision_side(path, SPEC, "meta", torch.float16)
    rounded = [m for m in on_gpu.vision.modules() if isinstance(m, Int8WeightLinear)]
    assert {each.codes.dtype for each in rounded} == {torch.int8}
    assert all(each.codes.is_meta for each in rounded)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t, name: t.update({f"{name}.scales": torch.ones(3)}), r"fc1.weight in .* is F16"),
        (
            lambda t, name: t.update({name: t[name].char(), f"{name}.scales": torch.ones(3)}),
            r"fc1.weight.scales in .* is F32 \[3\]",
        ),
        (lambda t, name: t.update({name: t[name].char()}), r"fc1.weight in .* is I8"),
    ],
)
def test_a_vision_side_in_int8_that_is_not_what_it_should_be_is_refused(tmp_path, change, told):
    tensors = make_vision_tensors(SPEC)
    change(tensors, "vision.layers.0.mlp.fc1.weight")
    save_file(tensors, tmp_path / "vision.safetensors")
    with pytest.raises(WeightsError, match=told):
        load_vision_side(tmp_path / "vision.safetensors", SPEC, "cpu", torch.float32)


def test_where_int8_is_not_multiplied_a_matrix_is_read_back_and_says_the_same(
    tmp_path, monkeypatch
):
    path, logits = tmp_path / "language.safetensors", {}
    save_file(make_language_tensors(SPEC, bits=8), path)
    for multiplies in (True, False):
        monkeypatch.setattr(
            "tinyv_cli.backends.cuda.torch_weights.has_int8_products",
            lambda _, says=multiplies: says,
        )
        language = load_language(path, SPEC.language, "cpu", torch.float32)
        kind = Int8Linear if multiplies else Int8WeightLinear
        assert sum(isinstance(module, kind) for module in language.modules()) == 4 * 2 + 1
        logits[multiplies] = torch.from_numpy(TorchDecoder(language).extend([(1, 2, 3)]))
    error = (logits[True] - logits[False]).norm() / logits[False].norm()
    assert 0 < error < 2e-3


def test_scales_too_small_for_float16_are_read_back_right():
    codes, largest = to_rows(torch.randn(8, 64, generator=torch.Generator().manual_seed(2)))
    scales, activations = largest / 127 * 1e-5, torch.randn(3, 64).half()
    linear = Int8WeightLinear(codes, scales, torch.zeros(8).half())
    expected = activations.float() @ (codes * scales[:, None]).T
    assert (linear(activations * 100) / 100 - expected).norm() < 0.01 * expected.norm()
