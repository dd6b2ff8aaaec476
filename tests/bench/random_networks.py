"""Random numbers become files and networks as large as the published ones; no file is read."""

from pathlib import Path

import bitsandbytes
import torch
from torch import nn
from transformers import PhiConfig, PhiForCausalLM

from quantize.cuda.parts import write_cuda_parts
from quantize.cuda_recipe import ROLES
from quantize.plan import make_plan
from quantize.recipe import RECIPES
from tinyv_cli.backends.cuda.torch_device import TorchDevice
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.progress import show_nothing
from tinyv_cli.spec import LanguageSpec, ModelSpec


def make_numbers(name: str, shape: torch.Size, device: TorchDevice) -> torch.Tensor:
    """Float16 on the device, of a size that keeps a deep network's numbers within float16."""
    numbers = torch.randn(shape, device=device.name, dtype=torch.float16)
    if "norm" in name.lower():
        return numbers * 0.02 + float(name.endswith("weight"))
    return numbers * (0.5 / shape[-1] ** 0.5 if len(shape) > 1 else 0.02)


def write_files(
    folder: Path, spec: ModelSpec, bits: int, vision_bits: int, device: TorchDevice
) -> dict[str, Path]:
    """Writes a variant's files for a GPU, as quantising writes them; role → path.

    Each tensor is made and rounded on the device.
    """
    shapes = {name: tuple(t.shape) for name, t in make_empty_model(spec).state_dict().items()}
    plan = make_plan(spec, shapes, RECIPES[bits], ("cuda",), vision_bits)

    def read(name: str) -> torch.Tensor:
        return make_numbers(name, torch.Size(shapes[name]), device).float()

    write_cuda_parts(folder, plan, shapes, read, show_nothing)
    return {role: folder / plan.files[role] for role in ROLES}


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
