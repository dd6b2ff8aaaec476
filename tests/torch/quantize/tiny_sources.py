"""A tiny folder of sources, and ways to change one file of it as a broken writer would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tinyv_cli.spec import make_tiny_spec
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources
from weights.synthetic.sources import SyntheticOptions, write_sources

Tensors = dict[str, torch.Tensor]
CHECKPOINT = "TinyGPT-V_for_Stage4.pth"
PHI = "phi-2/pytorch_model.bin"
VISION = "eva_vit_g.pth"
QFORMER = "blip2_pretrained_flant5xxl.pth"
LAYER = "llama_model.base_model.model.model.layers.0.self_attn"


def write_tiny(folder: Path, stage: int = 4, **options: Any) -> Path:
    write_sources(folder, make_tiny_spec(stage), SyntheticOptions(**options))
    return folder


def read_all(folder: Path) -> Tensors:
    with open_weights(resolve_sources(folder)) as weights:
        return {name: weights.read(name) for name in weights.names}


def change_content(path: Path, change: Callable[[Any], object]) -> None:
    """Reads all that a PyTorch file holds, changes it in place and writes it again."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def change_tensors(path: Path, change: Callable[[Tensors], object]) -> None:
    change_content(path, lambda content: change(content.get("model", content)))


def find_differing(left: Tensors, right: Tensors) -> list[str]:
    """Names of tensors that are not the same bits."""
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])]
