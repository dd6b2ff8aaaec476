"""The golden sources open, and merge to what their files say row by row."""

import pytest
import torch

from tests.golden import CASES, GOLDEN, needs_golden
from weights.reading.checkpoint import expected_shapes, open_weights
from weights.reading.sources import resolve_sources
from weights.reading.tokenizer_json import read_tokenizer_json

pytestmark = needs_golden


@pytest.mark.parametrize("case", CASES)
def test_golden_sources_open_and_every_tensor_has_its_shape(case):
    with open_weights(resolve_sources(GOLDEN / case)) as weights:
        shapes = expected_shapes(weights.spec)
        assert weights.names == tuple(shapes)
        for name in weights.names:
            tensor = weights.read(name)
            assert tensor.shape == shapes[name]
            assert tensor.dtype == torch.float32


@pytest.mark.parametrize(("case", "image_px"), [("stage4", 448), ("stage3-split-qkv", 224)])
def test_golden_numbers_are_read_off_the_files(case, image_px):
    with open_weights(resolve_sources(GOLDEN / case)) as weights:
        spec = weights.spec
    assert spec.vision.image_px == image_px
    assert (spec.vision.width, spec.vision.n_layers, spec.vision.mlp_width) == (176, 3, 768)
    assert (spec.qformer.width, spec.qformer.n_layers, spec.qformer.n_heads) == (96, 4, 4)
    assert (spec.language.width, spec.language.n_layers, spec.language.vocab_size) == (160, 3, 384)
    assert (spec.projection_width, spec.language.rotary_width) == (128, 32)


@pytest.mark.parametrize("case", CASES)
def test_golden_tokenizers_are_read(case):
    files = resolve_sources(GOLDEN / case)
    assert read_tokenizer_json(files) == (files.tokenizer / "tokenizer.json").read_text("utf-8")


def test_the_fused_golden_case_merges_row_by_row():
    folder = GOLDEN / "stage4"
    phi = torch.load(folder / "phi-2" / "pytorch_model.bin", weights_only=True)
    trained = torch.load(folder / "TinyGPT-V_for_Stage4.pth", weights_only=True)["model"]
    start = "llama_model.base_model.model.model.layers.2.self_attn.query_key_value.lora_"
    a, b = trained[f"{start}A.weight"].double(), trained[f"{start}B.weight"].double()
    fused = phi["model.layers.2.self_attn.query_key_value.weight"].double() + 16 / 8 * b @ a
    with open_weights(resolve_sources(folder)) as weights:
        ours = weights.read("language.layers.2.attention.qkv.weight")
    n_heads, head_width = 2, 80
    for row in range(3 * n_heads * head_width):
        part, rest = divmod(row, n_heads * head_width)
        head, channel = divmod(rest, head_width)
        foreign = fused[(head * 3 + part) * head_width + channel]
        torch.testing.assert_close(ours[row].double(), foreign, atol=1e-6, rtol=0)
