"""Logits become the next token's id; works on numbers alone, without text, cache or model.

Order and formulas are those of transformers' logits processors: repetition penalty, temperature,
top-k, top-p, min-p, then one draw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tinyv_cli.errors import DeviceError, UsageError

_COLDEST = 1e-5  # below it a temperature only makes numbers overflow: the likeliest token is taken
_FAINTEST = -60.0  # all tokens below it weigh less together than the least step of a draw, 2^-53
_BLOCK = 256  # tokens; near the root of V, so that there are about as many blocks

KeptIds: TypeAlias = np.ndarray | None  # (n,) int, rising; None stands for all


@dataclass(frozen=True)
class SamplingOptions:
    """Settings by which the next token is chosen; the defaults take the likeliest one.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token and draws nothing.
        top_p: keeps the fewest likeliest tokens whose probabilities reach this sum; 1 keeps all.
        top_k: keeps this many likeliest tokens; 0 keeps all.
        min_p: drops tokens less likely than this share of the likeliest one's probability.
        repetition_penalty: makes tokens of the answer so far less likely (> 1) or more (< 1).
        seed: makes a draw repeatable; None draws anew each time.

    Raises:
        UsageError: a value is out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        positive = 0 < self.repetition_penalty < math.inf
        _check("--temp", self.temperature, 0 <= self.temperature < math.inf, "0 or more")
        _check("--top-p", self.top_p, 0 <= self.top_p <= 1, "from 0 to 1")
        _check("--top-k", self.top_k, self.top_k >= 0, "0 or more")
        _check("--min-p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1")
        _check("--repeat-penalty", self.repetition_penalty, positive, "more than 0")
        _check("--seed", self.seed, self.seed is None or self.seed >= 0, "0 or more")


def _check(flag: str, value: float | None, holds: bool, allowed: str) -> None:
    """Refuses a value that is out of range.

    Raises:
        UsageError: `holds` is false.
    """
    if not holds:
        raise UsageError(f"{flag} is {value}", f"use a number {allowed}: `{flag} NUMBER`")


