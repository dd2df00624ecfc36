"""The sign-flip test against all signs, exact convolution and random signs; corrections against definitions."""

import itertools

import numpy as np
import pytest
from builders import fresh
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from evalkit.analysis import significance, stats
from evalkit.analysis.significance import benjamini_hochberg, holm, sign_flip


def all_signs(differences):
    """The test as it is defined, by all 2^n signs."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    return float((np.abs(signs @ differences) >= abs(differences.sum()) * (1 - 1e-9)).mean())


def heavy(rng, shape):
    """Differences with 28 % zeros and heavy tails that end at 100, as drops in confidence have."""
    sizes = np.minimum(100, rng.lognormal(0, 3, shape))
    return np.where(rng.random(shape) < 0.28, 0, sizes * rng.choice([-1, 1], shape, p=[0.4, 0.6]))


def test_few_differences_are_enumerated():
    rng = fresh()
    for n in (1, 2, 5, 11):
        values = np.stack([rng.normal(size=n), heavy(rng, n), rng.integers(-3, 4, n), rng.choice([-100.0, 0, 100], n)])
        np.testing.assert_allclose(sign_flip(values), [all_signs(row) for row in values], rtol=1e-9)


@pytest.mark.parametrize("n", [35, 120])
def test_more_differences_agree_with_exact_convolution(n):
    """Differences of whole hundredths: the distribution of their sum under random signs, one image after another."""
    rng = fresh()
    for _ in range(6):
        whole = np.round(np.clip(heavy(rng, n), -60, 60) * 10).astype(int) + rng.integers(-3, 4, n)
        shares, reach = np.ones(1), 0
        for size in np.abs(whole):
            longer = np.zeros(len(shares) + 2 * size)
            longer[: len(shares)] += shares / 2
            longer[2 * size :] += shares / 2
            shares, reach = longer, reach + size
        sums = np.arange(-reach, reach + 1)
        expected = shares[np.abs(sums) >= abs(whole.sum())].sum()
        (found,) = sign_flip(whole[None] * 1.0)
        assert found == pytest.approx(expected, rel=0.03)


def test_many_differences_agree_with_random_signs_and_with_the_normal_law():
    rng = fresh()
    values = heavy(rng, (3, 2600)) * np.array([[1], [0.3], [0.1]]) + rng.normal(0, 1, (3, 2600))
    found = sign_flip(values)
    normal = 2 * scipy_stats.norm.sf(np.abs(values.sum(1)) / np.sqrt((values**2).sum(1)))
    np.testing.assert_allclose(np.log(found), np.log(normal), rtol=0.05)
    centred = values - values.mean(1, keepdims=True) * 0.9
    signs = rng.choice([-1.0, 1], (20000, 2600))
    share = (np.abs(centred @ signs.T) >= np.abs(centred.sum(1))[:, None]).mean(1)
    assert np.abs(sign_flip(centred) - share).max() < 5 * np.sqrt(0.25 / 20000)


def test_outcomes_have_the_exact_tests_of_mcnemar():
    rng = fresh()
    first, second = rng.random((2, 5, 4000)) < np.array([0.52, 0.48])[:, None, None]
    found = sign_flip(100.0 * first - 100.0 * second)
    np.testing.assert_allclose(found, [stats.mcnemar(*pair) for pair in zip(first, second, strict=True)], rtol=1e-9)


def test_steps_of_a_lattice_need_not_be_whole():
    """Quarters, as shares of four raters: p of the multiples by four, and none of the half of ties that a continuous law leaves out."""
    values = fresh().integers(-4, 5, (5, 90)) * 1.0
    values[:, 0] = 1
    np.testing.assert_allclose(sign_flip(values / 4), sign_flip(values), rtol=1e-9)
    np.testing.assert_allclose(sign_flip(values / 300), sign_flip(values), rtol=1e-6)


def test_p_has_no_floor():
    rng = fresh()
    assert sign_flip(np.full((1, 40), 0.5))[0] == pytest.approx(2.0**-39)
    for n in (60, 500, 5000):
        (p,) = sign_flip(np.abs(rng.normal(size=(1, n))) + 0.1)
        assert 0 < p < 1e-15 and holm(np.append(p, np.ones(5000)))[0] < 1e-10


def test_no_difference_and_no_entry():
    found = sign_flip(np.array([[0.0, 0, 0], [np.nan] * 3, [2, np.nan, -2], [np.nan, 3, np.nan]]))
    np.testing.assert_array_equal(found, [1, np.nan, 1, 1])
    values = fresh().normal(size=(4, 50))
    padded = np.insert(values, [0, 7, 50], [np.nan, 0, np.nan], axis=1)
    np.testing.assert_allclose(sign_flip(padded), sign_flip(values))
    np.testing.assert_allclose(sign_flip(-values), sign_flip(values))


def test_classes_of_one_image_flip_together():
    rng = fresh()
    images = np.repeat(np.arange(9), 3)
    values = rng.normal(size=(2, 27))
    sums = values.reshape(2, 9, 3).sum(2)
    np.testing.assert_allclose(sign_flip(values, images), [all_signs(row) for row in sums], rtol=1e-9)


def test_batches_change_nothing(monkeypatch):
    values = heavy(fresh(), (7, 90))
    whole = sign_flip(values)
    monkeypatch.setattr(significance, "BATCH_BYTES", 1)
    np.testing.assert_array_equal(sign_flip(values), whole)


def test_true_nulls_are_rejected_as_often_as_the_level_says():
    """With random signs, p below 0.05 occurs in 5 % of trials: the bootstrap's p, twice its smaller tail, did in 8 to 10 %."""
    rng = np.random.default_rng(1)
    for n in (30, 60):
        values = np.abs(heavy(rng, (2000, n))) * rng.choice([-1, 1], (2000, n))
        rejected = (sign_flip(values) < 0.05).sum()
        assert scipy_stats.binom.ppf(0.0005, 2000, 0.044) <= rejected <= scipy_stats.binom.ppf(0.9995, 2000, 0.05)


def test_corrections_follow_their_definitions():
    p = fresh().random(40) ** 3
    p[3] = np.nan
    defined = np.sort(p[~np.isnan(p)])
    m = len(defined)
    for level in (0.01, 0.05, 0.2, 0.6):
        step_down = next((i for i in range(m) if defined[i] > level / (m - i)), m)
        assert (holm(p) <= level).sum() == step_down
        step_up = max((i + 1 for i in range(m) if defined[i] <= level * (i + 1) / m), default=0)
        assert (benjamini_hochberg(p) <= level).sum() == step_up
    assert np.isnan(holm(p)[3]) and np.isnan(benjamini_hochberg(p)[3])
    known = p[~np.isnan(p)]
    for ours, theirs in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        np.testing.assert_allclose(ours(known), multipletests(known, method=theirs)[1], rtol=1e-12)


@pytest.mark.parametrize("negligible", [40, 3000])
def test_negligible_differences_of_the_other_sign_do_not_make_p_large(negligible):
    """Of 40 differences all are positive: with many others that are a trillionth as large, p stays near 2^-39."""
    rng = fresh()
    large, small = rng.uniform(1, 2, 40), rng.choice([-1, 1], negligible) * 1e-13 * rng.uniform(1, 2, negligible)
    small[0] = -2e-13
    p = sign_flip(np.concatenate([large, small])[None])[0]
    assert 2.0**-39 / 2 ** min(negligible, 900) <= p <= 2.0**-39 * 1.001
