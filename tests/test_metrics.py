"""Metrics on scores small enough to check by hand."""

import numpy as np
import pytest

from evalkit import metrics


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
    drops = np.random.default_rng().integers(0, 4, (4, 50)).astype(float)
    best = metrics.best_of_all(drops)
    for m in range(4):
        for i in range(50):
            assert best[m, i] == (100 if all(drops[m, i] < drops[o, i] for o in range(4) if o != m) else 0)
