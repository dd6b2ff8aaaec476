"""Sources become a network of which one stage trains a part; an ablation leaves a part out.

Steps, rates and pictures as they were published are in `published.toml`.

Source: MODEL.md, section 4 (arXiv 2312.16862, section 3.3, and the published configurations); the
ablations are those of the paper's Table 4.
"""

from dataclasses import replace

import torch
from torch import nn

from tinyv_cli.model.phi import PhiLanguage
from tinyv_cli.model.tinygptv import TinyGptV, load_model
from tinyv_cli.spec import ModelSpec
from weights.reading.checkpoint import MergedWeights
from weights.training.network.lora import add_lora, list_adapted, make_pair

PARTS = ("qk-norm", "post-norm", "input-norms", "lora")  # each can be left out
_FIRST_LORA_STAGE = 2
_REMOVED = {"qk-norm": ("q_layernorm", "k_layernorm"), "post-norm": ("post_layernorm",)}
_LORA_ENDS = (".a", ".b")
_NOT_TRAINED = {"input-norms": ("input_layernorm.weight",), "lora": _LORA_ENDS}


def load_for_training(
    weights: MergedWeights, stage: int, rank: int, seed: int
) -> tuple[TinyGptV, ModelSpec]:
    """Loads the network as an earlier stage left it.

    Args:
        weights: opened with the picture side of this stage.
        stage: to be trained, 1 to 4; from 2 on LoRA is beside the language model's matrices.
        rank: r of LoRA where none is there yet.
        seed: of new LoRA.

    Returns:
        The network, nothing of it frozen or thawed yet, and its numbers after this stage.
    """
    has_lora = stage >= _FIRST_LORA_STAGE
    model = load_model(weights.spec, weights.read_base if has_lora else weights.read)
    if has_lora:
        generator = torch.Generator().manual_seed(seed)
        pairs = {}
        for name, linear in list_adapted(model.language).items():
            there = weights.read_lora(f"language.{name}.weight")
            pairs[name] = there or make_pair(linear, rank, generator)
        add_lora(model.language, pairs, weights.lora_alpha)
    return model, replace(weights.spec, stage=stage)


def remove_norms(language: PhiLanguage, without: str | None) -> None:
    """Takes norms out of every layer.

    Args:
        language: changed in place.
        without: `qk-norm` or `post-norm` (the added RMSNorm); others take nothing out.
    """
    for module in list(language.modules()):
        for name in _REMOVED.get(without or "", ()):
            if hasattr(module, name):
                setattr(module, name, nn.Identity())


def thaw(model: nn.Module, stage: int, without: str | None = None) -> dict[str, nn.Parameter]:
    """Freezes everything but what the stage trains.

    Args:
        model: changed in place.
        stage: 1 to 4.
        without: `input-norms` or `lora` stay as they are; others change nothing.

    Returns:
        The trained parameters by name: both projections, the weights (not the biases) of the
        language model's norms, and from stage 2 on LoRA.
    """
    ends = ("layernorm.weight", *(_LORA_ENDS if stage >= _FIRST_LORA_STAGE else ()))
    trained = {}
    for name, parameter in model.named_parameters():
        is_trained = name.startswith("projection.") or (
            name.startswith("language.") and name.endswith(ends)
        )
        is_trained = is_trained and not name.endswith(_NOT_TRAINED.get(without or "", ()))
        parameter.requires_grad_(is_trained)
        if is_trained:
            trained[name] = parameter
    return trained


def round_frozen(model: nn.Module, trained: dict[str, nn.Parameter]) -> None:
    """Keeps frozen matrices in bfloat16, half the memory; autocast rounds them to it anyway.

    Args:
        model: changed in place; norms and embeddings stay float32.
        trained: parameters that stay float32 too.
    """
    kept = {id(parameter) for parameter in trained.values()}
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and id(module.weight) not in kept:
            module.to(torch.bfloat16)
