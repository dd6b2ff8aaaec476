"""The public files become the merged network's tensors, one at a time, in float32.

Here the parts that `naming` finds are put together: LoRA, the row orders of the three Phi-2
layouts, the position embedding's size.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeAlias

import torch
from torch.nn import functional

from tinyv_cli.errors import WeightsError
from tinyv_cli.spec import ModelSpec
from weights.reading.accounting import (
    POSITION_EMBEDDING,
    Claims,
    Shapes,
    TensorLocation,
    check_complete,
    check_index,
    check_shapes,
    claim_tensors,
    expected_shapes,
)
from weights.reading.containers import FETCH_HINT, TorchFile, open_tensor_file
from weights.reading.dimensions import make_spec, read_lora_alpha
from weights.reading.naming import (
    DISTRIBUTED_PREFIX,
    LORA_PREFIX,
    PHI_LAYOUTS,
    PROJECTION_WEIGHT,
    NameTable,
    TensorPart,
    make_checkpoint_table,
    make_lora_names,
    make_phi_table,
    make_qformer_table,
    make_vision_table,
)
from weights.reading.sources import SourceFiles, read_weight_map

__all__ = ["MergedWeights", "ReadTensor", "expected_shapes", "open_weights"]

ReadTensor: TypeAlias = Callable[[str], torch.Tensor]  # by its name in the merged network

_LORA_PARTS = (TensorPart.LORA_A, TensorPart.LORA_B)
_THIRDS = (TensorPart.QUERY, TensorPart.KEY, TensorPart.VALUE)
_FIRST_LORA_STAGE = 2
# The published network is kept and run in float16, whose largest number this is. One flipped bit of
# an exponent makes a weight of 0.01 one of 1e36.
_LARGEST_WEIGHT = 65504.0
_PREFIXES = ("", DISTRIBUTED_PREFIX)


class MergedWeights:
    """Every tensor of the merged network, read when asked for; nothing is kept.

    Attributes:
        files: where they are read.
        spec: the network's numbers.
        shapes: name → shape of every tensor, ordered vision, Q-Former, projection, language.
        names: of all tensors, in this order.
        lora_alpha: LoRA counts `lora_alpha` / r times.
    """

    def __init__(
        self, files: SourceFiles, spec: ModelSpec, shapes: Shapes, claims: Claims, lora_alpha: float
    ) -> None:
        """Takes claims that have been checked; use `open_weights`."""
        self.files = files
        self.spec = spec
        self.shapes = shapes
        self.names = tuple(shapes)
        self.lora_alpha = lora_alpha
        self._parts: dict[str, dict[TensorPart, TensorLocation]] = {name: {} for name in shapes}
        for target, location in claims.items():
            self._parts[target.name][target.part] = location

    def read(self, name: str) -> torch.Tensor:
        """Reads one tensor: float32, contiguous, LoRA merged, rows of qkv ordered [3][head][d].

        Raises:
            WeightsError: a number in it is not finite, or a file has been damaged since.

        Source: arXiv 2106.09685, section 4.1: W + (α / r) · B · A.
        """
        parts = self._parts[name]
        tensor = self.read_base(name)
        if TensorPart.LORA_A in parts:
            a, b = (
                _read_float32(parts[part], can_be_zero=True).double() for part in _LORA_PARTS
            )  # (r, K), (out, r)
            # In float64, so that the bits do not depend on the processor; rows are permuted after
            # the product, so that they do not depend on the layout of Phi-2 either.
            delta = (b @ a).mul_(self.lora_alpha / a.shape[0]).float()  # (out, K)
            tensor += self._to_thirds(delta) if ".qkv." in name else delta
            _check_finite(tensor, parts[TensorPart.LORA_B])
        return tensor

    def read_base(self, name: str) -> torch.Tensor:
        """Reads one tensor as `read` does, without LoRA."""
        parts = self._parts[name]
        shape = self.shapes[name]
        if not parts:  # a norm that no file has
            fill = torch.ones if name.endswith(".weight") else torch.zeros
            return fill(shape)
        if TensorPart.FUSED in parts:
            return self._to_thirds(_read_float32(parts[TensorPart.FUSED]))
        if TensorPart.WHOLE not in parts:
            empty = torch.zeros((shape[0] // 3, *shape[1:]))  # the ViT's keys have no bias
            return torch.cat([_read_float32(parts[p]) if p in parts else empty for p in _THIRDS])
        tensor = _read_float32(parts[TensorPart.WHOLE])
        if name == POSITION_EMBEDDING:
            return resize_positions(tensor, shape[1])
        return tensor

    def read_lora(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Reads LoRA's A (r, in) and B (out, r), rows of B as those of `read`; None without LoRA.

        Raises:
            WeightsError: a number in it is not finite, or a file has been damaged since.
        """
        parts = self._parts[name]
        if TensorPart.LORA_A not in parts:
            return None
        a, b = (_read_float32(parts[part], can_be_zero=True) for part in _LORA_PARTS)
        return a, self._to_thirds(b) if ".qkv." in name else b

    def _to_thirds(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns rows ordered [head][3][d] as [3][head][d]; further axes stay."""
        n_heads = self.spec.language.n_heads
        by_head = rows.view(n_heads, 3, -1, *rows.shape[1:])  # (H, 3, d, …)
        return by_head.transpose(0, 1).reshape(rows.shape)

    def close(self) -> None:
        """Drops the mappings; a later `read` renews them."""
        for parts in self._parts.values():
            for location in parts.values():
                location.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_weights(files: SourceFiles, image_px: int | None = None) -> MergedWeights:
    """Opens all sources and accounts for every tensor of every file; reads no number yet.

    Args:
        files: the sources.
        image_px: side of the pictures, where it is not to be what the files say.

    Raises:
        WeightsError: a file is damaged; a tensor is unknown, twice there, missing or misshapen; or
            the numbers in config.json, architecture.json or the checkpoint make no sense.
    """
    checkpoint = TorchFile(files.checkpoint, files.label(files.checkpoint))
    config = checkpoint.settings.get("config")
    config = {} if config is None else config
    settings = config.get("model", {}) if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        raise WeightsError(f"config.model of {checkpoint.label} is not a dict", FETCH_HINT)
    first_shapes = (checkpoint.shapes.get(f"{p}{PROJECTION_WEIGHT}") for p in _PREFIXES)
    first_shape = next((shape for shape in first_shapes if shape), (0,))
    spec = make_spec(files, settings, first_shape[0] or ModelSpec.projection_width)
    if image_px is not None:
        spec = replace(spec, vision=replace(spec.vision, image_px=image_px))
    trained = _claim_trained(checkpoint, spec)
    replaced = frozenset(target.name for target in trained if target.part not in _LORA_PARTS)
    frozen = {
        **_claim_file(files.vision, make_vision_table(spec), files, replaced),
        **_claim_file(files.qformer, make_qformer_table(spec), files, replaced),
        **_claim_phi(spec, files, replaced),
    }
    # What a checkpoint holds of Phi-2 or the Q-Former replaces the tensor of their own file.
    claims = {target: place for target, place in frozen.items() if target.name not in replaced}
    claims |= trained
    lora_shapes = (at.shape for target, at in trained.items() if target.part is TensorPart.LORA_A)
    rank = next((shape[0] for shape in lora_shapes if shape), 1)  # of the first, the others' too
    shapes = expected_shapes(spec)
    check_shapes(claims, shapes, max(rank, 1))
    return MergedWeights(files, spec, shapes, claims, read_lora_alpha(files, checkpoint.settings))


def _claim_file(
    path: Path, table: NameTable, files: SourceFiles, replaced: frozenset[str]
) -> Claims:
    file = open_tensor_file(path, files.label(path))
    claims = claim_tensors([file], table)
    check_complete(file.label, table, claims, replaced)
    return claims


def _claim_phi(spec: ModelSpec, files: SourceFiles, replaced: frozenset[str]) -> Claims:
    """Claims Phi-2's tensors in the layout that most of their names belong to."""
    shards = [open_tensor_file(path, files.label(path)) for path in files.phi]
    names = {n.removeprefix(DISTRIBUTED_PREFIX) for shard in shards for n in shard.shapes}
    tables = [make_phi_table(spec, layout) for layout in PHI_LAYOUTS]
    table = max(tables, key=lambda table: len(names & table.targets.keys()))
    claims = claim_tensors(shards, table)
    label = shards[0].label
    if files.phi_index is not None:
        label = files.label(files.phi_index)
        check_index(label, read_weight_map(files.phi_index), shards)
    check_complete(label, table, claims, replaced)
    return claims


def _claim_trained(checkpoint: TorchFile, spec: ModelSpec) -> Claims:
    """Claims what a stage trained; from stage 2 on that is never without LoRA."""
    table = make_checkpoint_table(spec)
    claims = claim_tensors([checkpoint], table)
    check_complete(checkpoint.label, table, claims)
    if spec.stage >= _FIRST_LORA_STAGE or any(target.part in _LORA_PARTS for target in claims):
        naming = "default" if any(".lora_A.default." in n for n in checkpoint.shapes) else "plain"
        layers = range(spec.language.n_layers)
        names = [make_lora_names(LORA_PREFIX, i, naming) for i in layers]
        lora = {foreign: target for layer in names for foreign, target in layer.items()}
        check_complete(checkpoint.label, NameTable(lora), claims)
    return claims


def _read_float32(location: TensorLocation, can_be_zero: bool = False) -> torch.Tensor:
    """Returns a copy of a file's tensor in float32; no other memory is used.

    Raises:
        WeightsError: a number in it is not finite or too large, or it is a matrix of zeros.
    """
    tensor = location.file.read(location.name)
    tensor = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    _check_finite(tensor, location)
    is_matrix = sum(length > 1 for length in tensor.shape) > 1  # a single row may well be zero
    if can_be_zero or not is_matrix or tensor.any():
        return tensor
    raise WeightsError(
        f"{location.name} in {location.file.label} holds nothing but zeros: it is damaged",
        FETCH_HINT,
    )


def _check_finite(tensor: torch.Tensor, location: TensorLocation) -> None:
    smallest, largest = torch.aminmax(tensor)  # a NaN is passed on to both
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        raise WeightsError(
            f"{location.name} in {location.file.label} holds numbers that are not finite",
            FETCH_HINT,
        )
    if max(-smallest, largest) > _LARGEST_WEIGHT:
        raise WeightsError(
            f"{location.name} in {location.file.label} holds a number of "
            f"{float(max(-smallest, largest)):.3g}: it is damaged",
            FETCH_HINT,
        )


def resize_positions(positions: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Resizes position embeddings to another square grid; the class token's stays.

    Args:
        positions: (1, 1 + g², D), row by row.
        n_tokens: 1 + G².

    Returns:
        (1, 1 + G², D), bicubic without antialias; the same numbers where G is g.

    Source: the published model's preparation of EVA-CLIP for 448 pixels.
    """
    if positions.shape[1] == n_tokens:
        return positions
    old, new = math.isqrt(positions.shape[1] - 1), math.isqrt(n_tokens - 1)
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # (1, D, g, g)
    resized = functional.interpolate(
        grid.double(), size=(new, new), mode="bicubic", align_corners=False
    )
    patches = resized.to(positions.dtype).permute(0, 2, 3, 1).flatten(1, 2)  # (1, G², D)
    return torch.cat([positions[:, :1], patches], dim=1)
