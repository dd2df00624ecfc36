"""Intervals and paired tests. Images are the unit: resampled together for all methods, so differences are paired."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Intervals:
    """Estimates of m quantities with their percentile bootstrap intervals, each (m,), and the resamples (m, RESAMPLES)."""

    value: Array
    low: Array
    high: Array
    resampled: Array


def nanmean(columns: Array, axis: int = -1) -> Array:
    """The mean of what is defined; nan, without a warning, where nothing is."""
    if not np.isnan(columns).any():
        return np.asarray(columns.mean(axis=axis))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(columns, axis=axis))


def bootstrap(columns: Array, statistic: Callable[..., Array] = nanmean) -> Intervals:
    """Percentile bootstrap over images of m statistics at once: `columns` is (m,n), nan where undefined.

    The same resamples serve all m. With fewer than two images the interval is unknown (nan). The seed is fixed: the
    same rows print the same table.
    """
    return _bootstrap((columns,), statistic)


def bootstrap_ratio(numerators: Array, denominators: Array) -> Intervals:
    """The same for m ratios of sums over images: sum(numerators) / sum(denominators), each (m,n)."""

    def ratio(above: Array, below: Array, axis: int = -1) -> Array:
        return np.asarray(above.sum(axis=axis) / below.sum(axis=axis))

    return _bootstrap((numerators, denominators), ratio)


def _bootstrap(samples: tuple[Array, ...], statistic: Callable[..., Array]) -> Intervals:
    value = statistic(*samples, axis=-1)
    if samples[0].shape[1] < 2:
        unknown = np.full_like(value, np.nan)
        return Intervals(value, unknown, unknown, np.empty((len(value), 0)))
    with warnings.catch_warnings():  # a column without any defined entry has no interval, and says so as nan
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = _resample(samples, statistic)
    interval = result.confidence_interval
    return Intervals(value, np.asarray(interval.low), np.asarray(interval.high), np.asarray(result.bootstrap_distribution))


def _resample(samples: tuple[Array, ...], statistic: Callable[..., Array]) -> Any:
    return stats.bootstrap(
        samples,
        statistic,
        axis=-1,
        vectorized=True,
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        batch=max(1, 2**23 // samples[0].size),  # 64 MiB a batch
        rng=np.random.default_rng(0),
    )


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
