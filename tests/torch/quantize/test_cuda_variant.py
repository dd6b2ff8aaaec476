"""A variant's files for a GPU: what they hold, how near that is, and what is left of a failure."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from quantize.channelwise import LARGEST_CODE
from quantize.cuda.parts import StoredTensors, to_arrays, write_cuda_parts
from quantize.cuda_recipe import NF4_BLOCK, StorageKind
from quantize.measure.compare import ProbeIds, run_layers, step_through
from quantize.measure.trial import open_cuda
from quantize.pipeline import QuantizeOptions, make_variant, plan_variant
from quantize.plan import make_plan
from quantize.recipe import RECIPES
from tests.demo import DEMO
from tests.golden import CASES, GOLDEN, needs_golden
from tests.torch.quantize.tiny_sources import read_all
from tests.torch.weights.random_weights import make_read
from tinyv_cli.backends.cuda.torch_modules import read_nf4
from tinyv_cli.devices.quiet_bitsandbytes import QuantState, int8_vectorwise_quant
from tinyv_cli.errors import WeightsError
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.progress import show_nothing
from tinyv_cli.spec import make_tiny_spec
from tinyv_cli.variants.manifest import Variant
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources
from weights.safetensors_writer import SafetensorsWriter

Tensors = dict[str, torch.Tensor]
EMBEDDINGS, HEAD = "language.embed_tokens.weight", "language.lm_head.weight"
FILES = {"cuda-language.safetensors", "cuda-vision.safetensors"}
HALF_GAP = 0.1520  # between the two levels of NF4 that lie furthest apart
HALF_NESTED_GAP = 0.0071  # likewise of the 256 levels that its scales are rounded to
HALF_UNIT = 2**-11  # what rounding to float16 changes, relative


@pytest.fixture(scope="module")
def merged(tiny_sources: Path) -> Tensors:
    return read_all(tiny_sources)


@pytest.fixture(scope="module")
def make_tiny(tiny_sources: Path, tmp_path_factory) -> Callable[[str, int], Variant]:
    """Returns the tiny sources' variant for a target at some bits, made when first asked for."""
    made: dict[tuple[str, int], Variant] = {}

    def make(target: str, bits: int) -> Variant:
        if (target, bits) not in made:
            folder = tmp_path_factory.mktemp("cuda") / f"{target}-{bits}"
            options = QuantizeOptions(
                tiny_sources, folder, bits, threads=1, target=target, quick=True
            )
            made[target, bits] = make_variant(options, show_nothing).variant
        return made[target, bits]

    return make


