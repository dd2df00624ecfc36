"""Intervals that cover, tests that agree with closed forms."""

import numpy as np
import pytest
from scipy.stats import binom

from evalkit import stats


def test_bootstrap_interval_matches_the_normal_one():
    values = np.random.default_rng(1).normal(3, 2, (2, 4000))
    found = stats.bootstrap(values)
    half = 1.96 * values.std(axis=1) / np.sqrt(4000)
    assert found.value == pytest.approx(values.mean(axis=1))
    assert found.low == pytest.approx(values.mean(axis=1) - half, abs=0.1 * half.max())
    assert found.high == pytest.approx(values.mean(axis=1) + half, abs=0.1 * half.max())


def test_undefined_entries_are_left_out():
    values = np.array([[1.0, np.nan, 3.0, np.nan], [np.nan] * 4])
    found = stats.bootstrap(values)
    assert found.value[0] == 2
    assert np.isnan(found.value[1])


def test_one_image_has_no_interval():
    found = stats.bootstrap(np.array([[5.0]]))
    assert found.value[0] == 5 and np.isnan(found.low[0])


def test_pairing_makes_differences_sharp():
    rng = np.random.default_rng(2)
    base = rng.normal(50, 20, 500)
    better = base - 1 + rng.normal(0, 2, 500)
    found = stats.bootstrap((better - base)[None])
    assert found.high[0] < 0
    assert stats.p_of_difference(found.resampled)[0] == pytest.approx(1 / stats.RESAMPLES)
    same = stats.bootstrap(rng.normal(0, 1, (1, 500)) * 0 + rng.permutation(np.r_[np.ones(250), -np.ones(250)])[None])
    assert stats.p_of_difference(same.resampled)[0] > 0.9


def test_ratio_of_sums():
    above, below = np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 2.0, 4.0]])
    found = stats.bootstrap_ratio(above, below)
    assert found.value[0] == 0.75
    assert 0.5 <= found.low[0] <= 0.75 <= found.high[0] <= 1


def test_sign_and_mcnemar_are_binomial():
    assert stats.sign_test(3, 9) == pytest.approx(2 * binom.cdf(3, 12, 0.5))
    assert stats.sign_test(0, 0) == 1
    first, second = np.array([1, 1, 1, 0, 0, 1], bool), np.array([1, 0, 0, 0, 1, 0], bool)
    assert stats.mcnemar(first, second) == pytest.approx(2 * binom.cdf(1, 4, 0.5))
