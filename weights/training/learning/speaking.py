"""Scenes as text become the loss by which a language model learns to answer, without pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.model.phi import PhiLanguage
from weights.training.language.reading import read_scene
from weights.training.language.vocabulary import find_word_ids
from weights.training.learning.rows import compute_answer_loss, tokenize


@dataclass(frozen=True)
class SpeakingOptions:
    """The scenes that a step of speaking reads.

    Attributes:
        seed: of the scenes.
        batch: scenes a step.
        n_dialogues: about a scene, at most.
        long_from: the step from which there are captions, boxes and conversations too. They make up
            most of a step's loss and time, so short answers are learnt sooner alone (DESIGN.md).
    """

    seed: int
    batch: int
    n_dialogues: int
    long_from: int = 0


def make_speaking_loss(
    language: PhiLanguage, tokenizer: Tokenizer, options: SpeakingOptions
) -> Callable[[int], Tensor]:
    """Makes the loss of a step, as a `Trainer` wants it.

    Args:
        language: is trained whole.
        tokenizer: of the sources.
        options: which scenes are read.

    Raises:
        UsageError: the vocabulary has no single token for a word that an image token stands for.
    """
    word_ids = torch.tensor(find_word_ids(tokenizer))

    def compute_step(step: int) -> Tensor:
        first, is_short = step * options.batch, step < options.long_from
        readings = [
            read_scene(options.seed, number, options.n_dialogues, is_short)
            for number in range(first, first + options.batch)
        ]
        rows = [tokenize(each.dialogues, tokenizer, each.template) for each in readings]
        slots = torch.tensor([each.slots for each in readings])  # (B, 32)
        words = language.embed_tokens(word_ids[slots].to(language.embed_tokens.weight.device))
        return compute_answer_loss(language, words, rows)

    return compute_step
