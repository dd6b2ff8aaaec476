"""Pixels become image tokens, embeddings logits, in full precision with one layer in memory.

A variant is measured against it. Layers are the outer loop and inputs the inner one, so each tensor
is read once however many inputs there are.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tinyv_cli.model.phi import make_rotary
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.spec import ModelSpec

T = TypeVar("T")
Read = Callable[[str], Tensor]
# A matrix's name, its module, its input (B, N, K) and its output (B, N, M).
Watch = Callable[[str, nn.Linear, Tensor, Tensor], None]


class _Stream:
    """Runs parts of a network, each filled when it is used and emptied right after."""

    def __init__(self, spec: ModelSpec, read: Read, watch: Watch | None = None) -> None:
        self._model = make_empty_model(spec)
        self._read = read
        if watch is None:
            return

        def make_hook(name: str, watch: Watch) -> Callable[[nn.Linear, Any, Tensor], None]:
            return lambda linear, inputs, output: watch(name, linear, inputs[0], output)

        for name, module in self._model.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(make_hook(f"{name}.weight", watch))

    def run(
        self, part: str, *inputs: Sequence[Tensor], call: Callable[..., T] | None = None
    ) -> list[T]:
        """Runs the part of that name on inputs, one after the other.

        Args:
            part: a sub-module whose tensors fit in memory together.
            inputs: one or several sequences of the same length; each call takes one of each.
            call: how the part is called, `call(part, *input)`; None: plainly.
        """
        module = self._model.get_submodule(part)
        tensors = {name: self._read(f"{part}.{name}") for name in module.state_dict()}
        module.load_state_dict(tensors, strict=True, assign=True)
        called: Callable[..., Any] = call or nn.Module.__call__
        outputs = [called(module, *each) for each in zip(*inputs, strict=True)]
        module.to("meta")
        return outputs


@torch.no_grad()
def compute_image_tokens(
    spec: ModelSpec, read: Read, pixels: np.ndarray, watch: Watch | None = None
) -> np.ndarray:
    """Computes image tokens as `TinyGptV.encode` does, to 1e-5 of their norm.

    Args:
        spec: the network's numbers.
        read: returns the float32 tensor of a name; called once a name.
        pixels: (B, 3, S, S) float32, normalised.
        watch: is called with every matrix's input and output, picture by picture.

    Returns:
        (B, Q, D) float32.
    """
    stream = _Stream(spec, read, watch)
    states: list[Tensor] = stream.run(
        "vision.embeddings", [torch.tensor(each)[None] for each in pixels]
    )
    for layer in range(spec.vision.n_layers):
        states = stream.run(f"vision.layers.{layer}", states)
    features: list[Tensor] = stream.run("vision.ln_vision", states)  # (1, N, Dv) each
    states = stream.run("qformer.bert.layernorm", [read("qformer.query_tokens")] * len(features))
    for layer in range(spec.qformer.n_layers):
        part = f"qformer.bert.encoder.layer.{layer}"
        states = stream.run(part, states, features)
    states = stream.run("projection.first", states)
    states = stream.run("projection.second", states)
    image_tokens: np.ndarray = torch.cat(states).numpy()
    return image_tokens


@torch.no_grad()
def map_logits(
    spec: ModelSpec,
    read: Read,
    states: Sequence[Tensor],
    take: Callable[[np.ndarray], T],
) -> list[T]:
    """Computes logits of states behind the last layer, a sequence after the other.

    Args:
        spec: the network's numbers.
        read: returns the float32 tensor of a name; called once a name.
        states: (T, D) float32 each.
        take: is called with each sequence's logits, (T, V) float32, which are then forgotten: at
            the full vocabulary 0.2 MB a position.

    Returns:
        What it returned.
    """
    stream = _Stream(spec, read)
    normed: list[Tensor] = stream.run("language.final_layernorm", states)

    def call_head(head: nn.Module, state: Tensor) -> T:
        return take(head(state).numpy())

    return stream.run("language.lm_head", normed, call=call_head)


@torch.no_grad()
def compute_logits(spec: ModelSpec, read: Read, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Computes each prompt's logits as `PhiLanguage` does, to 1e-5 of their norm.

    Args:
        spec: the network's numbers.
        read: returns the float32 tensor of a name; called once a name.
        prompts: embeddings, (T, D) float32 each; T may differ.

    Returns:
        For each prompt the logits of all its positions, (T, V) float32.
    """

    def call_block(block: nn.Module, hidden: Tensor) -> Tensor:
        position_ids = torch.arange(hidden.shape[1])[None]
        out: Tensor = block(hidden, make_rotary(spec.language, position_ids, hidden.dtype))
        return out

    stream = _Stream(spec, read)
    states = [torch.tensor(prompt)[None] for prompt in prompts]  # (1, T, D) each
    for layer in range(spec.language.n_layers):
        states = stream.run(f"language.layers.{layer}", states, call=call_block)
    return map_logits(spec, read, [each[0] for each in states], np.array)
