"""Pictures with what was said about them become the loss of a step. Knows no scene, no optimizer.

A prompt is laid out and tokenized as it is when the model is asked, so that what is trained is
what is used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.model.tinygptv import TinyGptV
from weights.training.rows import Dialogue, compute_answer_loss, tokenize


@dataclass(frozen=True, eq=False)
class Example:
    """One picture and the dialogues about it, each of whose last answers is learnt.

    Attributes:
        pixels: (3, S, S) float32, normalised as `image.to_pixels` does it.
        dialogues: one at least; none of them knows of the others.
        template: name of the prompt template.
    """

    pixels: np.ndarray
    dialogues: Sequence[Dialogue]
    template: str


class Corpus(Protocol):
    """Where examples come from."""

    def draw(self, step: int) -> Sequence[Example]:
        """The examples of a step, always the same ones."""


def make_stage_loss(
    model: TinyGptV, corpus: Corpus, tokenizer: Tokenizer
) -> Callable[[int], Tensor]:
    """The loss of a step, as a `Trainer` wants it."""

    def compute_step(step: int) -> Tensor:
        return compute_loss(model, corpus.draw(step), tokenizer)

    return compute_step


def compute_loss(model: TinyGptV, examples: Sequence[Example], tokenizer: Tokenizer) -> Tensor:
    """Cross-entropy over the tokens of all answers, in nats, weighed as `rows.py` says.

    Args:
        model: on the device to compute on.
        examples: B of them.
        tokenizer: of the sources.
    """
    rows = [tokenize(each.dialogues, tokenizer, each.template) for each in examples]
    pixels = torch.from_numpy(np.stack([example.pixels for example in examples]))
    with torch.no_grad():  # frozen in every stage
        tokens = model.qformer(model.vision(pixels.to(model.language.embed_tokens.weight.device)))
    return compute_answer_loss(model.language, model.projection(tokens), rows)