class Sampler:
    """Chooses the tokens of one answer."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)

    def choose(self, logits: np.ndarray, generated: Sequence[int]) -> int:
        """Picks the next token.

        Args:
            logits: (V,) float32, left as it is.
            generated: the answer's ids so far; the prompt's are not penalised.

        Raises:
            DeviceError: the greatest logit is no finite number.
        """
        options = self._options
        scores = _penalise(logits, generated, options.repetition_penalty)
        best = int(scores.argmax())  # a NaN, if there is one
        if not math.isfinite(scores[best]):
            raise DeviceError(
                f"the model computed {scores[best]} instead of a number",
                "make the variant again with more bits: `tinyv quantize --bits 8`",
            )
        if options.temperature < _COLDEST:
            return best
        scores = scores - scores[best]  # (V,), none above 0
        scores /= np.float32(options.temperature)
        ids, weights = keep_tokens(scores, options)
        drawn = _find(weights, self._random.random())
        return drawn if ids is None else int(ids[drawn])


def keep_tokens(scores: np.ndarray, options: SamplingOptions) -> tuple[KeptIds, np.ndarray]:
    """Finds the tokens that are drawn from, by top-k, then top-p, then min-p.

    Args:
        scores: (V,) float32, logits after penalty and temperature, the greatest 0; overwritten.
        options: which tokens are kept.

    Returns:
        Their ids, rising, (n,) or None for all V; their probabilities before these are divided
        by their sum, (n,) float32, the greatest 1.
    """
    ids, scores = _narrow(None, scores, scores >= _FAINTEST)  # what is forbidden is at -inf
    if options.top_k:
        ids, scores = _keep_top_k(ids, scores, options.top_k)
    weights = np.exp(scores, out=scores)
    if options.top_p < 1:
        ids, weights = _keep_top_p(ids, weights, options.top_p)
    if options.min_p:  # source: transformers' MinPLogitsWarper
        ids, weights = _narrow(ids, weights, weights >= np.float32(options.min_p))
    return ids, weights


def _penalise(logits: np.ndarray, generated: Sequence[int], penalty: float) -> np.ndarray:
    """Divides positive and multiplies negative logits of generated tokens by the penalty.

    Source: transformers' RepetitionPenaltyLogitsProcessor (arXiv 1909.05858, section 4.1).
    """
    if penalty == 1 or not generated:
        return logits
    ids = np.asarray(generated)  # one said twice is written twice, with the same value
    scores = logits.copy()
    old, factor = scores[ids], np.float32(penalty)
    scores[ids] = np.where(old < 0, old * factor, old / factor)
    return scores


def _narrow(ids: KeptIds, values: np.ndarray, is_kept: np.ndarray) -> tuple[KeptIds, np.ndarray]:
    """Leaves out the ids that are not kept, and their values."""
    if is_kept.all():
        return ids, values
    kept = np.flatnonzero(is_kept)
    return kept if ids is None else ids.take(kept), values.take(kept)


def _keep_top_k(ids: KeptIds, scores: np.ndarray, k: int) -> tuple[KeptIds, np.ndarray]:
    """Keeps the k greatest scores and any that tie with the last of them.

    Source: transformers' TopKLogitsWarper.
    """
    n_parts = max(4 * k, _BLOCK)
    n_rows = len(scores) // n_parts
    if n_rows > 1:  # few scores, though k at least, reach the k-th greatest of the parts' maxima
        maxima = scores[: n_rows * n_parts].reshape(n_rows, n_parts).max(axis=0)
        ids, scores = _narrow(ids, scores, scores >= np.partition(maxima, -k)[-k])
    k = min(k, len(scores))
    return _narrow(ids, scores, scores >= np.partition(scores, -k)[-k])


def _keep_top_p(ids: KeptIds, weights: np.ndarray, p: float) -> tuple[KeptIds, np.ndarray]:
    """Keeps the tokens outside the unlikely tail of mass 1 - p; at least one.

    Source: transformers' TopPLogitsWarper, which sorts all tokens. Here those that are in the
    tail however they are ordered (probability ≤ (1 - p) / V) are set aside before sorting.
    """
    total = weights.sum(dtype=np.float64)
    least = 0.99 * (1 - p) * float(total) / len(weights)  # 0.99: for rounding
    ids, weights = _narrow(ids, weights, weights > least)
    probabilities = (weights / total).astype(np.float32)
    rising = np.sort(probabilities)
    n_dropped = _find(rising, 1 - p, before=1 - float(rising.sum(dtype=np.float64)))
    border = rising[n_dropped]
    ties = np.flatnonzero(probabilities == border)  # of equals the first go, as in a stable sort
    n_ties_dropped = n_dropped - int(rising.searchsorted(border))
    is_kept = probabilities > border
    is_kept[ties[n_ties_dropped:]] = True
    return _narrow(ids, weights, is_kept)


def _find(weights: np.ndarray, share: float, before: float = 0.0) -> int:
    """Returns the index of the first weight whose running sum is above a share of the whole sum.

    It is summed up block by block first, and then weight by weight in one block alone.

    Args:
        weights: (n,) float32, above 0.
        share: from 0 to 1; where nothing is above it, the last index is found.
        before: what the running sum, and so the whole one, starts with.
    """
    n_in_blocks = (len(weights) - 1) // _BLOCK * _BLOCK  # the rest is 1 to _BLOCK weights
    sums = weights[:n_in_blocks].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    sums = np.append(sums, weights[n_in_blocks:].sum(dtype=np.float64)).cumsum()
    point = share * (before + sums[-1]) - before
    block = int(sums[:-1].searchsorted(point, side="right"))
    if block:
        point -= sums[block - 1]
    first = block * _BLOCK
    inside = weights[first : first + _BLOCK].cumsum(dtype=np.float64)
    return first + int(inside[:-1].searchsorted(point, side="right"))
