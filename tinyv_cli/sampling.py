"""Logits become the next token's id; knows no text, no cache and no model.

Order and formulas are those of transformers' logits processors: repetition penalty, temperature,
top-k, top-p, min-p, then one draw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyv_cli.errors import DeviceError, UsageError

_COLDEST = 1e-5  # below it a temperature only makes numbers overflow: the likeliest token is taken


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen; as it stands, the likeliest one.

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
        scores = (scores - scores[best]) / np.float32(options.temperature)  # (V,), none above 0
        ids = np.arange(len(scores))
        for keep, bound, keeps_all in (
            (_keep_top_k, options.top_k, 0),
            (_keep_top_p, options.top_p, 1),
            (_keep_min_p, options.min_p, 0),
        ):
            if bound != keeps_all:
                kept = keep(scores, bound)
                ids, scores = ids[kept], scores[kept]
        return int(ids[self._draw(scores)])

    def _draw(self, scores: np.ndarray) -> int:
        """Draws an index with probability softmax(scores)."""
        cumulative = np.exp(scores).cumsum(dtype=np.float64)
        point = self._random.random() * cumulative[-1]
        return int(cumulative.searchsorted(point, side="right"))


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


def _keep_top_k(scores: np.ndarray, k: float) -> np.ndarray:
    """Indices, rising, of the k greatest scores and of any that tie with the last of them.

    Source: transformers' TopKLogitsWarper.
    """
    first = max(0, len(scores) - int(k))
    return np.flatnonzero(scores >= np.partition(scores, first)[first])


def _keep_top_p(scores: np.ndarray, p: float) -> np.ndarray:
    """Indices, rising, of the tokens outside the unlikely tail of mass 1 - p; at least one.

    Source: transformers' TopPLogitsWarper, which sorts all tokens. Here those that are in the
    tail however they are ordered (probability ≤ (1 - p) / V) are set aside before sorting.
    """
    probabilities = np.exp(scores)
    probabilities /= probabilities.sum(dtype=np.float64)
    likely = np.flatnonzero(probabilities > 0.99 * (1 - p) / len(scores))  # 0.99: for rounding
    values = probabilities[likely]
    rising = np.sort(values)
    tail = 1 - rising.sum(dtype=np.float64)
    n_in_tail = np.count_nonzero(tail + rising.cumsum(dtype=np.float64) <= 1 - p)
    n_dropped = min(int(n_in_tail), len(rising) - 1)
    border = rising[n_dropped]
    ties = np.flatnonzero(values == border)  # of equals the first go, as in a stable sort
    n_ties_dropped = n_dropped - int(np.searchsorted(rising, border))
    kept = values > border
    kept[ties[n_ties_dropped:]] = True
    return np.compress(kept, likely)


def _keep_min_p(scores: np.ndarray, p: float) -> np.ndarray:
    """Indices, rising, of the tokens at least p times as likely as the likeliest.

    Source: transformers' MinPLogitsWarper.
    """
    return np.flatnonzero(np.exp(scores - scores.max()) >= np.float32(p))
