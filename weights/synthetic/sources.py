"""A spec becomes a folder of sources with random weights, of any size and in every public layout.

`python -m weights.synthetic DIR --size tiny` writes one. The numbers depend on the spec, the seed
and the dtype alone: every layout, container and naming of the same merges to the same bits. What
lies in which file is told by `plans.py`; this file knows the folder and the configs.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from itertools import accumulate
from pathlib import Path

from tinyv_cli.console import Console
from tinyv_cli.errors import UsageError
from tinyv_cli.spec import ModelSpec, make_full_spec, make_tiny_spec
from weights.reading.dimensions import make_architecture, make_phi_config
from weights.reading.naming import PHI_LAYOUTS
from weights.reading.sources import (
    ARCHITECTURE_FILE,
    PHI_FOLDER,
    QFORMER_FILE,
    STAGES,
    VISION_FILE,
    make_checkpoint_name,
    write_json,
)
from weights.synthetic.module_command import run_command
from weights.synthetic.numbers import LORA_ALPHA
from weights.synthetic.plans import (
    DTYPES,
    LORA_WRITERS,
    FilePlan,
    SyntheticOptions,
    choose_lora_rank,
    plan_checkpoint,
    plan_phi,
    plan_qformer,
    plan_vision,
)
from weights.synthetic.streaming import write_safetensors_file, write_torch_file
from weights.synthetic.tokenizer_files import make_small_merges, write_tokenizer

__all__ = ["SyntheticOptions", "main", "write_sources"]

CONTAINERS = ("bin", "bin-sharded", "safetensors", "safetensors-sharded")
_N_SHARDS = 2
_CHOICES = {
    "phi_layout": PHI_LAYOUTS,
    "container": CONTAINERS,
    "lora_names": LORA_WRITERS,
    "dtype": tuple(DTYPES),
}


def write_sources(folder: Path, spec: ModelSpec, options: SyntheticOptions) -> None:
    """Writes a whole folder of sources; one tensor at a time is in memory.

    Args:
        folder: made if need be; holds no sources yet.
        spec: its epsilons are the published ones, for no file tells them; the vocabulary has room
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
    write_json(
        phi / "config.json", make_phi_config(spec.language, options.dtype, options.phi_layout)
    )
    _write_architecture(folder, spec)
    _write_phi(phi, plan_phi(spec, options), options.container)
    write_torch_file(folder / VISION_FILE, plan_vision(spec, options))
    write_torch_file(folder / QFORMER_FILE, plan_qformer(spec, options), {})
    write_torch_file(
        folder / make_checkpoint_name(spec.stage),
        plan_checkpoint(spec, options),
        _make_surroundings(spec),
    )


def _check_options(spec: ModelSpec, options: SyntheticOptions) -> None:
    for field, choices in _CHOICES.items():
        value = getattr(options, field)
        if value not in choices:
            raise UsageError(f"{field} is {value!r}", f"use {', '.join(choices)}")
    if options.seed < 0:
        raise UsageError(f"seed is {options.seed}", "use zero or more")
    if spec.stage == 1 and options.lora_names == "base-layer":
        raise UsageError("stage 1 has no LoRA to lie over a base layer", "use a later stage")


def _write_architecture(folder: Path, spec: ModelSpec) -> None:
    architecture = make_architecture(spec)
    if architecture != make_architecture(ModelSpec()):
        write_json(folder / ARCHITECTURE_FILE, architecture)


def _write_phi(folder: Path, plan: FilePlan, container: str) -> None:
    is_torch = container.startswith("bin")
    stem, suffix = ("pytorch_model", "bin") if is_torch else ("model", "safetensors")
    write = write_torch_file if is_torch else write_safetensors_file
    if not container.endswith("sharded"):
        write(folder / f"{stem}.{suffix}", plan)
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(_split_plan(plan), start=1):
        name = f"{stem}-{i:05}-of-{_N_SHARDS:05}.{suffix}"
        write(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    size_bytes = sum(tensor.size_bytes for tensor in plan.values())
    index = {"metadata": {"total_size": size_bytes}, "weight_map": weight_map}
    write_json(folder / f"{stem}.{suffix}.index.json", index)


def _split_plan(plan: FilePlan) -> list[FilePlan]:
    """Cuts a plan into shards of about as many bytes, in its order."""
    ends = list(accumulate(tensor.size_bytes for tensor in plan.values()))
    shards: list[FilePlan] = [{} for _ in range(_N_SHARDS)]
    for (name, tensor), end in zip(plan.items(), ends, strict=True):
        shards[(end - 1) * _N_SHARDS // ends[-1]][name] = tensor
    return shards


def _make_surroundings(spec: ModelSpec) -> dict[str, object]:
    """What stands in a checkpoint beside the tensors."""
    settings = {
        "arch": "minigpt_v2",
        "lora_r": choose_lora_rank(spec),
        "lora_alpha": LORA_ALPHA,
        "image_size": spec.vision.image_px,
    }
    return {
        "optimizer": {"state": {}, "param_groups": []},
        "config": {"model": settings, "run": {"task": "image_text_pretrain"}},
        "scaler": None,
        "epoch": 0,
    }


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m weights.synthetic", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder without sources")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--stage", type=int, choices=STAGES, default=STAGES[-1])
    for field in fields(SyntheticOptions):
        flag = f"--{field.name.replace('_', '-')}"
        if field.type is bool:
            parser.add_argument(flag, action="store_true")
        else:
            kind = int if field.type is int else str
            choices = _CHOICES.get(field.name)
            parser.add_argument(flag, type=kind, choices=choices, default=field.default)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes what the command line asks for, and prints the folder.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: the command line is wrong, or the folder cannot be written.
    """
    run_command(_make_parser(), _write_asked, arguments)


def _write_asked(parsed: argparse.Namespace, _: Console) -> Path:
    spec = (make_full_spec if parsed.size == "full" else make_tiny_spec)(parsed.stage)
    chosen = {field.name: getattr(parsed, field.name) for field in fields(SyntheticOptions)}
    folder: Path = parsed.folder
    write_sources(folder, spec, SyntheticOptions(**chosen))
    return folder
