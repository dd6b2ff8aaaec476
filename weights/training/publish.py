"""A trained network becomes a stage checkpoint as the public ones are written.

Foreign names come from `weights.naming`; LoRA's rows are put back into the published order.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.spec import ModelSpec
from weights.naming import (
    LORA_PREFIX,
    PLAIN_PREFIX,
    Part,
    Target,
    make_checkpoint_table,
    make_lora_names,
    make_phi_table,
)


def write_checkpoint(path: Path, model: TinyGptV, spec: ModelSpec, lora_alpha: float) -> None:
    """Writes what was trained, in float32; a file that stands there is exchanged as a whole.

    Args:
        path: `TinyGPT-V_for_Stage{n}.pth`.
        model: with LoRA from stage 2 on.
        spec: the network at the end of this stage.
        lora_alpha: of LoRA.
    """
    tensors = model.state_dict()
    content = {
        "model": {
            foreign: _find_tensor(tensors, target, spec)
            for foreign, target in _list_names(spec).items()
        },
        "optimizer": {},
        "config": {"model": {"image_size": spec.vision.image_px, "lora_alpha": lora_alpha}},
        "scaler": None,
        "epoch": 0,
    }
    fresh = path.with_name(f"{path.name}.writing-{os.getpid()}")
    try:
        torch.save(content, fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _list_names(spec: ModelSpec) -> dict[str, Target]:
    """Foreign names of everything that a stage trains."""
    prefix = PLAIN_PREFIX if spec.stage == 1 else LORA_PREFIX
    names = {
        foreign: target
        for foreign, target in make_checkpoint_table(spec).targets.items()
        if target.name.startswith("projection.")
    }
    for foreign, target in make_phi_table(spec, "fused").targets.items():
        if target.name.endswith("layernorm.weight"):
            names[f"{prefix}{foreign}"] = target
    if spec.stage > 1:
        for i in range(spec.language.n_layers):
            names |= make_lora_names(prefix, i, "plain")
    return names


def _find_tensor(tensors: dict[str, Tensor], target: Target, spec: ModelSpec) -> Tensor:
    """A trained tensor as the checkpoint has it."""
    module = target.name.removesuffix(".weight")
    if target.part is Part.LORA_A:
        return tensors[f"{module}.a"].float().cpu()
    if target.part is Part.LORA_B:
        b = tensors[f"{module}.b"].float().cpu()
        return _to_heads_first(b, spec.language.n_heads) if module.endswith("qkv") else b
    return tensors[target.name].float().cpu()


def _to_heads_first(rows: Tensor, n_heads: int) -> Tensor:
    """Rows ordered [3][head][d] → [head][3][d]."""
    by_third = rows.view(3, n_heads, -1, rows.shape[1])  # (3, H, d, r)
    return by_third.transpose(0, 1).reshape(rows.shape)
