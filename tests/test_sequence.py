"""The confidence sequence against its definition, value by value and candidate by candidate, and its coverage under continuous looking."""

import math

import numpy as np
import pytest
from builders import fresh
from scipy.stats import binom

from evalkit.sequence import confidence_sequence, settled


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Paired differences in points as two methods make them: 28 % zeros, mostly tiny, some near 100, of random sign."""
    size = np.exp(rng.normal(0, 3, shape)).clip(max=100) * rng.choice([0, 1], shape, p=[0.28, 0.72])
    return size * rng.choice([-1, 1], shape)


def by_hand(values: list[float], m: float) -> tuple[float, float]:
    """The largest capital of the two gamblers against the mean m, in [0,1], in plain Python."""
    x = [(value + 100) / 200 for value in values]
    up = down = 1.0
    best_up = best_down = 0.0
    for t in range(1, len(x) + 1):
        squares = 0.25
        for i in range(1, t):
            squares += (x[i - 1] - (0.5 + sum(x[:i])) / (i + 1)) ** 2
        bet = math.sqrt(2 * math.log(2 / 0.05) / (squares / t * t * math.log(1 + t)))
        up *= 1 + min(bet, 0.5 / m) * (x[t - 1] - m)
        down *= 1 - min(bet, 0.5 / (1 - m)) * (x[t - 1] - m)
        best_up, best_down = max(best_up, up), max(best_down, down)
    return best_up / 2, best_down / 2


def test_it_excludes_exactly_the_means_against_which_a_gambler_has_won():
    rng = fresh()
    values = (heavy_tailed(rng, (60,)) / 4 + rng.choice([-30, 20])).clip(-100, 100)
    interval = confidence_sequence(values, 100)
    assert interval.n == 60 and interval.mean == pytest.approx(values.mean())
    assert -100 < interval.low < interval.mean < interval.high < 100
    for m in (*rng.uniform(-99, 99, 30), interval.low - 1e-6, interval.low + 1e-6, interval.high - 1e-6, interval.high + 1e-6, 0.0):
        excluded = max(by_hand(list(values), (m + 100) / 200)) >= 1 / 0.05
        assert excluded == (not interval.low <= m <= interval.high)
    assert settled(values, 100) == interval.settled


def test_once_settled_it_stays_settled():
    values = np.concatenate([np.full(60, 50.0), np.full(300, -20.0)])
    seen = [settled(values[:n], 100) for n in range(len(values))]
    assert seen[60] and not seen[0] and seen == sorted(seen)
    assert confidence_sequence(values[:0], 100).settled is False


def test_coverage_under_continuous_looking():
    """A look after every image up to 5,000, 400 times, at a fixed seed: the naive interval is left far more often than 5 %."""
    rng, trials, most = np.random.default_rng(20), 400, 5_000
    left = naive = 0
    for _ in range(trials):
        values = heavy_tailed(rng, (most,))
        left += settled(values, 100)
        n = np.arange(1, most + 1)
        mean = np.cumsum(values) / n
        spread = np.sqrt(np.maximum(np.cumsum(values**2) / n - mean**2, 0) / n)
        naive += bool((np.abs(mean) > 1.96 * spread)[29:].any())
    assert left <= binom.ppf(0.999, trials, 0.05)
    assert naive > 0.3 * trials
