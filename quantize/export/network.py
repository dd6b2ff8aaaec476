"""The vision side of the sources becomes one torch module over a file of weights that is mapped.

Mapped weights are pages that the system can drop and read again. The exporter makes copies of its
own; beside them this one needs no room.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from quantize.cpu.vision_graph import fold_projections
from quantize.cuda_recipe import count_header_bytes
from tinyv_cli.model.qformer import QFormer
from tinyv_cli.model.vision import VisionTower
from tinyv_cli.progress import Progress
from tinyv_cli.spec import ModelSpec
from weights.reading.checkpoint import ReadTensor
from weights.safetensors_writer import SafetensorsWriter


class VisionSide(nn.Module):
    """ViT, ln_vision, Q-Former and folded projection.

    Attributes:
        config: what optimum asks a model for.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.vision = VisionTower(spec.vision)
        self.qformer = QFormer(spec.qformer, spec.vision.width)
        self.projection = nn.Linear(spec.qformer.width, spec.language.width)
        self.config = SimpleNamespace(image_size=spec.vision.image_px, num_channels=3)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Pixels (B, 3, S, S) → `image_tokens` (B, Q, D)."""
        return {"image_tokens": self.projection(self.qformer(self.vision(pixel_values)))}


def make_empty_side(spec: ModelSpec) -> VisionSide:
    """Builds the module on the meta device, where tensors have shapes and no memory."""
    with torch.device("meta"):
        return VisionSide(spec).eval().requires_grad_(False)


def map_vision_side(
    spec: ModelSpec, read: ReadTensor, dtype: torch.dtype, path: Path, progress: Progress
) -> VisionSide:
    """Writes the weights to a file, one in memory at a time, and builds the module around them.

    Args:
        spec: the model's numbers.
        read: returns a canonical tensor in float32.
        dtype: of the weights.
        path: of the file; it must stay as long as the module is used.
        progress: is told of each tensor.
    """
    side = make_empty_side(spec)
    names, read_folded = list(side.state_dict()), fold_projections(read)
    with (
        SafetensorsWriter(path, count_header_bytes(names)) as writer,
        progress("reading the vision side", len(names)) as bar,
    ):
        for name in names:
            writer.append(name, read_folded(name).to(dtype))
            bar.advance()
    side.load_state_dict(load_file(path), strict=True, assign=True)
    return side
