"""Intervals and paired tests. Images are the unit: resampled together for all methods, so differences are paired."""

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


@dataclass(frozen=True)
class Intervals:
    """Estimates of m quantities with their intervals, each (m,); nan where too few images define one."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Bootstrapped(Intervals):
    """With the estimates on all resamples (m, RESAMPLES); (m, 0) where there are fewer than two images."""

    resampled: Array


def bootstrap(columns: Mapping[str, Array | tuple[Array, Array]], images: NDArray[Any] | None = None) -> dict[str, Bootstrapped]:
    """Percentile bootstrap over images of several quantities at once, by name, each for m methods or pairs of them.

    An array (m,n) stands for the mean over its defined entries (nan marks undefined ones), a pair of arrays for the
    ratio of their sums. The same resamples serve everything, and the seed is fixed: the same rows print the same
    table. A resample enters through how often it drew each image, which makes all of it two matrix products.

    `images` (n,) says which image an entry belongs to, where an image has several: they are drawn together.
    """
    pairs = {name: found if isinstance(found, tuple) else _as_ratio(found) for name, found in columns.items()}
    above, below = (np.concatenate([pair[side] for pair in pairs.values()]) for side in (0, 1))
    if images is not None:
        above, below = (_by_image(side, images) for side in (above, below))
    n = above.shape[1]

    def ratios(counts: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):  # nothing defined: nan
            return np.asarray((above @ counts.T) / (below @ counts.T))

    def of_resamples(drawn: NDArray[np.int64], **_: object) -> Array:
        return ratios(np.stack([np.bincount(images, minlength=n) for images in np.atleast_2d(drawn)]).astype(float))

    value = ratios(np.ones((1, n)))[:, 0]
    low = high = np.full(len(value), np.nan)
    resampled = np.empty((len(value), 0))
    if n > 1:
        with warnings.catch_warnings():  # a row without any defined entry has no interval, and says so as nan
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
        (low, high), resampled = result.confidence_interval, result.bootstrap_distribution
    ends = np.cumsum([len(pair[0]) for pair in pairs.values()])
    parts = [slice(end - len(pair[0]), end) for end, pair in zip(ends, pairs.values(), strict=True)]
    return {name: Bootstrapped(value[at], low[at], high[at], resampled[at]) for name, at in zip(pairs, parts, strict=True)}


def _as_ratio(values: Array) -> tuple[Array, Array]:
    """A mean over defined entries, as a sum over a count."""
    defined = ~np.isnan(values)
    return np.where(defined, values, 0), defined.astype(float)


def _by_image(values: Array, images: NDArray[Any]) -> Array:
    """Columns of (m,n) that belong to one image, summed."""
    kinds, of = np.unique(images, return_inverse=True)
    if len(kinds) == len(images):
        return values
    return np.stack([np.bincount(of, row, minlength=len(kinds)) for row in values])


def medians(columns: Array, images: NDArray[Any] | None = None) -> Intervals:
    """Medians of m quantities (m,n) with exact intervals: order statistics whose ranks follow the binomial.

    These need independent entries: where `images` (n,) repeats, there is no interval.
    """
    if images is not None and len(np.unique(images)) < len(images):
        none = np.full(len(columns), np.nan)
        return Intervals(np.median(columns, axis=1), none, none)
    intervals = [stats.quantile_test(column, p=0.5).confidence_interval(LEVEL) for column in columns]
    low, high = np.array(intervals, dtype=float).T
    return Intervals(np.median(columns, axis=1), low, high)


def p_of_difference(resampled: Array) -> Array:
    """Two-sided p of a paired difference from its bootstrap resamples (m,B): twice the smaller tail around zero.

    Never below 1/B, since B resamples cannot tell more.
    """
    if resampled.shape[1] == 0:
        return np.full(len(resampled), np.nan)
    tail = np.minimum((resampled <= 0).mean(axis=1), (resampled >= 0).mean(axis=1))
    return np.clip(2 * tail, 1 / resampled.shape[1], 1)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Exact McNemar test of two paired yes/no outcomes (n,): binomial on the images where they differ."""
    return sign_test(int((first & ~second).sum()), int((second & ~first).sum()))


def sign_test(first: int, second: int) -> float:
    """Exact two-sided sign test of wins against losses, ties dropped; 1 where there are none."""
    return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0
