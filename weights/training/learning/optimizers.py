"""Parameters by name become the optimizers that change them; a step's number a learning rate."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tinyv_cli.errors import UsageError

_BETAS = (0.9, 0.999)  # source: MiniGPT-4's configurations, which TinyGPT-V's follow
_WEIGHT_DECAY = 0.05
_TABLES = ("embed_tokens.weight", "lm_head.weight")  # a row a token: no product of all of it


def make_optimizers(trained: Mapping[str, nn.Parameter], kind: str) -> list[torch.optim.Optimizer]:
    """Makes AdamW for all, or Muon for matrices and AdamW for the rest; vectors do not decay.

    Muon's steps are scaled to the size of AdamW's, so that both go by one learning rate.

    Args:
        trained: parameters by their names in the model.
        kind: one of `recipe.OPTIMIZERS`.

    Raises:
        UsageError: this torch has no Muon.

    Source: Jordan et al., "Muon" (2024); its scale, arXiv 2502.16982, section 2.2.
    """
    if kind == "adamw":
        return [_make_adamw(list(trained.values()))]
    if not hasattr(torch.optim, "Muon"):
        raise UsageError(f"torch {torch.__version__} has no Muon", "install torch 2.9 or newer")
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, each in trained.items():
        (matrices if each.ndim == 2 and not name.endswith(_TABLES) else others).append(each)
    muon = torch.optim.Muon(matrices, weight_decay=_WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    return [muon, _make_adamw(others)]


def _make_adamw(parameters: Sequence[Tensor]) -> torch.optim.AdamW:
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": _WEIGHT_DECAY},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=_BETAS, fused=True)


def compute_rate(
    step: int, n_steps: int, n_warm_up: int, rates: tuple[float, float, float]
) -> float:
    """Computes the learning rate of a step: linear to the peak, then half a cosine to the end.

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
