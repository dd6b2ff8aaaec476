"""A language model learns to answer from descriptions in words; it sees no picture."""

from collections.abc import Callable

import torch
from torch import Tensor

from tinyv_cli.model.phi import PhiLanguage
from tinyv_cli.tokenizer import STOP_MARK, Tokenizer
from weights.training.examples import IGNORED
from weights.training.reading import read_scene

_GIVEN_WEIGHT = 0.1  # of a prompt's tokens: its own words are worth little, and are most of it


def make_speaking_loss(
    language: PhiLanguage, tokenizer: Tokenizer, seed: int, batch: int
) -> Callable[[int], Tensor]:
    """The loss of a step, as a `Trainer` wants it.

    Args:
        language: is trained whole.
        tokenizer: of the sources.
        seed: of the scenes that are told.
        batch: texts a step.
    """

    def compute_step(step: int) -> Tensor:
        numbers = range(step * batch, (step + 1) * batch)
        texts = [_tokenize(tokenizer, seed, number) for number in numbers]
        return compute_speaking_loss(language, texts)

    return compute_step


def compute_speaking_loss(
    language: PhiLanguage, texts: list[tuple[list[int], list[int]]]
) -> Tensor:
    """Cross-entropy of the next token, of answers fully and of what was given by a tenth, in nats.

    Args:
        language: on the device to compute on.
        texts: token ids of what was given, and of the answer with its stop.
    """
    device = language.embed_tokens.weight.device
    given, answers = [], []
    for before, after in texts:
        given.append(torch.tensor([*before, *[IGNORED] * len(after)], device=device))
        answers.append(torch.tensor([IGNORED] * len(before) + after, device=device))
    pad = torch.nn.utils.rnn.pad_sequence
    told = pad(given, batch_first=True, padding_value=IGNORED)  # (B, T)
    wanted = pad(answers, batch_first=True, padding_value=IGNORED)
    ids = torch.where(told == IGNORED, wanted, told).clamp_min(0)
    logits = language(language.embed_tokens(ids))[:, :-1].float().transpose(1, 2)  # (B, V, T - 1)
    losses = [
        torch.nn.functional.cross_entropy(logits, targets[:, 1:], ignore_index=IGNORED)
        for targets in (wanted, told)
    ]
    return losses[0] + _GIVEN_WEIGHT * losses[1]


def _tokenize(tokenizer: Tokenizer, seed: int, number: int) -> tuple[list[int], list[int]]:
    reading = read_scene(seed, number)
    stop = tokenizer.encode(STOP_MARK)
    return tokenizer.encode(reading.given), [*tokenizer.encode(reading.answer), *stop]
