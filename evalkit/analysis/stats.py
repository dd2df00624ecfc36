"""Intervals and paired tests. The same images are resampled for all methods, so differences are paired."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalkit.analysis.resampling import exact_sum, is_outcome, sums

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL = 0.95
ENOUGH = 200
"""From so many images on, percentile intervals cover as often as they say (results/small_samples.md)."""
PRIOR = 2
"""So many images' worth of the sample's variance is added to that of each resample, which may have none."""


@dataclass(frozen=True)
class Intervals:
    """Estimates of m quantities with their intervals, each (m,); nan where there are too few images."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Bootstrapped(Intervals):
    """Intervals with the estimates on all resamples (m, RESAMPLES), or (m, 0) for fewer than two images."""

    resampled: Array


def bootstrap(columns: Mapping[str, Array | tuple[Array, Array]], images: NDArray[Any] | None = None) -> dict[str, Bootstrapped]:
    """Return bootstrap intervals over images of several named quantities, each for m methods or pairs of methods.

    An array (m,n) stands for the mean over its defined entries (nan marks undefined ones), a pair of arrays for the
    ratio of their sums. All quantities use the same resamples (`resampling.resamples`), and the seed is fixed: the same
    rows give the same table.

    Where ENOUGH images or more have a defined entry, the interval is of percentiles. Those of fewer images are too narrow: there the
    interval is the symmetric studentised one (Hall, J. R. Stat. Soc. B 1988), with the linearised standard error of a ratio. Outcomes,
    whose entries are 0 and of one size, keep the percentiles, which cover. Where nothing varies, the interval is the value.

    `images` (n,) gives the image of each entry, if an image has several: they are resampled together.
    """
    pairs = {name: column if isinstance(column, tuple) else as_ratio(column) for name, column in columns.items()}
    above, below = ([row for pair in pairs.values() for row in pair[side]] for side in (0, 1))
    entries = above, below
    if images is not None and len(np.unique(images)) < len(images):
        above, below = (list(by_image(np.stack(side), images)) for side in entries)
    few = [i for i, row in enumerate(below) if np.count_nonzero(row) < ENOUGH and not _are_outcomes(*(side[i] for side in entries))]
    n = above[0].shape[0]
    total, resampled = sums([*above, *below])
    resampled = resampled if n > 1 else resampled[:, :0]
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is nan: no entry is defined
        value, resampled = total[: len(above)] / total[len(above) :], resampled[: len(above)] / resampled[len(above) :]
    low, high = percentiles(resampled)
    if n > 1 and few:
        a, b = (np.stack([side[i] for i in few]) for side in (above, below))
        low[few], high[few] = _studentised(a, b, resampled[few], (low[few], high[few]))
    ends = np.cumsum([len(pair[0]) for pair in pairs.values()])
    parts = [slice(end - len(pair[0]), end) for end, pair in zip(ends, pairs.values(), strict=True)]
    return {name: Bootstrapped(value[at], low[at], high[at], resampled[at]) for name, at in zip(pairs, parts, strict=True)}


