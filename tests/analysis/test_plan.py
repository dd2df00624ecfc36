"""The images of a plan against simulated tests, closed forms and numbers by hand."""

import numpy as np
import pytest
from builders import fresh, make_run
from scipy import stats as scipy_stats

from evalkit.analysis import plan as planning
from evalkit.analysis import stats
from evalkit.analysis.plan import level_of_each, plan
from evalkit.analysis.sample_size import images_needed
from evalkit.analysis.significance import sign_flip
from evalkit.analysis.summary import compare
from evalkit.errors import UserError


def test_images_are_those_of_a_paired_t_test():
    """The power of the t test at these images, by the noncentral t distribution, is the power asked for."""
    rng = fresh()
    for level, power in ((0.05, 0.8), (0.001, 0.9), (1e-5, 0.8)):
        spread = rng.uniform(5, 50)
        difference = spread * rng.uniform(0.02, 0.15)
        normal = rng.normal(size=4000)
        differences = difference + spread * (normal - normal.mean()) / normal.std()
        n = float(images_needed(differences[None], np.array([difference]), level, power)[0])
        shift, bound = np.sqrt(n) * difference / spread, scipy_stats.t.isf(level / 2, n - 1)
        assert scipy_stats.nct.sf(bound, n - 1, shift) == pytest.approx(power, abs=0.02)


def test_images_for_outcomes_are_those_of_mcnemar():
    """The exact power of McNemar's test over all numbers of images where the methods differ, of them in favour of the first."""
    level, power, better, worse = 0.01, 0.8, 0.16, 0.07
    differences = np.repeat([100.0, -100.0, 0.0], [16, 7, 77])
    n = int(images_needed(differences[None], np.array([100 * (better - worse)]), level, power, 100)[0])
    found = 0.0
    for differing in range(n + 1):
        for first in range(differing + 1):
            if scipy_stats.binom.pmf(differing, n, better + worse) < 1e-9:
                break
            if stats.sign_tests(np.array(first), np.array(differing - first)) <= level:
                found += scipy_stats.binom.pmf(differing, n, better + worse) * scipy_stats.binom.pmf(
                    first, differing, better / (better + worse)
                )
    assert found == pytest.approx(power, abs=0.03)


def test_images_at_the_small_levels_of_large_families():
    """Heavy tails and differences of nearly one sign, where the normal approximation asks for up to seven times as many images."""
    rng, level = np.random.default_rng(11), 0.05 / 1080
    for of in (
        20 * rng.standard_exponential(60) ** 3 - 2,
        rng.beta(0.3, 2, 60) * 90,
        rng.normal(9, 20, 200),
        30 * rng.standard_t(3, 300) + 12,
    ):
        n = int(images_needed(of[None], np.array([of.mean()]), level, 0.8)[0])
        for sign in (1, -1):
            found = (sign_flip(sign * rng.choice(of, (600, n))) <= level).mean()
            assert 0.72 < found < 0.9 or (n == 17 and found == 1), (of[:3], n, found)  # no difference of these is negative
        assert images_needed(-of[None], np.array([-of.mean()]), level, 0.8)[0] == n


def test_images_where_one_method_wins_everywhere():
    """p is 2 to the power of 1 - n; where the methods differ on half of the images, the exact power of the binomial."""
    level = 0.05 / 1080
    n = int(images_needed(np.full((1, 60), 5.0), np.array([5.0]), level, 0.8)[0])
    assert 2.0 ** (1 - n) <= level < 2.0 ** (2 - n) and n == 16
    half = int(images_needed(np.repeat([[0.0, 5.0]], 30, axis=1), np.array([2.5]), level, 0.8)[0])
    assert scipy_stats.binom.sf(n - 1, half, 0.5) == pytest.approx(0.8, abs=0.1)


def test_a_smaller_difference_needs_more_images():
    """The pilot's images are weighed so that their mean is the one that is asked about: outcomes of known shares by the same formula."""
    of = np.repeat([100.0, -100.0, 0.0], [16, 7, 77])
    wanted = 100 * (0.12 - 0.08)
    c = np.log(np.roots([16 * (1 - wanted / 100), -77 * wanted / 100, -7 * (1 + wanted / 100)]).max())
    shares = np.array([16 * np.exp(c), 7 * np.exp(-c), 77])
    counts = np.round(shares / shares.sum() * 10**5).astype(int)
    there = np.repeat([100.0, -100.0, 0.0], counts)
    asked = images_needed(of[None], np.array([wanted]), 0.01, 0.8, 100)[0]
    assert asked == pytest.approx(images_needed(there[None], np.array([there.mean()]), 0.01, 0.8, 100)[0], rel=0.01)
    assert asked > images_needed(of[None], np.array([of.mean()]), 0.01, 0.8, 100)[0] and np.isinf(
        images_needed(of[None], np.zeros(1), 0.01, 0.8)[0]
    )


