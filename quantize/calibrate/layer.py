"""One block and two streams of states become its rounded matrices, and the streams behind it.

The exact stream is what full precision computes; the rounded one has met what was rounded so far,
activations included. Each matrix is rounded when the rounded stream reaches it, so that it makes up
for those before it. Files and grids are others' business.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from quantize.calibrate.packing import Sequences
from tinyv_cli.model.phi import PhiBlock
from tinyv_cli.spec import LanguageSpec
from weights.reading.checkpoint import ReadTensor

MATRICES = ("attention.qkv", "attention.dense", "mlp.fc1", "mlp.fc2")

# A linear's name in the block, its module, inputs (P, K) and the outputs wanted (P, N) become the
# inputs as its operator takes them; the module's weight and bias are rounded in place.
RoundLinear: TypeAlias = Callable[[str, nn.Linear, Tensor, Tensor], Tensor]

# Of a product, by activations in 8 bits: the mean over positions, and the worst of them.
LARGEST_MEAN_ERROR, LARGEST_ERROR = 0.03, 0.2


def read_block(
    spec: LanguageSpec, read: ReadTensor, layer: int
) -> tuple[PhiBlock, dict[str, Tensor]]:
    """Reads a layer in float32; returns it, and its tensors by their names in it."""
    with torch.device("meta"):
        block = PhiBlock(spec, layer)
    own = {key: read(f"language.layers.{layer}.{key}") for key in block.state_dict()}
    block.load_state_dict(own, strict=True, assign=True)
    return block, own


def round_activations(x: Tensor, group: int) -> Tensor:
    """Rounds activations as MatMulNBits does at `accuracy_level` 4.

    Args:
        x: (…, K) float32.
        group: neighbouring columns that share a scale, as the matrix's weights do.

    Returns:
        The same shape: codes -127 … 127 times the scale, a 127th of the group's largest.

    Source: onnxruntime's mlas, sqnbitgemm's QuantizeARow for CompInt8.
    """
    n_columns = x.shape[-1]
    padded = nn.functional.pad(x, (0, -n_columns % group))
    padded = padded.view(*x.shape[:-1], -1, group)
    scale = padded.abs().amax(-1, keepdim=True) / 127
    codes = (padded / torch.where(scale > 0, scale, 1)).round_()
    rounded: Tensor = codes.mul_(scale).flatten(-2)[..., :n_columns]
    return rounded


def bears_8_bits(linear: nn.Linear, x: Tensor, output: Tensor, group: int) -> bool:
    """Measures whether a product bears that its activations are rounded to 8 bits.

    By position, since one whose activations are huge would hide the others in a norm over all.

    Args:
        linear: W, (N, K), and its bias.
        x: (P, K) float32.
        output: that of these, (P, N).
        group: neighbouring columns that share a scale.
    """
    exact = output - linear.bias
    errors = ((round_activations(x, group) - x) @ linear.weight.T).norm(dim=1)
    errors /= exact.norm(dim=1).clamp_min(torch.finfo(exact.dtype).tiny)
    return bool(errors.mean() <= LARGEST_MEAN_ERROR and errors.max() <= LARGEST_ERROR)


@torch.no_grad()
def round_layer(
    block: PhiBlock, exact: Sequences, rounded: Sequences, round_linear: RoundLinear
) -> tuple[Tensor, Tensor]:
    """Rounds a block's matrices in place, and computes both streams behind it.

    Args:
        block: holds full precision; afterwards what `round_linear` made of its four matrices.
        exact: states before it.
        rounded: those of the rounded stream, at the same places.
        round_linear: rounds one matrix.

    Returns:
        The exact and the rounded states behind it, (B, T, D) each.
    """
    wanted: dict[str, Tensor] = {}
    hooks = []

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        wanted[name] = output[exact.filled]

    for name in MATRICES[:-1]:
        linear = block.get_submodule(name)
        hooks.append(linear.register_forward_hook(partial(keep, name)))
    exact_out = exact.run(block)
    for hook in hooks:
        hook.remove()

    def exchange(name: str, linear: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        assert isinstance(linear, nn.Linear)
        x = torch.zeros_like(inputs[0])
        x[exact.filled] = round_linear(name, linear, inputs[0][exact.filled], wanted.pop(name))
        return (x,)

    def take_over(module: nn.Module, inputs: tuple[Tensor, ...], attended: Tensor) -> None:
        # fc2 comes last, and is asked for all that the block still lacks.
        wanted[MATRICES[-1]] = (exact_out - rounded.states - attended)[exact.filled]

    hooks = [block.post_layernorm.register_forward_hook(take_over)]
    for name in MATRICES:
        linear = block.get_submodule(name)
        hooks.append(linear.register_forward_pre_hook(partial(exchange, name)))
    rounded_out = rounded.run(block)
    for hook in hooks:
        hook.remove()
    return exact_out, rounded_out
