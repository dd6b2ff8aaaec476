"""Questions about one picture become one row of a batch, in which none sees another; rows a loss.

A row is the prompt up to and with the picture, then branches: what follows the picture up to where
the answer begins, and the answer. Each branch stands where it would stand alone and sees nothing of
the others, so a row computes what as many prompts would, and the picture is there once:
eight questions of one scene take 290 positions instead of 600.

Each answer is learnt as if it stood alone, with the turns before it in the prompt. One long text
with several scored answers would tokenize earlier answers otherwise than a later prompt does (a
space joins them) and train what is never used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from tinyv_cli.answers.tokenizer import END_OF_TEXT, STOP_MARK, Tokenizer
from tinyv_cli.model.phi import Layout, PhiLanguage
from tinyv_cli.prompts.prompt import TEMPLATES, make_prompt
from weights.training.language.dialogues import Dialogue

_IGNORED = -1  # a target that is not scored
_PREFIX, _PADDING = 0, -1  # in place of a branch's number, from 1


@dataclass(frozen=True)
class Branch:
    """Token ids from the picture to the answer, and of the answer with its stop."""

    given: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """Token ids of dialogues about one picture: before it, and each dialogue's own."""

    before: tuple[int, ...]
    branches: tuple[Branch, ...]


def tokenize(dialogues: Sequence[Dialogue], tokenizer: Tokenizer, template: str) -> Row:
    """Lays dialogues out as they are when the model is asked, with `<|endoftext|>` before all.

    Args:
        dialogues: about one picture, one at least.
        tokenizer: of the sources.
        template: name of the prompt template.
    """
    before, branches = "", []
    for each in dialogues:
        before, after = make_prompt(TEMPLATES[template], each.turns, each.question).pieces
        answer = [*tokenizer.encode(each.answer), *tokenizer.encode(STOP_MARK)]
        branches.append(Branch(tuple(tokenizer.encode(after)), tuple(answer)))
    start = "" if before.startswith(END_OF_TEXT) else END_OF_TEXT
    return Row(tuple(tokenizer.encode(start + before)), tuple(branches))


def compute_answer_loss(language: PhiLanguage, images: Tensor, rows: Sequence[Row]) -> Tensor:
    """Computes the cross-entropy over the tokens of all answers, in nats.

    An answer of n tokens counts √n times: with all tokens alike, boxes and captions would drown
    answers of one word; with all answers alike, their tokens would hardly count.

    Args:
        language: on the device to compute on.
        images: (B, Q, D) image tokens, or embeddings of words in their place.
        rows: B of them.
    """
    n_image = images.shape[1]
    laid_out = [_lay_out(row, n_image) for row in rows]
    ids, places, branches, targets, weights = (
        pad_sequence(
            [torch.from_numpy(each[i]) for each in laid_out],
            batch_first=True,
            padding_value=padding,
        ).to(images.device)
        for i, padding in enumerate((0, 0, _PADDING, _IGNORED, 0))
    )
    starts = torch.tensor([len(row.before) for row in rows], device=images.device)
    columns = starts[:, None] + torch.arange(n_image, device=images.device)  # (B, Q)
    embeddings = language.embed_tokens(ids)  # (B, T, D)
    lines = torch.arange(len(rows), device=images.device)[:, None]
    embeddings = embeddings.index_put((lines, columns), images.to(embeddings.dtype))
    of_row, of_column = branches[:, :, None], branches[:, None, :]
    is_before = torch.ones(branches.shape[1:] * 2, dtype=torch.bool, device=branches.device).tril()
    mask = is_before & ((of_row == of_column) | (of_column == _PREFIX))  # (B, T, T): who sees whom
    hidden = language.compute_hidden(embeddings, layout=Layout(places, mask[:, None]))
    scored = targets != _IGNORED
    logits = language.lm_head(hidden[scored]).float()
    losses = functional.cross_entropy(logits, targets[scored], reduction="none")
    return (losses * weights[scored]).sum() / weights[scored].sum()


def _lay_out(row: Row, n_image: int) -> tuple[np.ndarray, ...]:
    """Lays out token ids, places, branches, targets and weights of a row's positions, (T) each."""
    n_prefix = len(row.before) + n_image
    columns: list[list[tuple[int, int, int, int, float]]] = [
        [
            (token, place, _PREFIX, _IGNORED, 0.0)
            for place, token in enumerate((*row.before, *[0] * n_image))
        ]
    ]
    for number, branch in enumerate(row.branches, 1):
        fed = (*branch.given, *branch.answer[:-1])
        n_given = len(branch.given) - 1  # the last of them is followed by the answer
        following = [_IGNORED] * n_given + list(branch.answer)
        weight = len(branch.answer) ** -0.5
        columns.append(
            [
                (token, n_prefix + i, number, target, weight)
                for i, (token, target) in enumerate(zip(fed, following, strict=True))
            ]
        )
    table = [entry for column in columns for entry in column]
    ids, places, branches, targets = (np.array([e[i] for e in table], np.int64) for i in range(4))
    return ids, places, branches, targets, np.array([e[4] for e in table], np.float32)
