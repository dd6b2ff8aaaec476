"""The network in torch: its names, its formulas, and what padding, batches and gradients do."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, pad

from tests.torch.weights.random_weights import make_read
from tinyv_cli.model.phi import make_rotary
from tinyv_cli.model.tinygptv import TinyGptV, load_model, make_empty_model
from tinyv_cli.spec import make_full_spec, make_tiny_spec

SPEC = make_tiny_spec(3)


@pytest.fixture(scope="module")
def model() -> TinyGptV:
    return load_model(SPEC, make_read(SPEC))


def make_embeddings(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, SPEC.language.width, generator=generator)


def relative_error(out: Tensor, reference: Tensor) -> float:
    return float((out - reference).norm() / reference.norm())


def test_every_norm_has_its_own_epsilon():
    model = make_empty_model(make_full_spec(4))
    kinds = (nn.LayerNorm, nn.RMSNorm)
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    assert {(name.split(".")[0], type(norm), norm.eps) for name, norm in norms} == {
        ("vision", nn.LayerNorm, 1e-6),
        ("vision", nn.LayerNorm, 1e-5),
        ("qformer", nn.LayerNorm, 1e-12),
        ("language", nn.LayerNorm, 1e-5),
        ("language", nn.RMSNorm, 1e-6),
    }
    assert [n for n, m in norms if (n[:6], m.eps) == ("vision", 1e-5)] == ["vision.ln_vision"]


def test_loading_reads_each_tensor_once_and_copies_none():
    tensors: dict[str, Tensor] = {}
    read = make_read(SPEC)

    def remember(name: str) -> Tensor:
        assert name not in tensors
        tensors[name] = read(name)
        return tensors[name]

    loaded = load_model(SPEC, remember)
    places = {name: t.data_ptr() for name, t in loaded.state_dict().items()}
    assert places == {name: t.data_ptr() for name, t in tensors.items()}


def test_a_loaded_network_is_complete_and_neither_drops_out_nor_collects_gradients(model: TinyGptV):
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(t.is_meta or t.requires_grad for t in tensors)
    assert not any(module.training for module in model.modules())


def test_a_tensor_of_another_shape_is_refused():
    wider = replace(SPEC, language=replace(SPEC.language, vocab_size=600))
    with pytest.raises(RuntimeError, match=r"lm_head\.weight"):
        load_model(SPEC, make_read(wider))


def test_a_block_computes_the_published_formulas(model: TinyGptV):
    block, spec = model.language.layers[1], SPEC.language
    w = {name: t.double() for name, t in block.state_dict().items()}
    n, width = 9, spec.head_width
    x = make_embeddings(n).double()

    def norm(values: Tensor, name: str) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return centred * scale * w[f"{name}.weight"] + w[f"{name}.bias"]

    def rotate(values: Tensor) -> Tensor:  # (T, 80), positions 0 to T - 1
        half = spec.rotary_width // 2
        turns = torch.arange(n)[:, None] * 10000.0 ** -(torch.arange(half).double() / half)
        left, right, rest = values[:, :half], values[:, half : 2 * half], values[:, 2 * half :]
        cos, sin = turns.cos(), turns.sin()
        return torch.cat((left * cos - right * sin, right * cos + left * sin, rest), dim=1)

    h = norm(x, "input_layernorm")
    qkv = h @ w["attention.qkv.weight"].T + w["attention.qkv.bias"]
    q, k, v = qkv.reshape(n, 3, spec.n_heads, width).permute(1, 2, 0, 3)
    heads = []
    for head in range(spec.n_heads):
        turned = rotate(norm(q[head], "attention.q_layernorm"))
        scores = turned @ rotate(norm(k[head], "attention.k_layernorm")).T / width**0.5
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
        heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[head])
    a = torch.cat(heads, dim=1) @ w["attention.dense.weight"].T + w["attention.dense.bias"]
    a = a * (a.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w["post_layernorm.weight"]
    inner = h @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
    mlp = gelu(inner, approximate="tanh") @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]

    single = x.float()[None]
    out = block(single, make_rotary(spec, torch.arange(single.shape[1])[None], single.dtype))
    assert relative_error(out[0], x + a + mlp) < 1e-6


def test_a_position_does_not_see_those_after_it(model: TinyGptV):
    embeddings = make_embeddings(1, 12)
    changed = embeddings.clone()
    changed[:, 7:] += 1
    before, after = model.language(embeddings), model.language(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_padding_on_the_right_changes_nothing_before_it(model: TinyGptV):
    short, long = make_embeddings(5), make_embeddings(11, seed=2)
    batch = torch.stack((pad(short, (0, 0, 0, 6)), long))
    together = model.language(batch)
    assert relative_error(together[0, :5], model.language(short[None])[0]) < 1e-5
    assert relative_error(together[1], model.language(long[None])[0]) < 1e-5


def test_pictures_in_a_batch_do_not_mix(model: TinyGptV):
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    together = model.encode(pixels)
    assert together.shape == (2, SPEC.qformer.n_queries, SPEC.language.width)
    for i in range(2):
        assert relative_error(together[i], model.encode(pixels[i : i + 1])[0]) < 1e-5
    assert relative_error(together[0], together[1]) > 1e-2


def test_a_loss_reaches_everything_that_training_may_change():
    model = load_model(SPEC, make_read(SPEC)).train()
    trained = [*model.projection.parameters(), *model.language.layers.parameters()]
    for parameter in trained:
        parameter.requires_grad_()
    query_tokens = torch.randn(1, 32, SPEC.qformer.width, generator=torch.Generator())
    embeddings = torch.cat((model.projection(query_tokens), make_embeddings(1, 4)), dim=1)
    cross_entropy(model.language(embeddings)[0], torch.arange(36)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
