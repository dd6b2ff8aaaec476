"""Puts trained low-rank products beside matrices of the language model.

Source: arXiv 2106.09685 (LoRA), section 4.1: W x + (α / r) · B A x, B zero at the start.
"""

import math

import torch
from torch import Tensor, nn

from tinyv_cli.model.phi import PhiLanguage

ADAPTED = ("qkv", "dense")  # of each layer's attention, as published


class LoraLinear(nn.Module):
    """A frozen linear and a trained product of two thin matrices.

    Args:
        base: stays as it is.
        a: (r, in).
        b: (out, r), rows in the order of the base's.
        alpha: the product counts α / r times.
    """

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)
        self.scale = alpha / len(a)

    def forward(self, x: Tensor) -> Tensor:
        """Computes (…, in) → (…, out)."""
        out: Tensor = self.base(x) + self.scale * (x @ self.a.T) @ self.b.T
        return out


def make_pair(linear: nn.Linear, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Makes a pair that adds nothing yet: A uniform within 1/√in as peft makes it, B zero."""
    a = torch.empty(rank, linear.in_features)
    bound = 1 / math.sqrt(linear.in_features)
    return a.uniform_(-bound, bound, generator=generator), torch.zeros(linear.out_features, rank)


def add_lora(language: PhiLanguage, pairs: dict[str, tuple[Tensor, Tensor]], alpha: float) -> None:
    """Puts LoRA beside the adapted matrices.

    Args:
        language: changed in place.
        pairs: A and B of each name of `list_adapted`.
        alpha: of every pair.
    """
    for name, linear in list_adapted(language).items():
        parent, _, leaf = name.rpartition(".")
        setattr(language.get_submodule(parent), leaf, LoraLinear(linear, *pairs[name], alpha))


def list_adapted(language: PhiLanguage) -> dict[str, nn.Linear]:
    """Lists the matrices that LoRA goes beside, by their names within the language model."""
    names = [f"layers.{i}.attention.{m}" for i in range(len(language.layers)) for m in ADAPTED]
    linears = {}
    for name in names:
        module = language.get_submodule(name)
        assert isinstance(module, nn.Linear), "LoRA is there already"
        linears[name] = module
    return linears