def pilot(tmp_path, n=300, **settings):
    rng = np.random.default_rng(4)
    full = rng.uniform(5, 9, n)
    drops = {"ablation_cam": rng.beta(0.5, 2, n), "grad_cam": rng.beta(0.6, 2, n), "centre": rng.beta(2, 2, n)}
    return make_run(tmp_path / "pilot", full, {name: full * (1 - drop) for name, drop in drops.items()}, **settings)


def test_a_run_of_so_many_images_finds_the_difference(tmp_path):
    """Differences of the pilot, resampled at the images that the plan names: the sign-flip test finds as many as it says."""
    run = pilot(tmp_path)
    table = plan(run, power=0.8)
    row = (
        table[(table["first"] == "ablation_cam") & (table.second == "grad_cam") & (table.score == "activation")]
        .set_index("metric")
        .loc["average_drop"]
    )
    rows = run.scored.pivot(index="method", columns="index", values="logit_masked") / run.scored.groupby("index").logit_full.first()
    differences = 100 * (rows.loc["grad_cam"] - rows.loc["ablation_cam"]).to_numpy()
    assert row.difference == pytest.approx(differences.mean()) and row.sd == pytest.approx(differences.std(ddof=1))
    trials = np.random.default_rng(5).choice(differences, (1500, int(row.images)))
    assert 0.76 < (sign_flip(trials) <= row.level).mean() < 0.84
    assert row.half_width_5000 == pytest.approx(1.96 * row.sd / np.sqrt(5000), rel=1e-3)


def test_the_ends_of_the_interval_and_the_family(tmp_path):
    run = pilot(tmp_path)
    table, tests = plan(run), compare(run)
    assert (table.level == 0.05 / len(tests)).all() and (plan(run, correct="none").level == 0.05).all()
    holds_zero = (tests.low <= 0) & (tests.high >= 0)
    assert np.isinf(table.images_high[holds_zero]).all() and holds_zero.any() and not holds_zero.all()
    told = table[~holds_zero & (table.difference.abs() > 0)]
    assert ((told.images_low <= told.images) & (told.images <= told.images_high)).all()
    assert (told.level == 0.05 / 18).all()
    p = np.array([1e-6, 0.001, 0.02, 0.9, np.nan])
    assert level_of_each(p, 0.05, "bh") == pytest.approx(0.05 * 3 / 4) and level_of_each(p, 0.05, "holm") == 0.05 / 4


def test_classes_of_one_image_are_one_unit():
    rng = fresh()
    values, images = rng.normal(size=(2, 90)), np.repeat(np.arange(30), 3)
    assert stats.spread(np.repeat(values, 2, axis=1), np.repeat(np.arange(90), 2)) == pytest.approx(values.std(axis=1, ddof=1))
    assert stats.spread(values, images) == pytest.approx(values.reshape(2, 30, 3).mean(2).std(axis=1, ddof=1))
    values[0, :6] = np.nan  # two images without a defined entry
    defined = values[0, 6:].reshape(28, 3).mean(1)
    assert stats.spread(values, images)[0] / np.sqrt(30) == pytest.approx(defined.std(ddof=0) / np.sqrt(28) * np.sqrt(30 / 29))


def test_runs_that_give_no_plan(tmp_path):
    one = make_run(tmp_path / "one", np.ones(20), {"grad_cam": np.full(20, 0.5)})
    with pytest.raises(UserError, match="one has one method, grad_cam, so there is no difference to plan for"):
        plan(one)
    few = make_run(tmp_path / "few", np.ones(4), {"grad_cam": np.full(4, 0.5), "centre": np.full(4, 0.4)})
    with pytest.raises(UserError, match=f"few has 4 scored images, too few .*: give a run of {planning.FEWEST} or more"):
        plan(few)
    for settings, says in (
        ({"power": 1.0}, "--power 1 is not valid"),
        ({"level": 0.0}, "--level 0"),
        ({"correct": "hol"}, "--correct hol"),
    ):
        with pytest.raises(UserError, match=says):
            plan(pilot(tmp_path), **settings)
