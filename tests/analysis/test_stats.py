"""Intervals that cover, tests that agree with closed forms."""

import numpy as np
import pytest
import scipy.stats
from builders import fresh
from scipy.stats import binom, binomtest

from evalkit.analysis import resampling, stats


def mean(values):
    return stats.bootstrap({"mean": np.asarray(values)})["mean"]


def test_bootstrap_interval_matches_the_normal_one():
    values = np.random.default_rng(1).normal(3, 2, (2, 4000))
    found = mean(values)
    half = 1.96 * values.std(axis=1) / np.sqrt(4000)
    assert found.value == pytest.approx(values.mean(axis=1))
    assert found.low == pytest.approx(values.mean(axis=1) - half, abs=0.1 * half.max())
    assert found.high == pytest.approx(values.mean(axis=1) + half, abs=0.1 * half.max())


def test_bootstrap_is_that_of_scipy():
    """Counting draws instead of gathering values changes nothing: scipy's own mean over the same resamples."""
    values = np.random.default_rng(3).exponential(2, stats.ENOUGH)
    plain = scipy.stats.bootstrap((values,), np.mean, n_resamples=resampling.RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    found = mean(values[None])
    np.testing.assert_allclose(found.resampled[0], plain.bootstrap_distribution, rtol=1e-12)
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(plain.confidence_interval))


def test_undefined_entries_are_left_out():
    found = mean([[1.0, np.nan, 3.0, np.nan], [np.nan] * 4])
    assert found.value[0] == 2
    assert np.isnan(found.value[1]) and np.isnan(found.low[1])


def test_one_image_has_no_interval():
    found = mean([[5.0]])
    assert found.value[0] == 5 and np.isnan(found.low[0])


def test_pairing_makes_differences_sharp():
    rng = np.random.default_rng(2)
    base = rng.normal(50, 20, 500)
    better = base - 1 + rng.normal(0, 2, 500)
    found = mean((better - base)[None])
    assert found.high[0] < 0


def test_several_quantities_share_their_resamples():
    values = np.random.default_rng(4).normal(size=(3, 40))
    together = stats.bootstrap({"a": values[:1], "ratio": (values[1:] ** 2, np.ones((2, 40))), "b": values[2:]})
    assert together["ratio"].value == pytest.approx((values[1:] ** 2).mean(axis=1))
    np.testing.assert_allclose(together["b"].resampled, mean(values[2:]).resampled, rtol=1e-9)
    np.testing.assert_allclose(together["a"].low, mean(values[:1]).low)


def test_ratio_of_sums():
    found = stats.bootstrap({"ratio": (np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 2.0, 4.0]]))})["ratio"]
    assert found.value[0] == 0.75
    assert 0 < found.low[0] < 0.75 < found.high[0] < 2


def test_median_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(5)
    found = stats.medians(rng.exponential(1, (800, 60)))
    covered = (found.low <= np.log(2)) & (np.log(2) <= found.high)
    assert 0.93 < covered.mean() < 0.995  # never below its level, ties of ranks aside
    assert np.isnan(stats.medians(np.ones((1, 3))).low[0])


def test_sign_and_mcnemar_are_binomial():
    wins = fresh().integers(0, [[3], [40], [5000], [50_000]], (4, 30)).ravel()
    losses = fresh().permutation(wins)
    expected = [binomtest(a, a + b).pvalue if a + b else 1 for a, b in zip(wins.tolist(), losses.tolist(), strict=True)]
    np.testing.assert_allclose(stats.sign_tests(wins, losses), expected, rtol=1e-9)
    assert stats.sign_tests(np.array([0]), np.array([0])) == 1
    first, second = np.array([1, 1, 1, 0, 0, 1], bool), np.array([1, 0, 0, 0, 1, 0], bool)
    assert stats.mcnemar(first, second) == pytest.approx(2 * binom.cdf(1, 4, 0.5))


