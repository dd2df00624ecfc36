"""The mean paired differences of methods, with their intervals and tests, from the values of the methods."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalkit.analysis import metrics
from evalkit.analysis.significance import sign_flip
from evalkit.analysis.stats import ENOUGH, Array, Bootstrapped, Intervals, Ints, bootstrap, mean, percentiles, sign_tests

TOGETHER = 2**21
"""Entries of differences that are held at once."""
TOGETHER_RESAMPLED = 2**22
"""The same of differences that are all resampled, where each time costs a pass over the resamples."""
SMALL = 1e-3
"""Share of the largest value below which differences of two methods are resampled themselves, not taken from the methods' means."""


class Tested(NamedTuple):
    """Mean differences of P pairs, each (P,), with the ends of their intervals, p, and the number n of defined entries."""

    n: Ints
    difference: Array
    low: Array
    high: Array
    p: Array


def tested(metric: str, values: Array, means: Bootstrapped | None, pairs: Ints, images: NDArray[Any], *, exact: bool) -> Tested:
    """Test pairs (P,2) of methods with values (M,n) of a metric, whose differences are `metrics.differences`.

    `means` are the methods' means, where differences are of values; None where they are outcomes of "win". `exact` asks for the sign test
    of outcomes, else the sign-flip test; p is nan for a single item.
    """
    if exact and means is not None and ENOUGH <= values.shape[1] < 2**24 and ((values == 0) | (values == values.max())).all():
        return _of_outcomes(values, means, pairs)
    size = max(1, (TOGETHER if means is not None else TOGETHER_RESAMPLED) // max(1, values.shape[1]))
    resampler = _Means(values, means, images)
    found = [(np.empty(0, np.int64), *np.empty((4, 0)))]
    for start in range(0, len(pairs), size):
        some = pairs[start : start + size]
        differences = metrics.differences(metric, *values[some.T])
        p = sign_tests((differences > 0).sum(axis=1), (differences < 0).sum(axis=1)) if exact else sign_flip(differences, images)
        interval = resampler.intervals(some, differences)
        found.append((np.isfinite(differences).sum(axis=1), interval.value, interval.low, interval.high, p))
    return Tested(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _of_outcomes(values: Array, means: Bootstrapped, pairs: Ints) -> Tested:
    """Return `tested` of outcomes (M,n), 0 or of one size, on images that are ENOUGH: how often each pair differs says it all."""
    n, ones = values.shape[1], (values != 0).astype(np.float32)
    both = (ones @ ones.T).astype(np.float64)  # counts below 2^24, so exact in float32
    first, second = pairs.T
    alike = both[first, second]
    wins, losses = (both[of, of] - alike for of in (first, second))
    low, high = percentiles(means.resampled[first] - means.resampled[second])
    tails = sign_tests(wins.astype(np.int64), losses.astype(np.int64))
    return Tested(np.full(len(pairs), n), values.max() * (wins - losses) / n, low, high, tails)


class _Means:
    """Intervals of mean differences of pairs of methods, from the resampled `means` of their values (M,n) where that gives the same.

    Where the two methods are defined on the same items, and ENOUGH of them, the difference of their means on a resample is the mean
    difference. Other pairs are resampled again, and so are differences so small beside the values that the means' rounding would show,
    and all without `means`: differences of ranks are no differences of values.
    """

    def __init__(self, values: Array, means: Bootstrapped | None, images: NDArray[Any]) -> None:
        self.means, self.images = means, images
        if means is not None:
            undefined = np.isnan(values)
            self._undefined = undefined if undefined.any() else None
            self._enough = len(np.unique(images[~undefined.any(axis=0)])) >= ENOUGH
            self._largest = np.where(undefined, 0, np.abs(values)).max(axis=1, initial=0)

    def intervals(self, pairs: Ints, differences: Array) -> Intervals:
        """Return `bootstrap` of the mean differences (P,n) of pairs (P,2)."""
        if self.means is None or not self._enough:
            return bootstrap({"differences": differences}, self.images)["differences"]
        first, second = pairs.T
        sizes = np.where(np.isnan(differences), 0, np.abs(differences)).max(axis=1, initial=0)
        taken = (sizes == 0) | (sizes >= SMALL * np.maximum(self._largest[first], self._largest[second]))
        if self._undefined is not None:
            taken &= (self._undefined[first] == self._undefined[second]).all(axis=1)
        value, low, high = np.full((3, len(pairs)), np.nan)
        if taken.any():
            resampled = self.means.resampled[first[taken]] - self.means.resampled[second[taken]]
            value[taken] = mean(differences[taken])
            low[taken], high[taken] = percentiles(resampled)
        if not taken.all():
            again = bootstrap({"differences": differences[~taken]}, self.images)["differences"]
            value[~taken], low[~taken], high[~taken] = again.value, again.low, again.high
        return Intervals(value, low, high)
