"""Intervals and paired tests. The same images are resampled for all methods, so differences are paired."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
BATCH_BYTES = 2**26
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
    ratio of their sums. All quantities use the same resamples, and the seed is fixed: the same rows give the same
    table. A resample is represented by how often it contains each image, so all estimates take matrix products.

    Where ENOUGH images or more have a defined entry, the interval is of percentiles. Those of fewer images are too narrow: there the
    interval is the symmetric studentised one (Hall, J. R. Stat. Soc. B 1988), with the linearised standard error of a ratio. Outcomes,
    whose entries are 0 and of one size, keep the percentiles, which cover. Where nothing varies, the interval is the value.

    `images` (n,) gives the image of each entry, if an image has several: they are resampled together.
    """
    pairs = {name: column if isinstance(column, tuple) else _as_ratio(column) for name, column in columns.items()}
    above, below = (np.concatenate([pair[side] for pair in pairs.values()]) for side in (0, 1))
    outcomes = _are_outcomes(above, below)
    if images is not None:
        above, below = (by_image(side, images) for side in (above, below))
    n = above.shape[1]
    few = np.flatnonzero(((below != 0).sum(axis=1) < ENOUGH) & ~outcomes)

    def ratios(counts: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is nan: no entry is defined
            return np.asarray((above @ counts.T) / (below @ counts.T))

    def of_resamples(drawn: NDArray[np.int64], **_: object) -> Array:
        counts = np.stack([np.bincount(resample, minlength=n) for resample in np.atleast_2d(drawn)]).astype(float)
        return np.concatenate([ratios(counts), _squared_errors(above[few], below[few], counts)]) if len(few) else ratios(counts)

    value = ratios(np.ones((1, n)))[:, 0]
    low, high = np.full((2, len(value)), np.nan)
    resampled = np.empty((len(value), 0))
    if n > 1:
        with warnings.catch_warnings():  # a row without defined entries gets nan as its interval
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (np.arange(n),),
                of_resamples,
                vectorized=True,
                method="percentile",
                n_resamples=RESAMPLES,
                confidence_level=LEVEL,
                batch=max(1, BATCH_BYTES // (8 * n)),
                rng=np.random.default_rng(0),
            )
        (low, high), resampled = (end[: len(value)] for end in result.confidence_interval), result.bootstrap_distribution
        resampled, squared = resampled[: len(value)], resampled[len(value) :]
        low[few], high[few] = _studentised(above[few], below[few], resampled[few], squared, (low[few], high[few]))
    ends = np.cumsum([len(pair[0]) for pair in pairs.values()])
    parts = [slice(end - len(pair[0]), end) for end, pair in zip(ends, pairs.values(), strict=True)]
    return {name: Bootstrapped(value[at], low[at], high[at], resampled[at]) for name, at in zip(pairs, parts, strict=True)}


def _squared_errors(above: Array, below: Array, counts: Array) -> Array:
    """Return the squared standard errors (m,B) of ratios of sums (m,n) on resamples (B,n): sum of (a - ratio b)^2 / (sum of b)^2."""
    a, b, aa, ab, bb = (part @ counts.T for part in (above, below, above**2, above * below, below**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = a / b
        return np.asarray(np.maximum(aa - 2 * ratio * ab + ratio**2 * bb, 0) / b**2)


def _studentised(above: Array, below: Array, resampled: Array, squared: Array, constant: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the ends (m,) of the symmetric studentised intervals of ratios of sums (m,n), or `constant` where nothing varies.

    `resampled` (m,B) are the ratios on resamples, `squared` (m,B) their squared standard errors; resamples without a defined entry are
    left out. Where no entry is negative, nor is the interval; where none is beyond 100 in size, as of percentages, nor is the interval.
    """
    whole = np.ones((1, above.shape[1]))
    entries = (below != 0).sum(axis=1)[:, None]
    error = _squared_errors(above, below, whole)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (above @ whole.T) / (below @ whole.T)
        varies = (error > 1e-24 * value**2)[:, 0]
        t = np.abs(resampled - value) / np.sqrt((entries * squared + PRIOR * error) / (entries + PRIOR))
    low, high = (end.copy() for end in constant)
    half = np.sqrt(error[varies, 0]) * np.nanquantile(t[varies], LEVEL, axis=1)
    positive = (above[varies] >= 0).all(axis=1)
    most = np.where((np.abs(above[varies]) <= 100 * below[varies]).all(axis=1), 100, np.inf)
    low[varies] = np.maximum(value[varies, 0] - half, np.where(positive, 0, -most))
    high[varies] = np.minimum(value[varies, 0] + half, most)
    return low, high


def _are_outcomes(above: Array, below: Array) -> NDArray[np.bool_]:
    """Return for which rows (m,n) of sums and counts all entries are 0 or of one size, as of outcomes 0 and 100 and their differences."""
    sizes = np.abs(above)
    one_size = ((sizes == 0) | (sizes == sizes.max(axis=1, keepdims=True, initial=0))).all(axis=1)
    return np.asarray(one_size & ((below == 0) | (below == 1)).all(axis=1))


def _as_ratio(values: Array) -> tuple[Array, Array]:
    """Return the sum and the count of the defined entries, whose ratio is their mean."""
    defined = ~np.isnan(values)
    return np.where(defined, values, 0), defined.astype(float)


def spread(values: Array, images: NDArray[Any]) -> Array:
    """Return the standard deviations (m,) whose quotient by the root of the number of images is the standard error of a mean of (m,n).

    Entries may be nan; those of one image in `images` (n,) are one unit. nan for a single image or where no entry is defined.
    """
    above, below = (by_image(side, images) for side in _as_ratio(values))
    count = above.shape[1]
    error = _squared_errors(above, below, np.ones((1, count)))[:, 0]
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
    return sign_test(int((first & ~second).sum()), int((second & ~first).sum()))


def sign_test(first: int, second: int) -> float:
    """Return p of the exact two-sided sign test of wins against losses, without ties; 1 if there are no wins or losses."""
    return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0
