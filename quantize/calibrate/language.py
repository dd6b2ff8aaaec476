"""The language model's tensors are handed out layer by layer, rounded for what they will meet.

A writer asks for tensors in its own order, a layer after the other. When it comes to a layer, that
is read once, the streams of states pass through it, and its matrices are rounded. Never more than
one layer and the states are in memory.
"""

import re
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from quantize.calibrate.grids import AffineGrid, Nf4Grid
from quantize.calibrate.kept import KeptLayers
from quantize.calibrate.layer import (
    MATRICES,
    bears_8_bits,
    read_block,
    round_activations,
    round_layer,
)
from quantize.calibrate.packing import Sequences
from quantize.calibrate.rounding import Settings, calibrate_matrix
from quantize.recipe import Recipe
from tinyv_cli.machine.memory import give_back_freed
from tinyv_cli.model.phi import PhiBlock
from tinyv_cli.spec import LanguageSpec
from weights.reading.checkpoint import ReadTensor

_LAYER = re.compile(r"language\.layers\.(\d+)\.(.+)")
_UNFIT = "unfit "
_MEASURED_POSITIONS = 256  # of them is told whether products bear rounded activations


class Target(Protocol):
    """How the files of a device keep matrices and multiply them."""

    def make_grid(self, name: str, matrix: Tensor, weights: Tensor) -> AffineGrid | Nf4Grid:
        """Makes the numbers that a matrix (N, K) may take, each column (K) weighted."""

    def round_inputs(self, name: str, x: Tensor) -> Tensor:
        """Rounds a matrix's inputs (P, K) as the operator does."""


@dataclass(frozen=True)
class CpuTarget:
    """onnxruntime's MatMulNBits: affine groups, activations in 8 bits by group."""

    recipe: Recipe
    threads: int

    def make_grid(self, name: str, matrix: Tensor, weights: Tensor) -> AffineGrid:
        """As `Target`."""
        return AffineGrid(matrix, weights, self.recipe.rounding(name), self.threads)

    def round_inputs(self, name: str, x: Tensor) -> Tensor:
        """As `Target`."""
        return round_activations(x, self.recipe.rounding(name).fit(x.shape[1]).group)


class CudaTarget:
    """bitsandbytes' NF4: activations stay as they are."""

    def make_grid(self, name: str, matrix: Tensor, weights: Tensor) -> Nf4Grid:
        """As `Target`."""
        return Nf4Grid(matrix, weights)

    def round_inputs(self, name: str, x: Tensor) -> Tensor:
        """As `Target`."""
        return x


@dataclass
class Calibration:
    """What matrices are rounded for, and how.

    Attributes:
        exact: the exact stream's states.
        rounded: the rounded stream's, at the same places.
        target: of the codes.
        kept: takes each layer when it is done, so that a killed process goes on behind it.
        settings: how far the recipe goes.
    """

    exact: Sequences
    rounded: Sequences
    target: Target
    kept: KeptLayers
    settings: Settings = field(default_factory=Settings)


