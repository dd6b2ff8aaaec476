"""A spec becomes a folder of sources with random weights, of any size and in every public layout.

The numbers depend on the spec, the seed and the dtype alone: every layout, container and naming of
the same merges to the same bits. `plans.py` says which tensors lie in which file.
"""

from itertools import accumulate
from pathlib import Path

from tinyv_cli.errors import UsageError
from tinyv_cli.spec import ModelSpec
from weights.reading.dimensions import make_architecture, make_phi_json
from weights.reading.naming import PHI_LAYOUTS
from weights.reading.sources import (
    ARCHITECTURE_FILE,
    PHI_FOLDER,
    QFORMER_FILE,
    VISION_FILE,
    make_checkpoint_name,
    write_json,
)
from weights.synthetic.numbers import LORA_ALPHA
from weights.synthetic.plans import (
    DTYPES,
    LORA_WRITERS,
    SyntheticOptions,
    choose_lora_rank,
    plan_checkpoint,
    plan_phi,
    plan_qformer,
    plan_vision,
)
from weights.synthetic.streaming import (
    TensorPlan,
    write_safetensors_file,
    write_torch_file,
)
from weights.synthetic.tokenizer_files import make_small_merges, write_tokenizer

CONTAINERS = ("bin", "bin-sharded", "safetensors", "safetensors-sharded")
_N_SHARDS = 2
CHOICES = {
    "phi_layout": PHI_LAYOUTS,
    "container": CONTAINERS,
    "lora_names": LORA_WRITERS,
    "dtype": tuple(DTYPES),
}


def write_sources(folder: Path, spec: ModelSpec, options: SyntheticOptions) -> None:
    """Writes a whole folder of sources; one tensor at a time is in memory.

    Args:
        folder: made if need be; holds no sources yet.
        spec: its epsilons are the published ones, for no file holds them; the vocabulary has room
            for the tokenizer's 350 tokens.
        options: in which form.

    Raises:
        UsageError: an option has no such value, does not go with the stage, or the folder holds
            sources.
    """
    _check_options(spec, options)
    phi = folder / PHI_FOLDER
    if phi.exists():
        raise UsageError(f"{folder} holds sources already", "name a new folder, or remove it")
    phi.mkdir(parents=True)
    if write_tokenizer(phi, make_small_merges()) > spec.language.vocab_size:
        raise UsageError(
            f"a vocabulary of {spec.language.vocab_size} is too small for the tokenizer",
            "use 512 or more",
        )
    write_json(phi / "config.json", make_phi_json(spec.language, options.dtype, options.phi_layout))
    architecture = make_architecture(spec)
    if architecture != make_architecture(ModelSpec()):
        write_json(folder / ARCHITECTURE_FILE, architecture)
    _write_phi(phi, plan_phi(spec, options), options.container)
    write_torch_file(folder / VISION_FILE, plan_vision(spec, options))
    write_torch_file(folder / QFORMER_FILE, plan_qformer(spec, options), {})
    settings = {
        "arch": "minigpt_v2",
        "lora_r": choose_lora_rank(spec),
        "lora_alpha": LORA_ALPHA,
        "image_size": spec.vision.image_px,
    }
    write_torch_file(
        folder / make_checkpoint_name(spec.stage),
        plan_checkpoint(spec, options),
        {
            "optimizer": {"state": {}, "param_groups": []},
            "config": {"model": settings, "run": {"task": "image_text_pretrain"}},
            "scaler": None,
            "epoch": 0,
        },
    )


def _check_options(spec: ModelSpec, options: SyntheticOptions) -> None:
    for field, choices in CHOICES.items():
        value = getattr(options, field)
        if value not in choices:
            raise UsageError(f"{field} is {value!r}", f"use {', '.join(choices)}")
    if options.seed < 0:
        raise UsageError(f"seed is {options.seed}", "use zero or more")
    if spec.stage == 1 and options.lora_names == "base-layer":
        raise UsageError("stage 1 has no LoRA to lie over a base layer", "use a later stage")


def _write_phi(folder: Path, plan: TensorPlan, container: str) -> None:
    is_torch = container.startswith("bin")
    stem, suffix = ("pytorch_model", "bin") if is_torch else ("model", "safetensors")
    write = write_torch_file if is_torch else write_safetensors_file
    if not container.endswith("sharded"):
        write(folder / f"{stem}.{suffix}", plan)
        return
    weight_map: dict[str, str] = {}
    # Shards of about as many bytes, in the plan's order.
    ends = list(accumulate(tensor.size_bytes for tensor in plan.values()))
    shards: list[TensorPlan] = [{} for _ in range(_N_SHARDS)]
    for (tensor_name, tensor), end in zip(plan.items(), ends, strict=True):
        shards[(end - 1) * _N_SHARDS // ends[-1]][tensor_name] = tensor
    for i, shard in enumerate(shards, start=1):
        name = f"{stem}-{i:05}-of-{_N_SHARDS:05}.{suffix}"
        write(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": ends[-1]}, "weight_map": weight_map}
    write_json(folder / f"{stem}.{suffix}.index.json", index)
