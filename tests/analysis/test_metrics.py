"""Metrics on scores small enough to check by hand, or against sums written out."""

import math
from statistics import harmonic_mean

import numpy as np
import pytest
from builders import fresh

from evalkit.analysis import metrics
from evalkit.analysis.metrics import adcc, area_under, relative_gain
from evalkit.errors import UserError


def test_drop_increase_by_hand():
    full, masked = np.array([0.8, 0.5, 2.0, 0.0, -1.0]), np.array([0.6, 0.7, 2.0, -1.0, -2.0])
    assert metrics.clipped_drop(full, masked) == pytest.approx([0.2, 0, 0, 1, 1])
    relative = metrics.relative_drop(full, masked)
    assert relative[:3] == pytest.approx([25, 0, 0])
    assert np.isnan(relative[3:]).all()
    assert metrics.increased(full, masked).tolist() == [0, 100, 0, 0, 0]


def test_ties_win_for_neither():
    first, second = np.array([0.0, 0.0, 0.1, 0.3]), np.array([0.0, 0.2, 0.1, 0.1])
    assert metrics.wins(first, second).tolist() == [0, 100, 0, 0]
    assert metrics.wins(second, first).tolist() == [0, 0, 0, 100]


def test_best_of_all_against_a_loop():
    drops = fresh().integers(0, 4, (4, 50)).astype(float)
    best = metrics.best_of_all(drops)
    for m in range(4):
        for i in range(50):
            assert best[m, i] == (100 if all(drops[m, i] < drops[o, i] for o in range(4) if o != m) else 0)


def test_gain():
    found = relative_gain(np.array([0.2, 0.5, 0.9, 1.0]), np.array([0.6, 0.4, 0.9, 0.3]))
    assert found[:3] == pytest.approx([50, 0, 0]) and np.isnan(found[3])


def test_adcc_is_a_harmonic_mean():
    coherency, complexity, drop = fresh().uniform(0, 1, (3, 50))
    found = adcc(coherency, complexity, drop)
    for i in range(50):
        assert found[i] == pytest.approx(harmonic_mean([coherency[i], 1 - complexity[i], 1 - drop[i]]))
    assert adcc(coherency.mean(), complexity.mean(), drop.mean()) >= found.mean()


def test_adcc_at_its_edges():
    found = adcc(np.array([1.0, 0.0, 0.5, 0.5, math.nan, 0.0]), np.array([0.0, 0.0, 1.0, 0.5, 0.5, math.nan]), np.array([0, 0, 0, 1, 0, 0]))
    assert np.array_equal(found, [1, 0, 0, 0, math.nan, math.nan], equal_nan=True)
    assert adcc(np.full((2, 3), 0.5), 0.5, np.full(3, 0.5)) == pytest.approx(np.full((2, 3), 0.5))


def test_area():
    rng = fresh()
    grid = np.concatenate([[0.0], np.sort(rng.choice(np.arange(1, 100), 6, replace=False)), [100.0]])
    values = rng.uniform(0, 1, (3, 4, 8))
    expected = sum((grid[i + 1] - grid[i]) / 100 * (values[..., i] + values[..., i + 1]) / 2 for i in range(7))
    assert np.allclose(area_under(list(grid), values), expected)
    shuffled = rng.permutation(8)
    assert np.allclose(area_under(list(grid[shuffled]), values[..., shuffled]), expected)
    assert area_under([0, 100], np.array([0.2, 0.6])) == pytest.approx(0.4)
    assert area_under([0, 50, 100], np.ones(3)) == pytest.approx(1)


@pytest.mark.parametrize("grid", [[0], [10, 100], [0, 90], [0, 50, 50, 100]])
def test_area_needs_the_whole_axis(grid):
    with pytest.raises(UserError, match="from 0 to 100, each once"):
        area_under(grid, np.zeros(len(grid)))
