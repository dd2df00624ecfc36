"""The simulation of small samples, end to end, and its rates against a loop."""

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats
from small_samples import cases, main, simulate, stand_in


def test_true_nulls_and_coverage_lie_in_binomial_bands():
    """The bootstrap's p and percentiles, which the tables used to print, fall outside of the bands at 30 images."""
    draw, truth = cases(stand_in())["differences, random signs"]
    found = simulate(draw, truth, 30, 2000)
    low, high = scipy_stats.binom.ppf([0.001, 0.999], 2000, 0.05) / 20
    assert found["sign_flip_rejects"] <= high < found["bootstrap_rejects"] and found["sign_flip_rejects"] > low - 1
    assert found["percentiles_cover"] < 100 - high <= found["covers"] and found["width"] > found["percentiles_width"]


def test_means_and_ratios_are_the_truth_that_coverage_is_counted_against():
    for name, (draw, truth) in cases(stand_in(60, seed=3)).items():
        above, below = draw(np.random.default_rng(2), 200, 3000)
        means = above.sum(1) / below.sum(1)
        assert abs(means.mean() - truth) < 5 * means.std() / np.sqrt(200), name


def test_the_table_is_written(tmp_path):
    (tmp_path / "differences.txt").write_text("\n".join(map(str, stand_in(50, seed=1))))
    main(tmp_path / "differences.txt", tmp_path / "out", trials=3)
    table = pd.read_csv(tmp_path / "out" / "small_samples.csv")
    assert set(table.source) == {"stand-in", "of a run"} and len(table) == 4 * (9 + 3)
    assert table[["covers", "sign_flip_rejects"]].isin([0, 100 / 3, 200 / 3, 100]).all().all() or table.covers.between(0, 100).all()
