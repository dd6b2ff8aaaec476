"""Random numbers become networks on a device, as large as the published ones; no file is read."""

import bitsandbytes
import torch
from bitsandbytes.functional import int8_vectorwise_quant, quantize_4bit
from torch import nn
from transformers import PhiConfig, PhiForCausalLM

from tinyv_cli.backends.torch_device import TorchDevice
from tinyv_cli.backends.torch_modules import Int8Embedding, Int8Linear, Nf4Linear
from tinyv_cli.backends.torch_weights import NF4_BLOCK, finish_language, make_empty_language
from tinyv_cli.model.phi import PhiLanguage
from tinyv_cli.model.tinygptv import TinyGptV, make_empty_model
from tinyv_cli.spec import LanguageSpec, ModelSpec

HOST = TorchDevice("cpu")


def make_numbers(name: str, shape: torch.Size, device: TorchDevice) -> torch.Tensor:
    """Float16 on the device, of a size that keeps a deep network's numbers within float16."""
    numbers = torch.randn(shape, device=device.name, dtype=torch.float16)
    if "norm" in name.lower():
        return numbers * 0.02 + float(name.endswith("weight"))
    return numbers * (0.5 / shape[-1] ** 0.5 if len(shape) > 1 else 0.02)


def make_language(spec: LanguageSpec, bits: int, device: TorchDevice) -> PhiLanguage:
    """The language model as a variant of 4 or 8 bits is loaded."""
    language = make_empty_language(spec)
    for name, module in list(language.named_modules()):
        if isinstance(module, nn.Linear):
            own_bits = 8 if name == "lm_head" else bits
            language.set_submodule(name, make_linear(module, own_bits, device))
    codes, largest = round_rows(make_numbers("table", language.embed_tokens.weight.shape, HOST))
    language.set_submodule("embed_tokens", Int8Embedding(codes, largest / 127))
    rest = {
        name: make_numbers(name, tensor.shape, device).to(
            torch.float32 if tensor.ndim == 1 else device.dtype
        )
        for name, tensor in language.state_dict().items()
    }
    return finish_language(language, rest, device.dtype)


def make_linear(linear: nn.Linear, bits: int, device: TorchDevice) -> nn.Module:
    matrix = make_numbers("matrix", linear.weight.shape, device)
    bias = make_numbers("bias", linear.bias.shape, device)
    if bits == 8:
        return Int8Linear(*round_rows(matrix), bias)
    packed, state = quantize_4bit(
        matrix, blocksize=NF4_BLOCK, quant_type="nf4", compress_statistics=True
    )
    return Nf4Linear(packed, state, bias.to(device.dtype))


def round_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    codes, largest, _ = int8_vectorwise_quant(matrix)
    return codes, largest


def make_vision_side(spec: ModelSpec, device: TorchDevice) -> TinyGptV:
    """The vision side as a variant is loaded."""
    model = make_empty_model(spec)
    for prefix, part in (
        ("vision", model.vision),
        ("qformer", model.qformer),
        ("projection", model.projection),
    ):
        tensors = {
            name: make_numbers(f"{prefix}.{name}", tensor.shape, device).to(device.dtype)
            for name, tensor in part.state_dict().items()
        }
        part.load_state_dict(tensors, strict=True, assign=True)
    return model


def make_phi_of_transformers(spec: LanguageSpec, device: TorchDevice) -> PhiForCausalLM:
    """transformers' Phi-2 of the same shape with bitsandbytes' NF4, as its loader leaves it."""
    config = PhiConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        hidden_act="gelu_new",
        max_position_embeddings=spec.context_length,
        partial_rotary_factor=spec.rotary_width / spec.head_width,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation="sdpa",
        dtype=device.dtype,
    )
    with torch.device("meta"):
        model = PhiForCausalLM(config).eval().requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            model.set_submodule(name, make_linear_of_bitsandbytes(module, device))
    rest = {
        name: make_numbers(name, tensor.shape, device).to(device.dtype)
        for name, tensor in model.state_dict().items()
        if tensor.is_meta
    }
    model.load_state_dict(rest, strict=False, assign=True)
    # Its frequencies are no parameters, so the meta device lost them.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device.name)
    return model


def make_linear_of_bitsandbytes(linear: nn.Linear, device: TorchDevice) -> nn.Module:
    new = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        compute_dtype=device.dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    new.weight = bitsandbytes.nn.Params4bit(
        make_numbers("matrix", linear.weight.shape, device),
        requires_grad=False,
        compress_statistics=True,
        quant_type="nf4",
        module=new,
    ).to(device.name)
    bias = make_numbers("bias", linear.bias.shape, device).to(device.dtype)
    new.bias = nn.Parameter(bias, requires_grad=False)
    return new.eval()
