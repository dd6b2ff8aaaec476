"""A spec and options become the plan of each source file: which tensors it holds, and how made.

Names come from `weights.reading.naming`, numbers from `numbers.py`; nothing is written here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from tinyv_cli.spec import ModelSpec
from weights.reading.accounting import (
    POSITION_EMBEDDING,
    Shape,
    expected_shapes,
    make_foreign_shape,
)
from weights.reading.naming import (
    DISTRIBUTED_PREFIX,
    LORA_PREFIX,
    PLAIN_PREFIX,
    POSITION_IDS,
    Names,
    Target,
    TensorPart,
    make_base_layer_names,
    make_checkpoint_table,
    make_lora_names,
    make_phi_table,
    make_qformer_table,
    make_vision_table,
)
from weights.synthetic.numbers import make_numbers
from weights.synthetic.streaming import PlannedTensor, TensorPlan

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
LORA_WRITERS = ("plain", "default", "base-layer")
_POSITIONS_PX = 224  # the ViT's position embedding was learned at this size
_THIRDS = {TensorPart.QUERY: "query", TensorPart.KEY: "key", TensorPart.VALUE: "value"}
_REPLACED = "replaced."  # before the names of numbers that the checkpoint's replace
_UNUSED_WIDTH = 16  # of the projection to T5 and of the ViT's head, which are not run


@dataclass(frozen=True)
class SyntheticOptions:
    """The public form in which a network is written.

    Attributes:
        phi_layout: fused, split or msft.
        container: of Phi-2: bin, bin-sharded, safetensors or safetensors-sharded.
        lora_names: plain (peft up to 0.2), default (since 0.3), or base-layer (since 0.7, with the
            matrices beneath LoRA in the checkpoint too).
        dtype: of Phi-2 and the ViT; the numbers are rounded to it.
        seed: of all numbers.
        qformer_in_checkpoint: the checkpoint brings the Q-Former, and BLIP-2's file holds others.
        module_prefix: the checkpoint's names begin with `module.`.
    """

    phi_layout: str = "fused"
    container: str = "bin"
    lora_names: str = "plain"
    dtype: str = "float16"
    seed: int = 0
    qformer_in_checkpoint: bool = False
    module_prefix: bool = False


def choose_lora_rank(spec: ModelSpec) -> int:
    """Returns the published 64, or less in a narrower network."""
    return max(1, min(64, spec.language.width // 20))


def plan_vision(spec: ModelSpec, options: SyntheticOptions) -> TensorPlan:
    """Plans eva_vit_g.pth, with the block, norm and head that are not run."""
    planner = _Planner(spec, options, DTYPES[options.dtype])
    table, width = make_vision_table(spec), spec.vision.width
    plan = planner.plan(table.targets)
    last = f"blocks.{spec.vision.n_layers}."
    shapes: dict[str, Shape] = {
        **{f: plan[f.replace(last, "blocks.0.")].shape for f in table.unused if last in f},
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (_UNUSED_WIDTH, width),
        "head.bias": (_UNUSED_WIDTH,),
    }
    for foreign in sorted(shapes):
        plan[foreign] = planner.plan_unused(foreign, shapes[foreign])
    return plan


def plan_qformer(spec: ModelSpec, options: SyntheticOptions) -> TensorPlan:
    """Plans blip2_pretrained_flant5xxl.pth, with the projection to T5 that is not run."""
    planner = _Planner(spec, options, torch.float32)
    targets = make_qformer_table(spec).targets
    plan = planner.plan(targets)
    if options.qformer_in_checkpoint:
        qformer = {foreign: target for foreign, target in targets.items() if _is_qformer(target)}
        plan |= planner.plan(qformer, _REPLACED)
    shapes: dict[str, Shape] = {
        "t5_proj.weight": (_UNUSED_WIDTH, spec.qformer.width),
        "t5_proj.bias": (_UNUSED_WIDTH,),
    }
    plan |= {name: planner.plan_unused(name, shape) for name, shape in shapes.items()}
    return plan | _plan_position_ids()


def plan_phi(spec: ModelSpec, options: SyntheticOptions) -> TensorPlan:
    """Plans Phi-2's weights, all in one; norms that the checkpoint brings are others."""
    planner = _Planner(spec, options, DTYPES[options.dtype])
    table = make_phi_table(spec, options.phi_layout)
    stock = {f: target for f, target in table.targets.items() if target.name not in table.optional}
    plan = planner.plan(stock)
    norms = {foreign: target for foreign, target in stock.items() if _is_trained_norm(target)}
    return plan | planner.plan(norms, _REPLACED)


