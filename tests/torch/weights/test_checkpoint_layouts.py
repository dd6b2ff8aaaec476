"""Whatever public form the same numbers come in, they merge to the same bits."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.torch.quantize.tiny_sources import (
    CHECKPOINT,
    LAYER,
    PHI,
    QFORMER,
    change_content,
    change_tensors,
    find_differing,
    read_all,
    write_tiny,
)
from tinyv_cli.spec import make_tiny_spec
from weights.reading.checkpoint import expected_shapes, open_weights
from weights.reading.naming import PHI_LAYOUTS
from weights.reading.sources import resolve_sources
from weights.synthetic.plans import LORA_WRITERS
from weights.synthetic.sources import CONTAINERS

QKV = "language.layers.0.attention.qkv.weight"
DENSE = "language.layers.0.attention.dense.weight"
POSITIONS = "vision.embeddings.position_embedding"
Q_NORM = "language.layers.0.attention.q_layernorm.weight"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return read_all(write_tiny(tmp_path_factory.mktemp("sources") / "fused"))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("layout", PHI_LAYOUTS)
def test_every_layout_and_container_of_phi_merges_to_the_same_bits(
    reference, tmp_path, layout, container
):
    folder = write_tiny(tmp_path / "s", phi_layout=layout, container=container)
    assert find_differing(reference, read_all(folder)) == []


@pytest.mark.parametrize("module_prefix", [False, True])
@pytest.mark.parametrize("in_checkpoint", [False, True])
@pytest.mark.parametrize("lora_names", LORA_WRITERS)
@pytest.mark.parametrize("layout", ["fused", "split"])
def test_every_writer_of_the_checkpoint_merges_to_the_same_bits(
    reference, tmp_path, layout, lora_names, in_checkpoint, module_prefix
):
    folder = write_tiny(
        tmp_path / "s",
        phi_layout=layout,
        lora_names=lora_names,
        qformer_in_checkpoint=in_checkpoint,
        module_prefix=module_prefix,
    )
    assert find_differing(reference, read_all(folder)) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_and_the_same_numbers_in_float32_merge_to_the_same_bits(tmp_path, dtype):
    folder = write_tiny(tmp_path / "s", dtype=dtype)
    halves = read_all(folder)
    for name in (PHI, "eva_vit_g.pth"):
        change_tensors(
            folder / name,
            lambda tensors: tensors.update({n: t.float() for n, t in tensors.items()}),
        )
    assert find_differing(halves, read_all(folder)) == []


@pytest.mark.parametrize("layout", PHI_LAYOUTS)
def test_stage_1_has_no_lora_and_a_prefix_of_its_own(reference, tmp_path, layout):
    merged = read_all(write_tiny(tmp_path / "s", stage=1, phi_layout=layout))
    changed = find_differing(reference, merged | {POSITIONS: reference[POSITIONS]})
    lora = {f"language.layers.{i}.attention.{m}.weight" for i in (0, 1) for m in ("qkv", "dense")}
    assert set(changed) == lora


def test_every_tensor_has_the_shape_that_its_name_promises(reference, tmp_path):
    spec = make_tiny_spec(4)
    with open_weights(resolve_sources(write_tiny(tmp_path / "s"))) as weights:
        assert weights.spec == spec
        assert weights.names == tuple(expected_shapes(spec))
        assert weights.shapes == expected_shapes(spec)
    for name, shape in expected_shapes(spec).items():
        tensor = reference[name]
        assert tensor.shape == shape
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert tensor.isfinite().all()


def test_lora_rows_follow_heads_and_ours_follow_queries_keys_and_values(reference, tmp_path):
    """Row by row in float64, from the split layout's matrices and the checkpoint's A and B."""
    folder = write_tiny(tmp_path / "s", phi_layout="split")
    phi = torch.load(folder / PHI, weights_only=True)
    trained = torch.load(folder / CHECKPOINT, weights_only=True)
    a = trained["model"][f"{LAYER}.query_key_value.lora_A.weight"].double()
    b = trained["model"][f"{LAYER}.query_key_value.lora_B.weight"].double()
    scale = trained["config"]["model"]["lora_alpha"] / a.shape[0]
    n_heads, head_width = 2, 80
    for part, letter in enumerate("qkv"):
        matrix = phi[f"model.layers.0.self_attn.{letter}_proj.weight"].double()
        for row in range(n_heads * head_width):
            head, channel = divmod(row, head_width)
            b_row = b[(head * 3 + part) * head_width + channel]
            wanted = matrix[row] + scale * (b_row @ a)
            ours = reference[QKV][part * n_heads * head_width + row]
            np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_alpha_is_the_checkpoints_and_16_where_it_says_none(reference, tmp_path):
    folder = write_tiny(tmp_path / "s")
    change_content(folder / CHECKPOINT, lambda content: content.pop("config"))
    assert find_differing(reference, read_all(folder)) == []

    settings = {"model": {"lora_alpha": 32}}
    change_content(folder / CHECKPOINT, lambda content: content.update(config=settings))
    base = read_all(write_tiny(tmp_path / "stage1", stage=1))
    once, twice = reference[DENSE] - base[DENSE], read_all(folder)[DENSE] - base[DENSE]
    assert once.abs().max() > 0.001
    torch.testing.assert_close(twice, 2 * once, atol=1e-6, rtol=0)


def test_norms_of_the_checkpoint_replace_phis_and_phis_biases_stay(reference, tmp_path):
    phi = torch.load(write_tiny(tmp_path / "s") / PHI, weights_only=True)
    name, foreign = "language.final_layernorm", "model.final_layernorm"
    assert torch.equal(reference[f"{name}.bias"], phi[f"{foreign}.bias"].float())
    assert not torch.equal(reference[f"{name}.weight"], phi[f"{foreign}.weight"].float())


def test_norms_that_no_file_has_are_one_and_zero(reference, tmp_path):
    folder = write_tiny(tmp_path / "s")
    change_tensors(folder / CHECKPOINT, lambda t: t.pop(f"{LAYER}.q_layernorm.weight"))
    merged = read_all(folder)
    assert find_differing(reference, merged) == [Q_NORM]
    assert torch.equal(merged[Q_NORM], torch.ones(80))
    assert torch.equal(merged[Q_NORM.replace("weight", "bias")], torch.zeros(80))


def test_norms_that_only_phis_file_has_are_phis(tmp_path):
    folder = write_tiny(tmp_path / "s")
    norm = torch.full((80,), 1.5)
    change_tensors(folder / CHECKPOINT, lambda t: t.pop(f"{LAYER}.q_layernorm.weight"))
    change_tensors(
        folder / PHI, lambda t: t.update({"model.layers.0.self_attn.q_layernorm.weight": norm})
    )
    assert torch.equal(read_all(folder)[Q_NORM], norm)


@pytest.mark.parametrize("infix", ["", ".base_layer"])
def test_a_base_matrix_in_the_checkpoint_replaces_phis_and_lora_is_added(
    reference, tmp_path, infix
):
    folder = write_tiny(tmp_path / "s")
    doubled = (
        2 * torch.load(folder / PHI, weights_only=True)["model.layers.0.self_attn.dense.weight"]
    )
    change_tensors(
        folder / CHECKPOINT, lambda t: t.update({f"{LAYER}.dense{infix}.weight": doubled.float()})
    )
    merged = read_all(folder)
    assert find_differing(reference, merged) == [DENSE]
    torch.testing.assert_close(merged[DENSE], reference[DENSE] + doubled.float() / 2)


def test_queries_alone_in_the_checkpoint_replace_those_of_blip_2(reference, tmp_path):
    folder = write_tiny(tmp_path / "s")
    queries = torch.randn(1, 32, 64)
    change_tensors(folder / CHECKPOINT, lambda t: t.update(query_tokens=queries))
    merged = read_all(folder)
    assert find_differing(reference, merged) == ["qformer.query_tokens"]
    assert torch.equal(merged["qformer.query_tokens"], queries)


def test_what_the_checkpoint_replaces_may_be_missing_in_blip_2s_file(reference, tmp_path):
    folder = write_tiny(tmp_path / "s", qformer_in_checkpoint=True)

    def drop(tensors):
        for name in [n for n in tensors if n.startswith(("Qformer", "query_tokens"))]:
            del tensors[name]

    change_tensors(folder / QFORMER, drop)
    assert find_differing(reference, read_all(folder)) == []


def test_the_optimizer_is_passed_over(reference, tmp_path):
    folder = write_tiny(tmp_path / "s")
    moments = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}}
    change_content(folder / CHECKPOINT, lambda content: content.update(optimizer=moments))
    assert find_differing(reference, read_all(folder)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are listed by /proc")
@pytest.mark.parametrize("container", CONTAINERS)
def test_nothing_stays_mapped_after_closing(tmp_path, container):
    folder = write_tiny(tmp_path / "s", container=container)
    with open_weights(resolve_sources(folder)) as weights:
        for name in weights.names:
            weights.read(name)
        weights.close()
        assert str(folder) not in Path("/proc/self/maps").read_text()


def test_reading_goes_on_after_closing(tmp_path):
    weights = open_weights(resolve_sources(write_tiny(tmp_path / "s")))
    before = weights.read(QKV)
    weights.close()
    assert torch.equal(weights.read(QKV), before)


def test_what_was_read_does_not_change_with_what_the_caller_does_to_it(tmp_path):
    with open_weights(resolve_sources(write_tiny(tmp_path / "s", dtype="float32"))) as weights:
        name = "language.embed_tokens.weight"
        before = weights.read(name).clone()
        weights.read(name).zero_()
        assert torch.equal(weights.read(name), before)