def is_matrix_of_layers(name: str) -> bool:
    ends = ("attention.qkv.weight", "attention.dense.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    return name.startswith("language.layers.") and name.endswith(ends)


def read_state(stored: Tensors, name: str) -> QuantState:
    parts = {k.removeprefix(f"{name}."): v for k, v in stored.items() if k.startswith(f"{name}.")}
    return QuantState.from_dict(parts, torch.device("cpu"))


def read_matrix(stored: Tensors, name: str) -> torch.Tensor:
    return read_nf4(stored[name], read_state(stored, name), torch.float32)


def read_files(variant: Variant) -> tuple[Tensors, Tensors]:
    return load_file(variant.path("cuda-language")), load_file(variant.path("cuda-vision"))


def expect_dtypes(name: str, shape: torch.Size, bits: int) -> dict[str, torch.dtype]:
    """Returns the dtypes that a canonical tensor is stored in, by the names in its file."""
    if len(shape) == 1:
        return {name: torch.float32}
    if name == EMBEDDINGS:
        return {name: torch.int8, f"{name}.scales": torch.float32}
    if not (is_matrix_of_layers(name) or name == HEAD):
        return {name: torch.float16}
    if bits == 8 or name == HEAD:
        return {name: torch.int8, f"{name}.SCB": torch.float32}
    return {
        name: torch.uint8,
        f"{name}.absmax": torch.uint8,
        f"{name}.quant_map": torch.float32,
        f"{name}.quant_state.bitsandbytes__nf4": torch.uint8,
        f"{name}.nested_absmax": torch.float32,
        f"{name}.nested_quant_map": torch.float32,
    }


@pytest.mark.parametrize("bits", [4, 8])
def test_every_tensor_is_in_one_of_the_two_files_as_it_should_be(bits, make_tiny, merged):
    language, vision = read_files(make_tiny("cuda", bits))
    assert language.keys().isdisjoint(vision)
    expected: dict[str, torch.dtype] = {}
    for name, tensor in merged.items():
        stored = language if name.startswith("language.") else vision
        assert name in stored
        expected |= expect_dtypes(name, tensor.shape, bits)
        packed = bits == 4 and is_matrix_of_layers(name)
        shape = (-(-tensor.numel() // 2), 1) if packed else tensor.shape
        assert stored[name].shape == shape, name
        for scales in (f"{name}.SCB", f"{name}.scales"):
            if scales in stored:
                assert stored[scales].shape == tensor.shape[:1]
    assert {name: tensor.dtype for name, tensor in {**language, **vision}.items()} == expected


@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_not_rounded_to_codes_keeps_its_bits(bits, make_tiny, merged):
    language, vision = read_files(make_tiny("cuda", bits))
    exact = 0
    for name, tensor in merged.items():
        stored = {**language, **vision}[name]
        if stored.dtype in (torch.float16, torch.float32):
            assert torch.equal(stored, tensor.to(stored.dtype)), name
            exact += 1
    assert exact == sum(not is_matrix_of_layers(name) for name in merged) - 2


def check_nf4(matrix: torch.Tensor, stored: Tensors, name: str) -> None:
    """Holds scales and weights to the bounds that the quantiser states."""
    from bitsandbytes.functional import dequantize_blockwise

    state = read_state(stored, name)
    assert (state.shape, state.dtype) == (matrix.shape, torch.float16)
    assert (state.blocksize, state.quant_type) == (NF4_BLOCK, "nf4")
    n_blocks = -(-matrix.numel() // NF4_BLOCK)
    blocks = torch.zeros(n_blocks * NF4_BLOCK)
    blocks[: matrix.numel()] = matrix.flatten()
    largest = blocks.view(n_blocks, NF4_BLOCK).abs().amax(1)
    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    for start in range(0, n_blocks, 256):
        share = slice(start, start + 256)
        spread = (largest[share] - state.offset).abs().max()
        assert ((scales - largest)[share].abs() <= HALF_NESTED_GAP * spread + 1e-7).all()
    back = read_matrix(stored, name)
    allowed = (HALF_GAP * largest + (scales - largest).abs()).repeat_interleave(NF4_BLOCK)
    allowed = allowed[: matrix.numel()].view(matrix.shape) + HALF_UNIT * back.abs() + 1e-7
    assert ((back - matrix).abs() <= allowed).all()


def test_nf4_is_read_back_within_half_a_level_and_the_error_of_its_scale(make_tiny, merged):
    language, _ = read_files(make_tiny("cuda", 4))
    names = [name for name in merged if is_matrix_of_layers(name)]
    assert len(names) == 4 * 2
    for name in names:
        check_nf4(merged[name], language, name)


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_nf4_keeps_its_bounds_on_rows_that_do_not_fill_blocks(case):
    with open_weights(resolve_sources(GOLDEN / case)) as weights:
        for name in filter(is_matrix_of_layers, weights.names):
            matrix = weights.read(name)
            check_nf4(matrix, dict(to_arrays(name, matrix, StorageKind.NF4)), name)


def test_normal_weights_in_nf4_are_off_by_a_tenth_of_their_norm():
    matrix = torch.randn(640, 512, generator=torch.Generator().manual_seed(1))
    stored = dict(to_arrays("m", matrix, StorageKind.NF4))
    back = read_matrix(stored, "m")
    error = float((back - matrix).norm() / matrix.norm())
    assert 0.08 < error < 0.1  # 0.092 measured


def test_rows_of_int8_are_read_back_within_half_a_step(make_tiny, merged):
    language, _ = read_files(make_tiny("cuda", 8))
    for name in [*filter(is_matrix_of_layers, merged), EMBEDDINGS, HEAD]:
        matrix, codes = merged[name], language[name]
        step = language.get(f"{name}.scales")
        step = language[f"{name}.SCB"] / LARGEST_CODE if step is None else step
        assert codes.int().abs().amax(1).eq(LARGEST_CODE).all()
        assert (codes * step[:, None] - matrix).abs().le(0.5001 * step[:, None]).all(), name


def test_rows_of_int8_are_those_that_bitsandbytes_makes():
    matrix = torch.randn(300, 200, generator=torch.Generator().manual_seed(2))
    stored = to_arrays("m", matrix, StorageKind.ROWS_INT8)
    codes, largest, _ = int8_vectorwise_quant(matrix)
    assert torch.allclose(stored["m.SCB"], largest, rtol=1e-6)
    differing = stored["m"] != codes  # halves may fall on either side
    assert differing.float().mean() < 1e-3
    assert (stored["m"].int() - codes.int()).abs().max() <= 1


@pytest.mark.parametrize("kind", [StorageKind.NF4, StorageKind.ROWS_INT8, StorageKind.WEIGHTS_INT8])
def test_rows_of_zeros_stay_zeros(kind):
    matrix = torch.randn(8, 128, generator=torch.Generator().manual_seed(3))
    matrix[5] = 0
    stored = dict(to_arrays("m", matrix, kind))
    assert all(values.float().isfinite().all() for values in stored.values())
    if kind is StorageKind.NF4:
        assert (read_matrix(stored, "m")[5] == 0).all()
    else:
        assert (stored["m"][5] == 0).all()


def test_a_number_that_is_too_large_for_float16_is_refused():
    table = torch.full((2, 2), 70000.0)
    with pytest.raises(WeightsError, match=r"^projection\.first\.weight holds 70000, too large"):
        to_arrays("projection.first.weight", table, StorageKind.FLOAT16)


@pytest.mark.parametrize("bits", [4, 8])
def test_lora_is_merged_into_what_is_stored(bits, make_tiny, tiny_sources):
    language, _ = read_files(make_tiny("cuda", bits))
    kind = StorageKind.NF4 if bits == 4 else StorageKind.ROWS_INT8
    with open_weights(resolve_sources(tiny_sources)) as weights:
        with_lora = [name for name in weights.names if weights.read_lora(name) is not None]
        assert len(with_lora) >= 3
        for name in with_lora:
            base, whole = (
                to_arrays(name, read(name), kind) for read in (weights.read_base, weights.read)
            )
            assert torch.equal(language[name], whole[name])
            assert not torch.equal(language[name], base[name])


class CountedRead:
    """Reads random tensors, and knows how many bytes of them live at once."""

    def __init__(self, read: Callable[[str], torch.Tensor]) -> None:
        self.read = read
        self.live_bytes = self.peak_bytes = self.largest = 0

    def __call__(self, name: str) -> torch.Tensor:
        array = self.read(name).numpy()
        self.live_bytes += array.nbytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.largest = max(self.largest, array.nbytes)
        weakref.finalize(array, self.forget, array.nbytes)  # the tensor's storage holds the array
        return torch.from_numpy(array)

    def forget(self, n_bytes: int) -> None:
        self.live_bytes -= n_bytes


@pytest.mark.parametrize("bits", [4, 8])
def test_one_tensor_at_a_time_is_in_full_precision(bits, tmp_path):
    spec = make_tiny_spec(3)
    shapes = {name: tuple(t.shape) for name, t in make_empty_model(spec).state_dict().items()}
    plan = make_plan(spec, shapes, RECIPES[bits], ("cuda",))
    read = CountedRead(make_read(spec))
    write_cuda_parts(tmp_path, plan, shapes, read, show_nothing)
    assert read.peak_bytes == read.largest
    assert read.live_bytes == 0
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize(
    ("target", "devices"), [("cpu", ("cpu",)), ("cuda", ("cuda",)), ("all", ("cpu", "cuda"))]
)
def test_a_variant_has_the_files_of_its_devices_and_says_so(target, devices, make_tiny):
    variant = make_tiny(target, 4)
    assert variant.devices == devices
    roles = {entry.role for entry in variant.manifest.files}
    assert ("decoder" in roles) == ("cpu" in devices)
    assert ({"cuda-language", "cuda-vision"} <= roles) == ("cuda" in devices)
    assert "tokenizer" in roles
    files = {path.name for path in variant.folder.iterdir()}
    assert files == {entry.path for entry in variant.manifest.files} | {"manifest.json"}
    assert ("cuda" in variant.manifest.recipe) == ("cuda" in devices)
    assert ("rules" in variant.manifest.recipe) == ("cpu" in devices)
    assert variant.manifest.errors is not None


def test_a_variant_for_both_is_both_to_the_byte(make_tiny):
    both = make_tiny("all", 4)
    for target in ("cpu", "cuda"):
        alone = make_tiny(target, 4)
        for entry in alone.manifest.files:
            assert entry in both.manifest.files
    assert both.manifest.errors == make_tiny("cpu", 4).manifest.errors


@pytest.mark.parametrize("bits", [4, 8])
def test_what_a_variant_for_a_gpu_alone_says_of_its_errors_was_measured(bits, make_tiny):
    errors = make_tiny("cuda", bits).manifest.errors
    assert 0.9999 < errors.image_token_cosine_min <= 1  # the vision side is in float16
    assert errors.logits_kl_nats > 0
    assert 0 < errors.top1_agreement <= 1


def test_eight_bits_are_nearer_than_four(make_tiny):
    four, eight = (make_tiny("cuda", bits).manifest.errors for bits in (4, 8))
    assert eight.logits_kl_nats < four.logits_kl_nats


@pytest.fixture(scope="module")
def miniature(tmp_path_factory) -> Variant:
    """The miniature at 4 bits; its rows fill blocks, as the published ones do."""
    folder = tmp_path_factory.mktemp("miniature") / "v"
    options = QuantizeOptions(DEMO / "sources", folder, threads=1, target="cuda", quick=True)
    return make_variant(options, show_nothing).variant


def test_the_miniature_in_nf4_is_near_its_sources(miniature):
    errors = miniature.manifest.errors
    assert errors.logits_kl_nats < 0.05  # 0.025 measured
    assert errors.top1_agreement > 0.85  # 0.916 measured
    assert errors.image_token_cosine_min > 0.9999


def test_nf4_run_layer_by_layer_computes_what_the_backend_computes(miniature):
    spec = miniature.manifest.spec
    rng = np.random.default_rng(6)
    images = rng.standard_normal((2, spec.qformer.n_queries, spec.language.width), np.float32)
    probes = [ProbeIds(0, (1, 2), (3, 4, 5)), ProbeIds(1, (), (6,))]
    stored = StoredTensors(miniature.path("cuda-language"))
    pixels = [np.zeros((1, 3, spec.vision.image_px, spec.vision.image_px), np.float32)]
    backend, _ = open_cuda(miniature, 1, pixels)
    layers = run_layers(spec, stored.read)(probes, images)
    steps = step_through(backend)(probes, images)
    backend.close()
    for by_layer, by_step in zip(layers, steps, strict=True):
        assert by_layer.shape == by_step.shape
        # The backend's head rounds activations: 0.006 measured.
        assert np.linalg.norm(by_layer - by_step) < 0.02 * np.linalg.norm(by_layer)


@pytest.mark.parametrize("bits", [4, 8])
def test_tensors_are_read_back_in_full_precision_with_their_shapes(bits, make_tiny, merged):
    stored = StoredTensors(make_tiny("cuda", bits).path("cuda-language"))
    for name, tensor in merged.items():
        if name.startswith("language."):
            back = stored.read(name)
            assert (back.dtype, back.shape) == (torch.float32, tensor.shape)
            assert (back - tensor).norm() < 0.1 * tensor.norm() + 1e-6, name


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("target", ["cuda", "all"])
def test_a_dry_run_tells_the_size_within_a_few_per_cent(target, bits, make_tiny, tiny_sources):
    variant = make_tiny(target, bits)
    plan = plan_variant(QuantizeOptions(tiny_sources, Path("no"), bits, target=target))
    sizes = {entry.role: entry.size_bytes for entry in variant.manifest.files}
    assert list(plan.files.values()) == [entry.path for entry in variant.manifest.files]
    for part in plan.parts[-2:]:
        [role] = part.files
        assert part.size_bytes == pytest.approx(sizes[role], rel=0.02)


def test_files_have_the_mark_of_torch_and_aligned_numbers(make_tiny):
    for role in ("cuda-language", "cuda-vision"):
        path = make_tiny("cuda", 4).path(role)
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(length))
        del entries["__metadata__"]
        wide = {"F32": 4, "F16": 2, "I8": 1, "U8": 1}
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            align = 64 if (end - begin) % 64 == 0 else wide[entry["dtype"]]
            assert (8 + length + begin) % align == 0, name


def test_tensors_of_any_size_come_back_from_a_file(tmp_path):
    tensors = {
        "odd": torch.arange(7, dtype=torch.uint8),
        "large": torch.randn(16, 16),
        "half": torch.randn(3, 5).half(),
        "float": torch.randn(3),
        "codes": torch.arange(-64, 64, dtype=torch.int8).view(2, 64),
    }
    with SafetensorsWriter(tmp_path / "t.safetensors", 100 * len(tensors)) as file:
        for name, tensor in tensors.items():
            file.append(name, tensor)
    read = load_file(tmp_path / "t.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
