"""A step done several times becomes a median with its spread, whatever the step is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Clock: TypeAlias = Callable[[], float]  # seconds since some fixed moment

_SHORTEST_S = 1e-9  # some clocks stand still for longer than a short step takes


@dataclass(frozen=True)
class Spread:
    """A figure that was measured several times.

    Attributes:
        median: of all of them.
        min: the smallest.
        max: the largest.
        repeats: how many, at least 1.
    """

    median: float
    min: float
    max: float
    repeats: int


@dataclass(frozen=True)
class Repeats:
    """How often a step is done.

    Attributes:
        n: at most, at least 1.
        limit_s: a step that has taken so many seconds, repeats included, is not done again.
    """

    n: int = 3
    limit_s: float = math.inf


def make_spread(values: Sequence[float]) -> Spread:
    """Makes the spread of values, at least one."""
    return Spread(float(median(values)), float(min(values)), float(max(values)), len(values))


def repeat(step: Callable[[], T], repeats: Repeats, clock: Clock) -> list[T]:
    """Does a step once, and again while number and time allow.

    Returns:
        What the step returned each time.
    """
    started = clock()
    results = [step()]
    while len(results) < repeats.n and clock() - started < repeats.limit_s:
        results.append(step())
    return results


def to_rate(amount: float, elapsed_s: float) -> float:
    """Divides an amount by seconds; finite also where the clock did not move."""
    return amount / max(elapsed_s, _SHORTEST_S)
