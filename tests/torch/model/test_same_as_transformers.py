"""The network's blocks against transformers' own of the same weights, to the bit.

transformers 4 spells the Q-Former's attention out, which 5 leaves to torch: there within rounding.
"""

import pytest
import torch
import transformers
from torch import nn
from transformers.models.blip_2.configuration_blip_2 import Blip2QFormerConfig, Blip2VisionConfig
from transformers.models.blip_2.modeling_blip_2 import (
    Blip2EncoderLayer,
    Blip2QFormerModel,
    Blip2VisionEmbeddings,
)
from transformers.models.phi.configuration_phi import PhiConfig
from transformers.models.phi.modeling_phi import PhiMLP

from tests.torch.weights.random_weights import make_read
from tinyv_cli.model.tinygptv import TinyGptV, load_model
from tinyv_cli.spec import make_tiny_spec

IS_OLD = transformers.__version__.startswith("4.")
ROUNDING = {torch.float32: 1e-6, torch.float16: 1e-3}
SPEC = make_tiny_spec(3)
VISION, QFORMER, LANGUAGE = SPEC.vision, SPEC.qformer, SPEC.language
VISION_CONFIG = Blip2VisionConfig(
    hidden_size=VISION.width,
    intermediate_size=VISION.mlp_width,
    num_hidden_layers=VISION.n_layers,
    num_attention_heads=VISION.n_heads,
    image_size=VISION.image_px,
    patch_size=VISION.patch_px,
    hidden_act="gelu",
    layer_norm_eps=VISION.eps,
    attn_implementation="sdpa",
)
QFORMER_CONFIG = Blip2QFormerConfig(
    hidden_size=QFORMER.width,
    intermediate_size=QFORMER.mlp_width,
    num_hidden_layers=QFORMER.n_layers,
    num_attention_heads=QFORMER.n_heads,
    hidden_act="gelu",
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    layer_norm_eps=QFORMER.eps,
    cross_attention_frequency=QFORMER.cross_attention_every,
    encoder_hidden_size=VISION.width,
    use_qformer_text_input=False,
)
PHI_CONFIG = PhiConfig(
    hidden_size=LANGUAGE.width,
    intermediate_size=LANGUAGE.mlp_width,
    num_attention_heads=LANGUAGE.n_heads,
    hidden_act="gelu_pytorch_tanh",
)


@pytest.fixture(params=[torch.float32, torch.float16])
def model(request) -> TinyGptV:
    return load_model(SPEC, make_read(SPEC)).to(request.param)


def fill(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """transformers' module with our weights: every name and shape must be the same."""
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    return theirs.eval()


def make_numbers(like: nn.Module, *shape: int) -> torch.Tensor:
    dtype = next(like.parameters()).dtype
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def check_near(out: torch.Tensor, expected: torch.Tensor) -> None:
    assert out.dtype == expected.dtype
    error = (out.float() - expected.float()).norm() / expected.float().norm()
    assert error < ROUNDING[out.dtype]


@torch.no_grad()
def test_a_block_of_the_vision_tower_computes_the_same_bits(model):
    hidden = make_numbers(model, 2, VISION.n_tokens, VISION.width)
    for ours in model.vision.layers:
        theirs = fill(Blip2EncoderLayer(VISION_CONFIG), ours)
        words = {"attention_mask": None} if IS_OLD else {}
        assert torch.equal(ours(hidden), theirs(hidden, **words))


@torch.no_grad()
def test_patches_differ_by_the_order_of_their_sums_alone(model):
    ours = model.vision.embeddings
    theirs = fill(Blip2VisionEmbeddings(VISION_CONFIG), ours)
    pixels = make_numbers(model, 2, 3, VISION.image_px, VISION.image_px)
    check_near(ours(pixels), theirs(pixels))


@torch.no_grad()
def test_the_q_former_computes_the_same(model):
    ours = model.qformer
    theirs = fill(Blip2QFormerModel(QFORMER_CONFIG), ours.bert)
    features = make_numbers(model, 2, 50, VISION.width)
    queries = ours.query_tokens.expand(2, -1, -1)
    expected = theirs(query_embeds=queries, encoder_hidden_states=features)[0]
    if IS_OLD:
        check_near(ours(features), expected)
    else:
        assert torch.equal(ours(features), expected)


@torch.no_grad()
def test_the_mlp_of_the_language_model_computes_the_same_bits(model):
    ours = model.language.layers[0].mlp
    theirs = fill(PhiMLP(PHI_CONFIG), ours)
    hidden = make_numbers(model, 1, 7, LANGUAGE.width)
    assert torch.equal(ours(hidden), theirs(hidden))