def plan_checkpoint(spec: ModelSpec, options: SyntheticOptions) -> TensorPlan:
    """Plans the `model` of a stage's checkpoint; stage 1 has no LoRA and a prefix of its own."""
    planner = _Planner(spec, options, torch.float32)
    prefix = PLAIN_PREFIX if spec.stage == 1 else LORA_PREFIX
    phi = make_phi_table(spec, "fused").targets
    names: Names = {
        foreign: target
        for foreign, target in make_checkpoint_table(spec).targets.items()
        if target.name.startswith("projection.")
        or (options.qformer_in_checkpoint and _is_qformer(target))
    }
    names |= {f"{prefix}{foreign}": t for foreign, t in phi.items() if _is_trained_norm(t)}
    beneath: Names = {}
    if spec.stage > 1:
        naming = "plain" if options.lora_names == "plain" else "default"
        for i in range(spec.language.n_layers):
            names |= make_lora_names(prefix, i, naming)
            beneath |= make_base_layer_names(prefix, i)
    plan = planner.plan(names) | _plan_position_ids()
    if options.lora_names == "base-layer":
        plan |= planner.plan(beneath, rounded=DTYPES[options.dtype])
    start = DISTRIBUTED_PREFIX if options.module_prefix else ""
    return {f"{start}{name}": tensor for name, tensor in plan.items()}


def _is_qformer(target: Target) -> bool:
    return target.name.startswith("qformer.")


def _is_trained_norm(target: Target) -> bool:
    return target.name.startswith("language.") and target.name.endswith("layernorm.weight")


def _plan_position_ids() -> TensorPlan:
    """Plans BERT's buffer, which is not used."""
    ids = torch.arange(512).unsqueeze(0)
    return {POSITION_IDS: PlannedTensor((1, 512), torch.int64, lambda: ids)}


class _Planner:
    """Plans the tensors of one network, as one file has them."""

    def __init__(self, spec: ModelSpec, options: SyntheticOptions, dtype: torch.dtype) -> None:
        self._seed = options.seed
        self._dtype = dtype
        self._rank = choose_lora_rank(spec)
        self._n_heads = spec.language.n_heads
        self._shapes = expected_shapes(spec)
        grid = _POSITIONS_PX // spec.vision.patch_px
        self._shapes[POSITION_EMBEDDING] = (1, 1 + grid**2, spec.vision.width)

    def plan(
        self, names: Mapping[str, Target], start: str = "", rounded: torch.dtype | None = None
    ) -> TensorPlan:
        """Plans tensors by their places.

        Args:
            names: foreign name → place.
            start: before the name that seeds the numbers, for others than the network's.
            rounded: a dtype to round to before the file's.
        """
        return {
            foreign: self._plan_one(
                make_foreign_shape(target, self._shapes, self._rank),
                partial(self._make_part, target, start),
                rounded,
            )
            for foreign, target in names.items()
        }

    def plan_unused(self, name: str, shape: Shape) -> PlannedTensor:
        """Plans a tensor that is not of the network."""
        return self._plan_one(shape, partial(self._make, f"unused.{name}", shape))

    def _plan_one(
        self,
        shape: Shape,
        make: Callable[[], torch.Tensor],
        rounded: torch.dtype | None = None,
    ) -> PlannedTensor:
        first = rounded or self._dtype
        return PlannedTensor(shape, self._dtype, lambda: make().to(first).to(self._dtype))

    def _make_part(self, target: Target, start: str) -> torch.Tensor:
        """Makes what a file holds of a tensor of ours; the thirds of qkv are made one by one."""
        shape = make_foreign_shape(target, self._shapes, self._rank)
        if target.part in (TensorPart.LORA_A, TensorPart.LORA_B):
            return self._make(f"{start}{target.name}.{target.part.name.lower()}", shape)
        if target.part in _THIRDS:
            return self._make_third(target, start, _THIRDS[target.part])
        if ".qkv." not in target.name:
            return self._make(f"{start}{target.name}", shape)
        thirds = [self._make_third(target, start, third) for third in _THIRDS.values()]
        if target.part is TensorPart.WHOLE:
            return torch.cat(thirds)  # (3D, …)
        by_head = [third.reshape(self._n_heads, -1, *shape[1:]) for third in thirds]
        return torch.stack(by_head, dim=1).reshape(shape)  # [head][3][d]

    def _make_third(self, target: Target, start: str, third: str) -> torch.Tensor:
        n_out, *rest = self._shapes[target.name]
        name = target.name.replace("qkv", f"qkv.{third}")
        return self._make(f"{start}{name}", (n_out // 3, *rest))

    def _make(self, name: str, shape: Shape) -> torch.Tensor:
        return torch.from_numpy(make_numbers(name, shape, self._seed))
