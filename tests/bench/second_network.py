"""Calibrated rounding on a second trained network, IgLM: its divergence beside the nearest's.

The miniature is the only trained network of the model's own shape; a recipe that was tuned on it
might fit nothing else. IgLM writes antibodies, 13 million weights in GPT-2's blocks, with biases
everywhere: so the arithmetic of `quantize.calibrate` is tried, not its way through Phi's block. It
is calibrated on sequences that the network draws itself, and measured on others.

    pip download --no-deps iglm==0.1.0 && unzip -d iglm iglm-0.1.0-*.whl
    python -m tests.bench.second_network iglm/iglm/trained_models/IgLM
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from quantize.calibrate.grids import AffineGrid
from quantize.calibrate.layer import round_activations
from quantize.calibrate.rounding import Settings, calibrate_matrix
from quantize.groupwise import round_matrix
from quantize.recipe import INT4
from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.evaluation.figures import make_mean

_LAST_AMINO_ACID, _FIRST_AMINO_ACID, _SEPARATOR = 24, 5, 3
_SPECIES, _CHAINS = range(25, 31), (31, 32)
_MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")

RoundBlock = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def open_network(folder: Path) -> GPT2LMHeadModel:
    """Opens IgLM from its folder; of its pickle only tensors are read."""
    config = GPT2Config(**json.loads((folder / "config.json").read_text("utf-8")))
    model = GPT2LMHeadModel(config)
    tensors = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    missing, _ = model.load_state_dict(tensors, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    return model.eval()


@torch.no_grad()
def draw_sequences(model: nn.Module, n: int, length: int, seed: int) -> Tensor:
    """Draws antibodies' token ids, (n, length): a chain, a species and what follows."""
    generator = torch.Generator().manual_seed(seed)
    chains = torch.tensor(_CHAINS)[torch.arange(n) % len(_CHAINS)]
    species = torch.tensor(_SPECIES)[torch.arange(n) % len(_SPECIES)]
    ids = torch.stack((chains, species), dim=1)
    new, cache = ids, None
    while ids.shape[1] < length:
        out = model(new, past_key_values=cache, use_cache=True)
        logits, cache = out.logits[:, -1], out.past_key_values
        logits[:, :_FIRST_AMINO_ACID] = -torch.inf
        logits[:, _LAST_AMINO_ACID + 1 :] = -torch.inf
        new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        ids = torch.cat((ids, new), dim=1)
    return ids


def round_to_nearest(block: nn.Module, exact: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds a block's matrices in place as `--quick` does; the streams are not needed."""
    for name in _MATRICES:
        module = block.get_submodule(name)
        module.weight.copy_(round_matrix(module.weight.T.contiguous(), INT4).to_matrix().T)
    return exact, rounded


def calibrate(block: nn.Module, exact: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds a block's matrices in place, one after the other, for the rounded stream.

    The last one is asked for what the block has lost before it, too.
    """
    outputs: dict[str, Tensor] = {}
    hooks = [
        block.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: outputs.__setitem__(name, output)
        )
        for name in _MATRICES
    ]
    exact_out = _run(block, exact)
    for hook in hooks:
        hook.remove()
    for name in _MATRICES:
        module = block.get_submodule(name)
        found: dict[str, Tensor] = {}
        hook = module.register_forward_hook(
            lambda module, inputs, output, found=found: found.update(x=inputs[0], y=output)
        )
        rounded_out = _run(block, rounded)
        hook.remove()
        x = round_activations(found["x"].flatten(0, 1), INT4.group)
        wanted = outputs[name]
        if name == _MATRICES[-1]:
            wanted = exact_out - (rounded_out - found["y"])
        done = calibrate_matrix(
            module.weight.T.contiguous(),
            x,
            wanted.flatten(0, 1),
            lambda matrix, weights: AffineGrid(matrix, weights, INT4, 1),
            Settings(),
        )
        module.weight.copy_(done.matrix.T)
        module.bias.copy_(done.bias)
    return exact_out, _run(block, rounded)


def _run(block: nn.Module, states: Tensor) -> Tensor:
    out = block(states)
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def make_rounded(folder: Path, ids: Tensor, round_block: RoundBlock) -> GPT2LMHeadModel:
    """Opens the network and rounds it, block by block, on the sequences given."""
    model = open_network(folder)
    body = model.transformer
    exact = body.wte(ids) + body.wpe(torch.arange(ids.shape[1]))
    rounded = exact
    for block in body.h:
        exact, rounded = round_block(block, exact, rounded)
    for block in body.h:  # from here on activations are rounded as the operator does
        for name in _MATRICES:
            block.get_submodule(name).register_forward_pre_hook(
                lambda module, inputs: (round_activations(inputs[0], INT4.group),)
            )
    return model


@torch.no_grad()
def main() -> None:
    """Prints each rounding's divergence, in nats, and how often the best token is the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--length", type=int, default=110)
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    model = open_network(words.folder)
    drawn = [
        draw_sequences(model, words.sequences, words.length, seed)
        for seed in (words.seed, words.seed + 1)
    ]
    exact = model(drawn[1]).logits.numpy()
    for label, rounding in (("nearest", round_to_nearest), ("calibrated", calibrate)):
        logits = make_rounded(words.folder, drawn[0], rounding)(drawn[1]).logits.numpy()
        pairs = list(zip(exact, logits, strict=True))
        sums = [float(compute_divergences(one, other).sum()) for one, other in pairs]
        mean = make_mean(sums, [len(one) for one, _ in pairs])
        same = (exact.argmax(-1) == logits.argmax(-1)).mean()
        figure = f"{mean.value:.4f} nats ({mean.low:.4f}-{mean.high:.4f})"
        print(f"{label}: {figure}, best token {same:.1%}", flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    main()