def mean(values: Array) -> Array:
    """Return the mean (m,) of the defined entries of (m,n); nan where there is none."""
    above, below = as_ratio(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([exact_sum(row) for row in above]) / np.array([exact_sum(row) for row in below])


def percentiles(resampled: Array) -> tuple[Array, Array]:
    """Return the ends (m,) of percentile intervals of estimates on resamples (m,B); nan where one is undefined, or B is 0."""
    number = resampled.shape[1]
    if not number:
        return np.full(len(resampled), np.nan), np.full(len(resampled), np.nan)
    alpha = (1 - LEVEL) / 2
    ends = []
    for share in (alpha, 1 - alpha):
        place = number * share - share
        below, part = int(place), place % 1
        ordered = np.partition(resampled, [below, min(below + 1, number - 1)], axis=1)
        ends.append((1 - part) * ordered[:, below] + part * ordered[:, min(below + 1, number - 1)])
    undefined = np.isnan(resampled).any(axis=1)
    return np.where(undefined, np.nan, ends[0]), np.where(undefined, np.nan, ends[1])


def _squared_errors(above: Array, below: Array, total: Callable[[list[Array]], Array]) -> Array:
    """Return the squared standard errors (m,...) of ratios of sums (m,n): the sum of (a - ratio b)^2 / (sum of b)^2.

    `total` returns the sums (5 m,...) of rows (n,).
    """
    rows = [row for part in (above, below, above**2, above * below, below**2) for row in part]
    a, b, aa, ab, bb = np.split(total(rows), 5)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = a / b
        return np.asarray(np.maximum(aa - 2 * ratio * ab + ratio**2 * bb, 0) / b**2)


def _exact(rows: list[Array]) -> Array:
    return np.array([[exact_sum(row)] for row in rows])


def _studentised(above: Array, below: Array, resampled: Array, constant: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the ends (m,) of the symmetric studentised intervals of ratios of sums (m,n), or `constant` where nothing varies.

    `resampled` (m,B) are the ratios on resamples; resamples without a defined entry are left out. Where no entry is negative, nor is the
    interval; where none is beyond 100 in size, as of percentages, nor is the interval.
    """
    entries = (below != 0).sum(axis=1)[:, None]
    error, squared = _squared_errors(above, below, _exact), _squared_errors(above, below, lambda rows: sums(rows)[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        value = _exact(list(above)) / _exact(list(below))
        varies = (error > 1e-24 * value**2)[:, 0]
        t = np.abs(resampled - value) / np.sqrt((entries * squared + PRIOR * error) / (entries + PRIOR))
    low, high = (end.copy() for end in constant)
    half = np.sqrt(error[varies, 0]) * np.nanquantile(t[varies], LEVEL, axis=1)
    positive = (above[varies] >= 0).all(axis=1)
    most = np.where((np.abs(above[varies]) <= 100 * below[varies]).all(axis=1), 100, np.inf)
    low[varies] = np.maximum(value[varies, 0] - half, np.where(positive, 0, -most))
    high[varies] = np.minimum(value[varies, 0] + half, most)
    return low, high


def _are_outcomes(above: Array, below: Array) -> bool:
    """Return whether all entries (n,) of sums and counts are 0 or of one size, as of outcomes 0 and 100 and their differences."""
    return is_outcome(above, float(np.abs(above).max(initial=0))) and bool(((below == 0) | (below == 1)).all())


def as_ratio(values: Array) -> tuple[Array, Array]:
    """Return the sum and the count of the defined entries (m,n), whose ratio is their mean."""
    undefined = np.isnan(values)
    if not undefined.any():
        return values, np.broadcast_to(1.0, values.shape)
    return np.where(undefined, 0, values), (~undefined).astype(float)


def spread(values: Array, images: NDArray[Any]) -> Array:
    """Return the standard deviations (m,) whose quotient by the root of the number of images is the standard error of a mean of (m,n).

    Entries may be nan; those of one image in `images` (n,) are one unit. nan for a single image or where no entry is defined.
    """
    above, below = (by_image(side, images) for side in as_ratio(values))
    count = above.shape[1]
    error = _squared_errors(above, below, _exact)[:, 0]
    return np.sqrt(error * count**2 / (count - 1)) if count > 1 else np.full(len(values), np.nan)


def by_image(values: Array, images: NDArray[Any]) -> Array:
    """Sum the columns of (m,n) that belong to the same image."""
    unique, positions = np.unique(images, return_inverse=True)
    if len(unique) == len(images):
        return values
    return np.stack([np.bincount(positions, row, minlength=len(unique)) for row in values])


def medians(columns: Array, images: NDArray[Any] | None = None) -> Intervals:
    """Return medians of m quantities (m,n) with exact intervals: order statistics with binomial ranks.

    These need independent entries: if `images` (n,) repeats, the intervals are nan.
    """
    if images is not None and len(np.unique(images)) < len(images):
        undefined = np.full(len(columns), np.nan)
        return Intervals(np.median(columns, axis=1), undefined, undefined)
    intervals = [stats.quantile_test(column, p=0.5).confidence_interval(LEVEL) for column in columns]
    low, high = np.array(intervals, dtype=float).T
    return Intervals(np.median(columns, axis=1), low, high)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return p of the exact McNemar test of two paired yes/no outcomes (n,): binomial on the images where they differ."""
    return float(sign_tests(np.array((first & ~second).sum()), np.array((second & ~first).sum())))


def sign_tests(wins: Ints, losses: Ints) -> Array:
    """Return p (m,) of the exact two-sided sign tests of wins against losses, without ties; 1 where there are no wins or losses."""
    fewer, both = np.minimum(wins, losses), wins + losses
    tails = stats.binom.cdf(fewer, both, 0.5) + stats.binom.sf(both - fewer - 1, both, 0.5)
    return np.where(wins == losses, 1, np.minimum(1, tails))
