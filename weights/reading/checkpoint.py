"""The public files become the merged network's tensors, one at a time, in float32.

Knows how the parts that `naming` finds go together: LoRA, the row orders of the three Phi-2
layouts, the position embedding's size. Does not know the network's arithmetic.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch
from torch.nn import functional

from tinyv_cli.errors import WeightsError
from tinyv_cli.spec import ModelSpec
from weights.reading.accounting import (
    POSITION_EMBEDDING,
    Claims,
    TensorLocation,
    check_complete,
    check_index,
    check_shapes,
    claim_tensors,
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
from weights.reading.shapes import Shape, expected_shapes
from weights.reading.sources import SourceFiles, read_weight_map

__all__ = ["MergedWeights", "ReadTensor", "expected_shapes", "open_weights"]

ReadTensor: TypeAlias = Callable[[str], torch.Tensor]  # by its name in the merged network

_LORA_PARTS = (TensorPart.LORA_A, TensorPart.LORA_B)
_THIRDS = (TensorPart.QUERY, TensorPart.KEY, TensorPart.VALUE)
_FIRST_LORA_STAGE = 2


class MergedWeights:
    """Every tensor of the merged network, read when asked for; nothing is kept.

    Attributes:
        spec: the network's numbers.
        files: where they were read.
        names: of all tensors, ordered vision, Q-Former, projection, language.
        lora_alpha: LoRA counts `lora_alpha` / r times.
    """

    def __init__(
        self, spec: ModelSpec, files: SourceFiles, claims: Claims, lora_alpha: float, rank: int
    ) -> None:
        """Takes claims that have been checked; use `open_weights`."""
        self.spec = spec
        self.files = files
        self._shapes = expected_shapes(spec)
        self.names = tuple(self._shapes)
        self.lora_alpha = lora_alpha
        self._lora_scale = lora_alpha / rank
        self._parts: dict[str, dict[TensorPart, TensorLocation]] = {name: {} for name in self.names}
        for target, origin in claims.items():
            self._parts[target.name][target.part] = origin

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Name → shape of every tensor of the merged network."""
        return self._shapes

    def read(self, name: str) -> torch.Tensor:
        """One tensor: float32, contiguous, LoRA merged, rows of qkv ordered [3][head][d].

        Raises:
            WeightsError: a number in it is not finite, or a file has been damaged since.
        """
        parts = self._parts[name]
        tensor = self.read_base(name)
        if TensorPart.LORA_A in parts:
            tensor += self._read_lora(name, parts)
            _check_finite(tensor, parts[TensorPart.LORA_B])
        return tensor

    def read_base(self, name: str) -> torch.Tensor:
        """As `read`, without LoRA."""
        parts = self._parts[name]
        if not parts:  # a norm that no file has
            fill = torch.ones if name.endswith(".weight") else torch.zeros
            return fill(self._shapes[name])
        if TensorPart.FUSED in parts:
            return self._to_thirds(_read_float32(parts[TensorPart.FUSED]))
        if TensorPart.WHOLE not in parts:
            return self._read_thirds(name, parts)
        tensor = _read_float32(parts[TensorPart.WHOLE])
        if name == POSITION_EMBEDDING:
            return resize_positions(tensor, self._shapes[name][1])
        return tensor

    def read_lora(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """LoRA's A (r, in) and B (out, r), rows of B as those of `read`; None where there is none.

        Raises:
            WeightsError: a number in it is not finite, or a file has been damaged since.
        """
        parts = self._parts[name]
        if TensorPart.LORA_A not in parts:
            return None
        a, b = (_read_float32(parts[part]) for part in _LORA_PARTS)
        return a, self._to_thirds(b) if ".qkv." in name else b

    def _read_thirds(self, name: str, parts: Mapping[TensorPart, TensorLocation]) -> torch.Tensor:
        """Queries, keys and values below one another; the ViT's keys have no bias."""
        n_out, *rest = self._shapes[name]
        empty = torch.zeros((n_out // 3, *rest))
        return torch.cat([_read_float32(parts[p]) if p in parts else empty for p in _THIRDS])

    def _read_lora(self, name: str, parts: Mapping[TensorPart, TensorLocation]) -> torch.Tensor:
        """(α / r) · B · A, multiplied in the order of B's rows so that its bits know no layout.

        In float64, so that they know no processor either.

        Source: arXiv 2106.09685, section 4.1.
        """
        a = _read_float32(parts[TensorPart.LORA_A]).double()  # (r, K)
        b = _read_float32(parts[TensorPart.LORA_B]).double()  # (out, r)
        delta = (b @ a).mul_(self._lora_scale).float()  # (out, K)
        return self._to_thirds(delta) if ".qkv." in name else delta

    def _to_thirds(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows ordered [head][3][d] → [3][head][d]; further axes stay."""
        n_heads = self.spec.language.n_heads
        by_head = rows.view(n_heads, 3, -1, *rows.shape[1:])  # (H, 3, d, …)
        return by_head.transpose(0, 1).reshape(rows.shape)

    def close(self) -> None:
        """Drops the mappings; a later `read` renews them."""
        for parts in self._parts.values():
            for origin in parts.values():
                origin.file.close()

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
    settings = _read_settings(checkpoint)
    spec = make_spec(files, settings, _read_projection_width(checkpoint))
    if image_px is not None:
        spec = replace(spec, vision=replace(spec.vision, image_px=image_px))
    trained = _claim_trained(checkpoint, spec)
    replaced = frozenset(target.name for target in trained if target.part not in _LORA_PARTS)
    frozen = {
        **_claim_file(files.vision, make_vision_table(spec), files, replaced),
        **_claim_file(files.qformer, make_qformer_table(spec), files, replaced),
        **_claim_phi(spec, files, replaced),
    }
    kept = {target: origin for target, origin in frozen.items() if target.name not in replaced}
    claims = kept | trained
    rank = _read_lora_rank(trained)
    check_shapes(claims, spec, rank)
    return MergedWeights(spec, files, claims, read_lora_alpha(files, settings), rank)


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


def _read_settings(checkpoint: TorchFile) -> Mapping[str, Any]:
    """`config.model` of a checkpoint; empty where it has none."""
    config = {} if checkpoint.config is None else checkpoint.config
    settings = config.get("model", {}) if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        raise WeightsError(f"config.model of {checkpoint.label} is no dict", FETCH_HINT)
    return settings


def _read_projection_width(checkpoint: TorchFile) -> int:
    """Rows of the first projection; the published number where its shape tells none."""
    shapes = (
        checkpoint.shapes.get(f"{prefix}{PROJECTION_WEIGHT}") for prefix in ("", DISTRIBUTED_PREFIX)
    )
    shape = next((shape for shape in shapes if shape), None)
    return shape[0] if shape and shape[0] else ModelSpec.projection_width


def _read_lora_rank(trained: Claims) -> int:
    """Rows of the first A; 1 without LoRA. The others are then held against it."""
    shapes = (
        origin.shape for target, origin in trained.items() if target.part is TensorPart.LORA_A
    )
    shape = next(shapes, ())
    return max(shape[0], 1) if shape else 1


def _read_float32(origin: TensorLocation) -> torch.Tensor:
    """A copy of a file's tensor in float32; no other memory is used.

    Raises:
        WeightsError: a number in it is not finite.
    """
    tensor = origin.file.read(origin.name)
    tensor = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    _check_finite(tensor, origin)
    return tensor


def _check_finite(tensor: torch.Tensor, origin: TensorLocation) -> None:
    smallest, largest = torch.aminmax(tensor)  # a NaN is passed on to both
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        raise WeightsError(
            f"{origin.name} in {origin.file.label} holds numbers that are not finite", FETCH_HINT
        )


def resize_positions(positions: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Position embeddings for another square grid; the class token's stays.

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