class LanguagePass:
    """One pass through the language model's layers, in their order.

    Args:
        spec: the language model's numbers.
        read: returns a canonical tensor in float32.
        measured: sequences that full precision is to be computed for, besides; their states are
            those behind the layers that were asked for.
        calibration: None: matrices are handed out as they are.
        recipe: of files whose matrices round their activations; None: they do not.

    Attributes:
        unfit: matrices that the measured sequences send activations which 8 bits do not hold.
    """

    def __init__(
        self,
        spec: LanguageSpec,
        read: ReadTensor,
        measured: Sequences,
        calibration: Calibration | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        self.unfit: set[str] = set()
        self._measured = measured
        self._spec, self._read, self._recipe = spec, read, recipe
        self._calibration = calibration
        self._layer, self._computed = -1, -1
        self._tensors: dict[str, Tensor] = {}
        self._arrays: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor:
        """Returns a tensor; of a layer's once: biases as they go with the rounded matrices."""
        self._enter(name)
        bias = self._arrays.get(name)
        if bias is not None:
            return bias
        tensor = self._tensors.pop(name, None)
        return self._read(name) if tensor is None else tensor

    def find(self, name: str) -> dict[str, Tensor] | None:
        """Returns the arrays of a rounded matrix, None for every other tensor."""
        self._enter(name)
        beginning = f"{name}:"
        found = {
            key.removeprefix(beginning): array
            for key, array in self._arrays.items()
            if key.startswith(beginning)
        }
        return found or None

    @torch.no_grad()
    def _enter(self, name: str) -> None:
        """Reads and rounds a tensor's layer, unless it is the one that was asked for last."""
        found = _LAYER.fullmatch(name)
        layer = self._layer if found is None else int(found[1])
        if layer == self._layer:
            return
        assert layer == self._layer + 1, "layers are asked for in another order"
        self._layer = layer
        kept = self._calibration.kept.load(layer) if self._calibration else None
        if kept is not None:
            self._arrays, self._tensors = kept, {}
            self.unfit.update(str(key)[len(_UNFIT) :] for key in kept if key.startswith(_UNFIT))
            return
        self._restore()
        give_back_freed()  # a layer's pieces add up to 0.9 GB at full size
        at = f"language.layers.{layer}"
        block, own = read_block(self._spec, self._read, layer)
        self._tensors = {f"{at}.{key}": tensor for key, tensor in own.items()}
        self._measure(block, at)
        if self._calibration is not None:
            self._arrays = {}
            self._round(block, at, self._calibration)
            self._calibration.kept.save(layer, self._arrays, self._states())
        self._computed = layer

    def _measure(self, block: PhiBlock, at: str) -> None:
        """Computes what full precision makes of the measured sequences."""
        hooks = []
        places = self._measured.filled.nonzero()
        at_places = places[:: max(1, len(places) // _MEASURED_POSITIONS)].unbind(1)

        def watch(name: str, linear: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            assert self._recipe is not None
            assert isinstance(linear, nn.Linear)
            rounding = self._recipe.rounding(name)
            group = rounding.fit(linear.in_features).group
            x, output = inputs[0][at_places], out[at_places]
            if rounding.has_codes and not bears_8_bits(linear, x, output, group):
                self.unfit.add(name)

        for name in MATRICES if self._recipe else ():
            hook = partial(watch, f"{at}.{name}.weight")
            hooks.append(block.get_submodule(name).register_forward_hook(hook))
        self._measured = replace(self._measured, states=self._measured.run(block))
        for each in hooks:
            each.remove()

    def _round(self, block: PhiBlock, at: str, calibration: Calibration) -> None:
        """Rounds a block's matrices, keeps their arrays, and moves the streams behind it."""
        target = calibration.target

        def round_linear(key: str, linear: nn.Linear, x: Tensor, wanted: Tensor) -> Tensor:
            name = f"{at}.{key}.weight"
            if name in self.unfit:
                self._arrays[f"{_UNFIT}{name}"] = torch.empty(0)
            else:
                x = target.round_inputs(name, x)
            grids = []

            def make_grid(matrix: Tensor, weights: Tensor) -> AffineGrid | Nf4Grid:
                grids.append(target.make_grid(name, matrix, weights))
                return grids[0]

            found = calibrate_matrix(linear.weight, x, wanted, make_grid, calibration.settings)
            linear.weight.data, linear.bias.data = found.matrix, found.bias
            for suffix, array in grids[0].to_arrays(found.matrix).items():
                self._arrays[f"{name}:{suffix}"] = array
            self._arrays[f"{at}.{key}.bias"] = found.bias
            del self._tensors[name]
            return x

        exact, rounded = round_layer(block, calibration.exact, calibration.rounded, round_linear)
        calibration.exact = replace(calibration.exact, states=exact)
        calibration.rounded = replace(calibration.rounded, states=rounded)

    def _states(self) -> dict[str, Tensor]:
        assert self._calibration is not None
        streams = {"exact": self._calibration.exact, "rounded": self._calibration.rounded}
        streams["measured"] = self._measured
        return {key: stream.states for key, stream in streams.items()}

    def _restore(self) -> None:
        """Goes on where a killed process stopped."""
        calibration = self._calibration
        if calibration is None or self._layer == self._computed + 1:
            return
        states = calibration.kept.load_states()
        calibration.exact = replace(calibration.exact, states=states["exact"])
        calibration.rounded = replace(calibration.rounded, states=states["rounded"])
        self._measured = replace(self._measured, states=states["measured"])

    def finish(self) -> list[Tensor]:
        """Returns the measured sequences' states behind the last layer, (T, D) each."""
        if self._layer != self._computed:
            self._layer += 1
            self._restore()
        states = self._measured.states
        return [states[row, place] for row, place in self._measured.places]
