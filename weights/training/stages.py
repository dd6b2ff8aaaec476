"""What each of the four stages trains, and how a learning rate goes: data and two formulas.

Steps, rates and pictures as they were published are in `published.toml`.

Source: MODEL.md, section 4 (arXiv 2312.16862, section 3.3, and the published configurations).
"""

import math
from dataclasses import dataclass

from torch import nn

from tinyv_cli.errors import UsageError


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        number: 1 to 4.
        has_lora: whether LoRA is trained, beside projections and norms.
    """

    number: int
    has_lora: bool


STAGES = {number: Stage(number, has_lora=number > 1) for number in (1, 2, 3, 4)}


def find_stage(number: int) -> Stage:
    """The stage of a number.

    Raises:
        UsageError: there is none.
    """
    if number not in STAGES:
        raise UsageError(f"there is no stage {number}", "use 1, 2, 3 or 4")
    return STAGES[number]


def thaw(model: nn.Module, stage: Stage) -> dict[str, nn.Parameter]:
    """Freezes everything but what the stage trains.

    Returns:
        The trained parameters by name: both projections, the weights (not the biases) of the
        language model's norms, and from stage 2 on LoRA.
    """
    trained = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name, stage))
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def is_trained(name: str, stage: Stage) -> bool:
    """Tells whether a stage trains a parameter, by its name in the model."""
    if name.startswith("projection."):
        return True
    if not name.startswith("language."):
        return False
    return name.endswith("layernorm.weight") or (stage.has_lora and name.endswith((".a", ".b")))


def compute_rate(
    step: int, n_steps: int, n_warm_up: int, rates: tuple[float, float, float]
) -> float:
    """The learning rate of a step: linear to the peak, then half a cosine to the end.

    Args:
        step: from 0.
        n_steps: of the whole run.
        n_warm_up: steps to the peak.
        rates: at step 0, at the peak, at the end.

    Source: LAVIS, `LinearWarmupCosineLRScheduler`.
    """
    first, peak, last = rates
    if step < n_warm_up:
        return first + (peak - first) * step / n_warm_up
    share = (step - n_warm_up) / max(1, n_steps - n_warm_up)
    return last + (peak - last) * (1 + math.cos(math.pi * share)) / 2
