"""Metrics on scores small enough to check by hand, or against sums written out."""

import math
from itertools import pairwise
from statistics import harmonic_mean

import numpy as np
import pytest
from builders import fresh

from evalkit.analysis import metrics
from evalkit.analysis.metrics import adcc, area_under, lower_is_better, relative_gain, relevance_gain
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


def test_relevance_gain_is_the_loop_over_removal_steps():
    """Both curves from the scores of a set function, step by step, the definition; trapezoids in plain Python floats."""
    rng = fresh()
    relevance, percents = rng.permutation(20), [5, 20, 50, 80, 95]
    weights = rng.normal(size=(20, 20))

    def score(present: list[int]) -> float:
        return float(np.tanh(weights[np.ix_(present, present)].sum()))

    def curve(order: list[int]) -> dict[int, float]:
        return {x: score(sorted(order[round(x / 100 * 20) :])) for x in [0, *percents, 100]}

    most = curve(sorted(range(20), key=lambda i: -relevance[i]))
    least = curve(sorted(range(20), key=lambda i: relevance[i]))
    steps, expected = [0, *percents, 100], 0.0
    for a, b in pairwise(steps):
        expected += (b - a) / 100 * ((least[a] + least[b]) / 2 - (most[a] + most[b]) / 2)
    kept, removed = (np.array([one[x] for x in percents]) for one in (least, most))
    assert relevance_gain(percents, kept, removed) == pytest.approx(expected, abs=1e-12)
    shuffled = rng.permutation(len(percents))
    assert relevance_gain([percents[i] for i in shuffled], kept[shuffled], removed[shuffled]) == pytest.approx(expected, abs=1e-12)
    whole = area_under(steps, np.array([least[x] for x in steps])) - area_under(steps, np.array([most[x] for x in steps]))
    assert whole == pytest.approx(expected, abs=1e-12)
    assert not lower_is_better("srg", None)


def test_relevance_gain_by_hand_and_in_shape():
    assert relevance_gain([50], np.array([[0.8], [0.2]]), np.array([[0.4], [0.3]])) == pytest.approx([0.2, -0.05])
    assert relevance_gain([20, 50], np.ones((2, 3, 2)), np.zeros((2, 3, 2))) == pytest.approx(np.full((2, 3), 0.1 + 0.3 + 0.25))


@pytest.mark.parametrize("removed", [[], [0, 50], [50, 100]])
def test_relevance_gain_needs_inner_percentages(removed):
    with pytest.raises(UserError, match="between 0 and 100"):
        relevance_gain(removed, np.zeros(len(removed)), np.zeros(len(removed)))
