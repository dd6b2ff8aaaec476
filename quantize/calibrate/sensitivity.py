"""A network in full precision becomes a list of what each matrix's rounding would cost at its end.

No variant is made for it: errors of one matrix at a time are carried to the logits by gradients.
Files and recipes are others' business.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from quantize.calibrate.layer import MATRICES, read_block
from quantize.calibrate.packing import Sequences
from quantize.groupwise import round_matrix
from quantize.recipe import HEAD, INT4
from tinyv_cli.model.phi import PhiBlock
from tinyv_cli.spec import LanguageSpec
from weights.reading.checkpoint import ReadTensor

_N_DRAWS = 4  # of tokens, by which gradients are taken
_SEED = 20261130


def measure_losses(
    spec: LanguageSpec, read: ReadTensor, sequences: Sequences, threads: int
) -> dict[str, float]:
    """Measures what each matrix loses by itself when it is rounded to 4 bits to the nearest.

    Args:
        spec: the language model's numbers.
        read: returns a canonical tensor in float32; each layer's are read twice.
        sequences: that are computed in full precision.
        threads: to round with.

    Returns:
        Name → about the divergence KL(exact ‖ rounded) of the next token in nats, mean over
        positions. To the second order it is half the error's square in the metric of Fisher's
        information, which is the mean of g·gᵀ, where g is the gradient of the log-likelihood of a
        token that is drawn from the exact distribution. On the miniature the order is nearly that
        of the true loss (DESIGN.md).

    Source: arXiv 2306.07629, section 4.1, has the same metric for single weights.
    """
    entering: list[Tensor] = []  # states (B, T, D) before each layer
    passed = sequences
    with torch.no_grad():
        for layer in range(spec.n_layers):
            entering.append(passed.states)
            block, _ = read_block(spec, read, layer)
            passed = replace(sequences, states=passed.run(block))
    gradients = _draw_gradients(spec, read, passed.states, sequences.filled)
    losses: dict[str, float] = {}
    for layer in reversed(range(spec.n_layers)):
        block, _ = read_block(spec, read, layer)
        block.requires_grad_(requires_grad=False)
        states = entering.pop().requires_grad_()
        out, inputs, outputs = _watch(block, replace(sequences, states=states))
        errors: dict[str, Tensor] = {}
        for name in MATRICES:
            matrix = block.get_submodule(name).get_parameter("weight")
            change = round_matrix(matrix, INT4, threads).to_matrix() - matrix
            errors[name] = inputs[name][sequences.filled] @ change.T  # (P, N)
            losses[f"language.layers.{layer}.{name}.weight"] = 0.0
        for index, gradient in enumerate(gradients):
            wanted = [states, *(outputs[name] for name in MATRICES)]
            is_last = index + 1 == len(gradients)
            found = torch.autograd.grad(out, wanted, gradient, retain_graph=not is_last)
            gradients[index] = found[0]
            for key, slope in zip(MATRICES, found[1:], strict=True):
                products = torch.zeros(sequences.filled.shape)
                products[sequences.filled] = (slope[sequences.filled] * errors[key]).sum(1)
                # A sequence as a whole: one matrix's errors at its positions go together.
                of_each = [products[row, place].sum() for row, place in sequences.places]
                loss = float(torch.stack(of_each).square().sum()) / 2
                name = f"language.layers.{layer}.{key}.weight"
                losses[name] += loss / int(sequences.filled.sum()) / len(gradients)
    return losses


def _watch(
    block: PhiBlock, sequences: Sequences
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Returns a block's output (B, T, D), and its matrices' inputs and outputs by their names."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, entered: tuple[Tensor, ...], left: Tensor) -> None:
        inputs[name], outputs[name] = entered[0].detach(), left

    for name in MATRICES:
        block.get_submodule(name).register_forward_hook(partial(keep, name))
    return sequences.run(block), inputs, outputs


def _draw_gradients(
    spec: LanguageSpec, read: ReadTensor, states: Tensor, filled: Tensor
) -> list[Tensor]:
    """Draws tokens, and returns each draw's gradient of its log-likelihood by states (B, T, D)."""
    norm = nn.LayerNorm(spec.width, eps=spec.eps)
    own = {key: read(f"language.final_layernorm.{key}") for key in norm.state_dict()}
    norm.load_state_dict(own, strict=True, assign=True)
    norm.requires_grad_(requires_grad=False)
    leaf = states[filled].requires_grad_()  # (P, D)
    normed = norm(leaf)
    head = read(HEAD)
    logits = torch.addmm(read(HEAD.replace("weight", "bias")), normed.detach(), head.T)
    likely = logits.softmax(-1)
    generator = torch.Generator().manual_seed(_SEED)
    gradients = []
    for index in range(_N_DRAWS):
        drawn = torch.multinomial(likely, 1, generator=generator)  # (P, 1)
        slope = (-likely).scatter_add_(1, drawn, torch.ones(drawn.shape)) @ head
        is_last = index + 1 == _N_DRAWS
        (found,) = torch.autograd.grad(normed, leaf, slope, retain_graph=not is_last)
        gradient = torch.zeros_like(states)
        gradient[filled] = found
        gradients.append(gradient)
    return gradients
