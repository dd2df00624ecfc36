"""A confidence sequence for the mean of bounded values: an interval that holds at every number of values at once."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_BISECTIONS = 40


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence sequence after so many values."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def settled(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def confidence_sequence(values: NDArray[np.float64], bound: float, level: float = LEVEL) -> Interval:
    """Return the interval after the values (n,), each in [-bound, bound], in the order in which they were drawn.

    The hedged capital process of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 2024),
    theorem 3 with the predictable plug-in bets given there, c = 1/2 and theta = 1/2: a gambler stakes on the next value lying above m,
    another on below; an m on which either has won 2 / (1 - level) times the stake is excluded for good. If m is the mean, that happens
    with probability 1 - level at most, at whatever number of values, whatever the distribution (Ville's inequality). Values must be
    independent draws from it. The interval is the intersection of those after 1, 2, ..., n values.

    nan bounds where there is no value.
    """
    if not len(values):
        return Interval(0, math.nan, -bound, bound)
    x = (np.asarray(values, dtype=np.float64) + bound) / (2 * bound)
    bets, threshold = _bets(x, 1 - level), math.log(2 / (1 - level))

    def excluded_from_above(x: NDArray[np.float64], m: float) -> bool:
        return bool(np.cumsum(np.log1p(np.minimum(bets, 1 / (2 * m)) * (x - m))).max() >= threshold)

    def lower(x: NDArray[np.float64]) -> float:
        """Return the largest m that the gambler who stakes on larger values has excluded: the capital falls with m."""
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if excluded_from_above(x, middle) else (low, middle)
        return low

    low, high = lower(x), 1 - lower(1 - x)  # the bets depend on the variance alone, so the other gambler sees the mirror image
    return Interval(len(x), float(np.mean(values)), (2 * low - 1) * bound, (2 * high - 1) * bound)


def settled(values: NDArray[np.float64], bound: float, level: float = LEVEL) -> bool:
    """Return whether the confidence sequence has excluded 0 at any number of these values; cheaper than its bounds."""
    if not len(values):
        return False
    x = np.asarray(values, dtype=np.float64) / (2 * bound)
    bets = np.minimum(_bets(x + 0.5, 1 - level), 1.0)
    most = max(np.cumsum(np.log1p(bets * x)).max(), np.cumsum(np.log1p(-bets * x)).max())
    return bool(most >= math.log(2 / (1 - level)))


def _bets(x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Return the stakes before truncation (n,), each from the values before it: larger where these varied little."""
    t = np.arange(1, len(x) + 1)
    means = (0.5 + np.cumsum(x)) / (t + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2)) / (t + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    return np.sqrt(2 * math.log(2 / alpha) / (before * t * np.log1p(t)))
