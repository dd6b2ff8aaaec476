"""Answers and divergences become shares and means, each with an interval.

All intervals are at 95 % and take questions, not tokens, as what was drawn by chance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinyv_cli.evaluation.ledger import Answered, Compared
from tinyv_cli.evaluation.questions import Question
from tinyv_cli.evaluation.scoring import TASKS, agree, is_right

ALL = "all"
Z = 1.959964  # of the normal distribution: 2.5 % lie above


@dataclass(frozen=True)
class Figure:
    """A measured value and the interval it lies in with 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskFigures:
    """How one task went.

    Attributes:
        n: questions.
        accuracy: share answered rightly.
        agreement: share where both variants' answers are right by each other, as the task measures
            it: boxes that overlap enough, the same things counted; None without a second one.
        same_text: share where they are the same to the letter; None without a second one.
    """

    n: int
    accuracy: Figure
    agreement: Figure | None
    same_text: Figure | None


@dataclass(frozen=True)
class Distance:
    """How far a variant is from the one compared with, along the reference answers.

    Attributes:
        kl_nats: KL(compared with ‖ this) of the next token's distribution, mean over positions.
        top1_agreement: share of positions with the same best token.
    """

    kl_nats: Figure
    top1_agreement: Figure


def make_figures(
    questions: Sequence[Question],
    answers: Mapping[int, Answered],
    others: Mapping[int, Answered] | None,
) -> dict[str, TaskFigures]:
    """Scores answers, by task in the order of `TASKS`, and all of them under `ALL`.

    Args:
        questions: those to count, at least one.
        answers: one to each of them.
        others: the other variant's, if there is one.
    """
    by_task = {task: [each for each in questions if each.task == task] for task in TASKS}
    by_task[ALL] = list(questions)
    figures = {}
    for name, group in by_task.items():
        n = len(group)
        if n == 0:
            continue
        n_right = sum(is_right(q.task, answers[q.index].answer, q.reference) for q in group)
        agreement = same_text = None
        if others is not None:
            pairs = [(q.task, answers[q.index].answer, others[q.index].answer) for q in group]
            agreement = make_share(sum(agree(*each) for each in pairs) / n, n)
            same_text = make_share(sum(one == other for _, one, other in pairs) / n, n)
        figures[name] = TaskFigures(n, make_share(n_right / n, n), agreement, same_text)
    return figures


def make_distance(questions: Sequence[Question], compared: Mapping[int, Compared]) -> Distance:
    """Makes the figures along the reference answers of some questions, at least one."""
    results = [compared[question.index] for question in questions]
    counts = [result.n_positions for result in results]
    same = sum(result.n_same for result in results) / sum(counts)
    kl = make_mean([result.kl_sum_nats for result in results], counts)
    return Distance(kl, make_share(same, len(results)))


def make_share(share: float, n: int) -> Figure:
    """Computes Wilson's score interval of a share of n independent trials.

    Args:
        share: 0 to 1; of one that is a mean over several tokens a trial, the interval is wider
            than it would have to be.
        n: trials, at least 1.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    spread = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((share + Z**2 / (2 * n) + side * spread) / (1 + Z**2 / n) for side in (-1, 1))
    # Rounding can leave 1e-17 outside, or a share of 1 above its own interval.
    return Figure(share, max(0.0, min(low, share)), min(1.0, max(high, share)))


def make_mean(sums: Sequence[float], counts: Sequence[int]) -> Figure:
    """Computes the mean of values of 0 or more in clusters: questions of several positions each.

    Args:
        sums: over the positions of each question.
        counts: positions of each question, at least 1; one question at least.

    Returns:
        The mean over all positions, with the normal interval of a ratio of two sums; with a single
        question nothing is known of the spread, and the interval has no width.

    Source: Cochran, "Sampling Techniques" (1977), chapter 6, the variance of a ratio estimate.
    """
    m, n_positions = len(sums), sum(counts)
    mean = sum(sums) / n_positions
    squares = sum((s - mean * n) ** 2 for s, n in zip(sums, counts, strict=True))
    deviation = math.sqrt(squares * m / (m - 1)) / n_positions if m > 1 else 0.0
    return Figure(mean, max(0.0, mean - Z * deviation), mean + Z * deviation)
