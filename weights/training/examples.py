"""Pictures with what was said about them become padded batches; the loss is on one answer each.

A prompt is laid out and tokenized as it is when the model is asked, so that what is trained is
what is used. Knows no scene and no optimizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.prompt import TEMPLATES, Turn, make_prompt
from tinyv_cli.tokenizer import END_OF_TEXT, STOP_MARK, Tokenizer

IGNORED = -100  # a target that the loss passes over, as torch's cross_entropy has it


@dataclass(frozen=True, eq=False)
class Example:
    """One picture and the dialogue about it, whose last answer is learnt.

    Attributes:
        pixels: (3, S, S) float32, normalised as `image.to_pixels` does it.
        turns: what was said before, oldest first.
        question: asked last.
        answer: to be learnt.
    """

    pixels: np.ndarray
    turns: tuple[Turn, ...]
    question: str
    answer: str


class Corpus(Protocol):
    """Where examples come from."""

    def draw(self, step: int) -> Sequence[Example]:
        """The examples of a step, always the same ones."""


@dataclass(frozen=True)
class TokenIds:
    """An example's token ids: before the picture, after it, and of the answer with its stop."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    answer: tuple[int, ...]


def tokenize(example: Example, tokenizer: Tokenizer, template: str) -> TokenIds:
    """Lays one example out: `<|endoftext|>`, prompt, answer, `###`.

    Args:
        example: what to say.
        tokenizer: of the sources.
        template: name of the prompt template.
    """
    prompt = make_prompt(TEMPLATES[template], example.turns, example.question)
    before, after = prompt.pieces
    if not before.startswith(END_OF_TEXT):
        before = END_OF_TEXT + before
    answer = [*tokenizer.encode(example.answer), *tokenizer.encode(STOP_MARK)]
    return TokenIds(tuple(tokenizer.encode(before)), tuple(tokenizer.encode(after)), tuple(answer))


def make_stage_loss(
    model: TinyGptV, corpus: Corpus, tokenizer: Tokenizer, template: str
) -> Callable[[int], Tensor]:
    """The loss of a step, as a `Trainer` wants it."""

    def compute_step(step: int) -> Tensor:
        examples = corpus.draw(step)
        texts = [tokenize(each, tokenizer, template) for each in examples]
        return compute_loss(model, examples, texts)

    return compute_step


def compute_loss(model: TinyGptV, examples: Sequence[Example], texts: Sequence[TokenIds]) -> Tensor:
    """Mean cross-entropy over the tokens of all answers, in nats.

    Args:
        model: on the device to compute on.
        examples: B of them.
        texts: the token ids of each.
    """
    device = model.language.embed_tokens.weight.device
    pixels = torch.from_numpy(np.stack([example.pixels for example in examples])).to(device)
    with torch.no_grad():  # frozen in every stage
        tokens = model.qformer(model.vision(pixels))
    images = model.projection(tokens)  # (B, Q, D)
    embeddings, targets = _lay_out(model, images, texts)
    hidden = model.language.compute_hidden(embeddings)  # (B, T, D)
    # Position t is followed by the token of target t + 1; only scored ones go through the head.
    scored = targets[:, 1:] != IGNORED
    logits = model.language.lm_head(hidden[:, :-1][scored])
    return torch.nn.functional.cross_entropy(logits.float(), targets[:, 1:][scored])


def _lay_out(model: TinyGptV, images: Tensor, texts: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
    """Embeddings (B, T, D), padded on the right, and targets (B, T)."""
    rows, targets = [], []
    for image, text in zip(images, texts, strict=True):
        before, after = (
            model.language.embed_tokens(torch.tensor(ids, dtype=torch.long, device=image.device))
            for ids in (text.before, (*text.after, *text.answer))
        )
        rows.append(torch.cat([before, image, after]))
        n_given = len(text.before) + len(image) + len(text.after)
        targets.append(torch.tensor([IGNORED] * n_given + list(text.answer), device=image.device))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(targets, batch_first=True, padding_value=IGNORED)
