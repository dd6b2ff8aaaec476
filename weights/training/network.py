"""Sources become a network that a stage can train: unmerged, LoRA beside it from stage 2 on."""

from dataclasses import replace

import torch

from tinyv_cli.model.tinygptv import TinyGptV, load_model
from tinyv_cli.spec import ModelSpec
from weights.checkpoint import MergedWeights
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