def test_entries_of_one_image_are_drawn_together():
    """As many entries as images, doubled: the same estimate, and the interval of the images, not of the entries."""
    values = fresh().normal(size=(2, 300))
    twice, images = np.repeat(values, 2, axis=1), np.repeat(np.arange(300), 2)
    clustered = stats.bootstrap({"mean": twice}, images)["mean"]
    alone = stats.bootstrap({"mean": values})["mean"]
    assert clustered.value == pytest.approx(alone.value) and clustered.low == pytest.approx(alone.low)
    independent = stats.bootstrap({"mean": twice})["mean"]
    assert (clustered.high - clustered.low > 1.2 * (independent.high - independent.low)).all()
    assert np.isnan(stats.medians(twice, images).low).all() and not np.isnan(stats.medians(values, np.arange(300)).low).any()


def test_images_may_have_any_order_and_number_of_entries():
    rng = fresh()
    images = rng.integers(0, 40, 150)
    values = rng.normal(size=(1, 150))
    found = stats.bootstrap({"mean": values}, images)["mean"]
    assert found.value == pytest.approx(values.mean(axis=1))
    rows = [values[0, images == i] for i in np.unique(images)]
    draws = np.random.default_rng(0)
    means = [np.concatenate([rows[i] for i in draws.integers(0, len(rows), len(rows))]).mean() for _ in range(4000)]
    assert found.low[0] == pytest.approx(np.quantile(means, 0.025), abs=0.05)


def heavy(rng, shape):
    return np.where(rng.random(shape) < 0.28, 0, np.minimum(100, rng.lognormal(0.5, 2.5, shape)) * rng.choice([-1.0, 1.0], shape))


@pytest.mark.parametrize("n", [30, 60])
def test_intervals_of_few_images_cover(n):
    """Percentiles cover 89 and 92 % of such heavy-tailed differences, below the band of 1,500 trials at 95 %."""
    found = mean(heavy(np.random.default_rng(6), (1500, n)))
    covered = ((found.low <= 0) & (found.high >= 0)).sum()
    low, high = np.quantile(found.resampled, [0.025, 0.975], axis=1)
    assert ((low <= 0) & (high >= 0)).sum() < binom.ppf(0.001, 1500, 0.95) <= covered


def test_intervals_of_skewed_ratios_cover_better_than_percentiles():
    rng = np.random.default_rng(7)
    whole = rng.lognormal(1, 0.8, (1500, 40))
    part = whole * np.where(rng.random(whole.shape) < 0.4, 0, 100 * rng.beta(0.5, 1.5, whole.shape))
    found = stats.bootstrap({"ratio": (part, whole)})["ratio"]
    low, high = np.quantile(found.resampled, [0.025, 0.975], axis=1)
    assert ((found.low <= 15) & (found.high >= 15)).mean() > 0.92 > ((low <= 15) & (high >= 15)).mean()
    assert (found.low >= 0).all() and (found.high <= 100).all()


def test_enough_images_and_outcomes_keep_percentiles():
    rng = fresh()
    many = heavy(rng, (3, stats.ENOUGH))
    outcomes = rng.choice([-100.0, 0, 100], (3, 45))
    for values in (many, outcomes):
        found = mean(values)
        low, high = np.quantile(found.resampled, [0.025, 0.975], axis=1)
        np.testing.assert_allclose((found.low, found.high), (low, high))
    sparse = np.where(rng.random((1, 2000)) < 0.97, np.nan, heavy(rng, (1, 2000)) + 1)  # 60 of 2,000 images have an entry
    found = mean(sparse)
    assert found.high[0] - found.value[0] == pytest.approx(found.value[0] - found.low[0])


def test_where_nothing_varies_the_interval_is_the_value():
    found = stats.bootstrap(
        {"a": np.full((1, 25), 3.3), "zero": np.zeros((1, 25)), "ratio": (np.full((1, 25), 2.0), np.full((1, 25), 4.0))}
    )
    for name, expected in (("a", 3.3), ("zero", 0.0), ("ratio", 0.5)):
        assert (found[name].value[0], found[name].low[0], found[name].high[0]) == pytest.approx((expected,) * 3)
