"""Sources become a network that a stage can train: unmerged, LoRA beside it from stage 2 on."""

from dataclasses import replace

import torch
from torch import nn

from tinyv_cli.model.tinygptv import TinyGptV, load_model
from tinyv_cli.spec import ModelSpec
from weights.reading.checkpoint import MergedWeights
from weights.training.lora import add_lora, list_adapted, make_pair
from weights.training.stages import Stage


def load_for_training(
    weights: MergedWeights, stage: Stage, rank: int, seed: int
) -> tuple[TinyGptV, ModelSpec]:
    """Loads the network as an earlier stage left it.

    Args:
        weights: opened with the pictures' side of this stage.
        stage: to be trained.
        rank: r of LoRA where none is there yet.
        seed: of new LoRA.

    Returns:
        The network, nothing of it frozen or thawed yet, and its numbers after this stage.
    """
    model = load_model(weights.spec, weights.read_base if stage.has_lora else weights.read)
    if stage.has_lora:
        generator = torch.Generator().manual_seed(seed)
        pairs = {}
        for name, linear in list_adapted(model.language).items():
            there = weights.read_lora(f"language.{name}.weight")
            pairs[name] = there or make_pair(linear, rank, generator)
        add_lora(model.language, pairs, weights.lora_alpha)
    return model, replace(weights.spec, stage=stage.number)


def round_frozen(model: nn.Module, trained: dict[str, nn.Parameter]) -> None:
    """Keeps frozen matrices in bfloat16, half the memory; products round them to it anyhow.

    Args:
        model: changed in place; norms and embeddings stay float32.
        trained: what stays float32 too.
    """
    kept = {id(parameter) for parameter in trained.values()}
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and id(module.weight) not in kept:
            module.to(torch.bfloat16)
