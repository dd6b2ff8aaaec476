"""A trained network becomes sources or a stage checkpoint, in the public files' form.

Foreign names come from `weights.reading.naming`; rows are put back into the published order.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.spec import ModelSpec
from weights.reading.dimensions import make_architecture, make_phi_json
from weights.reading.naming import (
    LORA_PREFIX,
    PLAIN_PREFIX,
    Target,
    TensorPart,
    make_checkpoint_table,
    make_lora_names,
    make_phi_table,
    make_qformer_table,
    make_vision_table,
)
from weights.reading.sources import (
    ARCHITECTURE_FILE,
    PHI_FOLDER,
    QFORMER_FILE,
    VISION_FILE,
    make_checkpoint_name,
    write_json,
)
from weights.synthetic.torch_saving import save_whole

_LORA_ALPHA = 16.0  # of the LoRA that later stages add
_THIRDS = {TensorPart.QUERY: 0, TensorPart.KEY: 1, TensorPart.VALUE: 2}


def write_network(folder: Path, model: TinyGptV, spec: ModelSpec) -> None:
    """Writes a network without LoRA as sources: all but the tokenizer.

    Phi-2's weights, in the fused layout, and the ViT's are rounded to float16, as the public ones
    are. The ViT's keys lose their bias, for which the public file has no place: a bias of the keys
    adds the same to all scores of a query and changes no attention.

    Args:
        folder: of the sources; phi-2/ is there.
        model: at stage 1.
        spec: its numbers.
    """
    tensors = model.state_dict()
    phi = make_phi_table(spec, "fused")
    stock = {f: t for f, t in phi.targets.items() if t.name not in phi.optional}
    files: dict[Path, tuple[Mapping[str, Target], torch.dtype]] = {
        folder / PHI_FOLDER / "pytorch_model.bin": (stock, torch.float16),
        folder / VISION_FILE: (make_vision_table(spec).targets, torch.float16),
    }
    for path, (names, dtype) in files.items():
        content = {
            foreign: _find_tensor(tensors, t, spec).to(dtype) for foreign, t in names.items()
        }
        save_whole(path, content)
    qformer = make_qformer_table(spec).targets
    save_whole(
        folder / QFORMER_FILE,
        {"model": {foreign: _find_tensor(tensors, t, spec) for foreign, t in qformer.items()}},
    )
    config = make_phi_json(spec.language, "float16")
    write_json(folder / PHI_FOLDER / "config.json", config)
    write_json(folder / ARCHITECTURE_FILE, make_architecture(spec))
    write_checkpoint(folder / make_checkpoint_name(spec.stage), model, spec, _LORA_ALPHA)


def write_checkpoint(path: Path, model: TinyGptV, spec: ModelSpec, lora_alpha: float) -> None:
    """Writes what was trained, in float32; a file that stands there is replaced as a whole.

    Args:
        path: `TinyGPT-V_for_Stage{n}.pth`.
        model: with LoRA from stage 2 on.
        spec: the network at the end of this stage.
        lora_alpha: of LoRA.
    """
    tensors = model.state_dict()
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
    content = {
        "model": {
            foreign: _find_tensor(tensors, target, spec) for foreign, target in names.items()
        },
        "optimizer": {},
        "config": {"model": {"image_size": spec.vision.image_px, "lora_alpha": lora_alpha}},
        "scaler": None,
        "epoch": 0,
    }
    save_whole(path, content)


def _find_tensor(tensors: dict[str, Tensor], target: Target, spec: ModelSpec) -> Tensor:
    """Returns a tensor, or its part, as a public file has it, in float32."""
    module = target.name.removesuffix(".weight")
    if target.part is TensorPart.LORA_A:
        return tensors[f"{module}.a"].float().cpu()
    if target.part is TensorPart.LORA_B:
        b = tensors[f"{module}.b"].float().cpu()
        return _to_heads_first(b, spec.language.n_heads) if module.endswith("qkv") else b
    tensor = tensors[target.name].float().cpu()
    if target.part in _THIRDS:
        return tensor.chunk(3)[_THIRDS[target.part]].clone()
    if target.part is TensorPart.FUSED:
        return _to_heads_first(tensor, spec.language.n_heads)
    return tensor


def _to_heads_first(rows: Tensor, n_heads: int) -> Tensor:
    """Reorders rows from [3][head][d] to [head][3][d]."""
    by_third = rows.view(3, n_heads, -1, *rows.shape[1:])  # (3, H, d, …)
    return by_third.transpose(0, 1).reshape(rows.shape)
