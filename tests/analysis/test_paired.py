"""Differences of methods' resamples are the resamples of their differences, and where they are not, the differences are resampled."""

import itertools

import numpy as np
import pytest
from builders import fresh
from scipy.stats import binomtest

from evalkit.analysis import metrics, paired, stats
from evalkit.analysis.significance import sign_flip


def by_definition(metric, values, pairs, images):
    differences = metrics.differences(metric, *values[pairs.T])
    return stats.bootstrap({"d": differences}, images)["d"], sign_flip(differences, images)


@pytest.mark.parametrize("metric", ["average_drop", "win"])
@pytest.mark.parametrize("items", [1, 3])
@pytest.mark.parametrize("images", [150, 450])
def test_all_pairs_are_those_resampled_directly(metric, items, images, monkeypatch):
    """With equal methods, methods equal but for rounding, values undefined for all methods alike, and for one alone."""
    monkeypatch.setattr(paired, "TOGETHER", 1000)
    monkeypatch.setattr(paired, "TOGETHER_RESAMPLED", 3000)
    rng, n = fresh(), images * items
    values = rng.uniform(0, 100, (6, n)) * (rng.random((6, n)) < 0.8)
    values[1] = values[0]
    values[2] = values[0] + np.where(rng.random(n) < 0.05, 1e-9, 0)
    values[:, rng.random(n) < 0.1] = np.nan
    values[5, rng.random(n) < 0.2] = np.nan
    at = np.repeat(np.arange(images), items)
    pairs = np.array(list(itertools.combinations(range(6), 2)))
    means = None if metric == "win" else stats.bootstrap({"m": values}, at)["m"]
    found = paired.tested(metric, values, means, pairs, at, exact=False)
    expected, p = by_definition(metric, values, pairs, at)
    for name in ("low", "high"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.difference, expected.value, rtol=1e-12, atol=1e-16)
    np.testing.assert_array_equal(found.p, p)
    assert found.low[0] == found.high[0] == found.difference[0] == 0
    assert found.n.tolist() == [int(np.isfinite(values[a] - values[b]).sum()) for a, b in pairs]


@pytest.mark.parametrize("images", [150, 450])
def test_outcomes_are_those_of_their_differences(images):
    rng, at = fresh(), np.arange(images)
    values = 100.0 * (rng.random((5, images)) < [[0.1], [0.4], [0.4], [0.0], [1.0]])
    values[2, 7:] = values[1, 7:]
    pairs = np.array(list(itertools.combinations(range(5), 2)))
    found = paired.tested("increase", values, stats.bootstrap({"m": values}, at)["m"], pairs, at, exact=True)
    differences = values[pairs[:, 0]] - values[pairs[:, 1]]
    expected = stats.bootstrap({"d": differences}, at)["d"]
    np.testing.assert_array_equal(found.difference, expected.value)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=1e-12, atol=1e-12)
    for p, row in zip(found.p, differences, strict=True):
        wins, losses = int((row > 0).sum()), int((row < 0).sum())
        assert p == pytest.approx(binomtest(wins, wins + losses).pvalue if wins + losses else 1, rel=1e-9)
    assert (found.n == images).all()


def test_no_pairs():
    found = paired.tested("average_drop", np.ones((1, 5)), None, np.empty((0, 2), int), np.arange(5), exact=False)
    assert all(len(column) == 0 for column in found)
