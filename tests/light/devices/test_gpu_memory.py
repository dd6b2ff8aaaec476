"""What a variant of the published size takes of a GPU's memory, and how much of it there may be."""

from dataclasses import replace

import pytest

from tests.light.devices.toy_cuda import TORCH
from tinyv_cli.devices.choice import choose_device
from tinyv_cli.errors import DeviceError
from tinyv_cli.spec import make_full_spec
from tinyv_cli.variants.manifest import FileEntry
from tinyv_cli.variants.memory import (
    CUDA_BUDGET_BYTES,
    CUDA_CONTEXT_BYTES,
    GpuMemory,
    Room,
    plan_memory,
)


@pytest.fixture
def full(both):
    """A variant of the published size, with sizes near those of 4 bits."""
    sizes = {"decoder": 1, "cuda-language": 1_850_000_000, "cuda-vision": 2_200_000_000}
    files = tuple(FileEntry(role, size, "0" * 64, role) for role, size in sizes.items())
    return replace(both, manifest=replace(both.manifest, spec=make_full_spec(4), files=files))


def plan(variant, free_bytes, budget_bytes=None, n_positions=2048, **changes):
    changes = {"encodes": True, "gpu": GpuMemory(free_bytes), **changes}
    return plan_memory(variant, Room(n_positions), budget_bytes, **changes)


def test_a_gpu_needs_its_files_its_context_and_keys_and_values_in_float16(full):
    long, short = (plan(full, 24 << 30, n_positions=n).needed_bytes for n in (2048, 1024))
    spec = full.manifest.spec.language
    keys_and_values = 2 * 2 * spec.n_layers * spec.width * 1024
    assert long - short >= keys_and_values
    assert short > 1_850_000_000 + 2_200_000_000 + CUDA_CONTEXT_BYTES + keys_and_values
    seen = plan(full, 24 << 30, encodes=False)
    assert long - seen.needed_bytes > 2_200_000_000


def test_a_gpu_before_turing_reads_the_head_back(gpu, full):
    head_bytes = 2 * full.manifest.spec.language.width * full.manifest.spec.language.vocab_size
    needed_bytes = {}
    for capability in ((7, 0), (7, 5)):
        gpu(torch=replace(TORCH, capability=capability, architectures=("sm_70",)))
        needed_bytes[capability] = choose_device(full, "cuda").memory.needed_bytes
    other_bytes = head_bytes * full.manifest.spec.language.mlp_width // 51200  # no longer widest
    assert needed_bytes[7, 0] - needed_bytes[7, 5] == head_bytes - other_bytes


def test_a_gpu_is_filled_to_8_gib_at_most_and_to_what_is_free_but_300_mb(full):
    left_bytes = CUDA_CONTEXT_BYTES - 300_000_000
    assert plan(full, 24 << 30).limit_bytes == CUDA_BUDGET_BYTES
    assert plan(full, 6 << 30).limit_bytes == (6 << 30) + left_bytes
    assert plan(full, 24 << 30, 12 << 30).limit_bytes == 12 << 30
    assert plan(full, 6 << 30, 12 << 30).limit_bytes == (6 << 30) + left_bytes


def test_on_a_gpu_too_small_for_both_sides_they_take_turns_where_they_may(full):
    together = plan(full, 24 << 30)
    budget = together.needed_bytes - 1
    turns = plan(full, 24 << 30, budget)
    assert (together.is_offloaded, turns.is_offloaded) == (False, True)
    assert turns.needed_bytes < together.needed_bytes - 2_000_000_000
    with pytest.raises(DeviceError, match="allowed"):
        plan(full, 24 << 30, budget, may_offload=False)
    with pytest.raises(DeviceError, match="allowed"):
        plan(full, 24 << 30, turns.needed_bytes - 1)


def test_a_picture_that_the_gpu_has_seen_needs_no_vision_side(gpu, full):
    decoder_alone = plan(full, 24 << 30, encodes=False).needed_bytes
    gpu(torch=replace(TORCH, free_bytes=24 << 30))
    assert choose_device(full, "cuda", decoder_alone, encodes=lambda: False).device == "cuda"
    with pytest.raises(DeviceError):
        choose_device(full, "cuda", decoder_alone, encodes=lambda: True)
