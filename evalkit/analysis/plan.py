"""How many images a comparison needs, from the differences of a finished pilot run."""

import itertools
from typing import get_args

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from evalkit.analysis import significance, stats
from evalkit.analysis.load import Run
from evalkit.analysis.sample_size import images_needed
from evalkit.analysis.significance import Correction
from evalkit.analysis.stats import Array
from evalkit.analysis.summary import FLIP, compare, compared_points, differences_of, scores_in
from evalkit.errors import UserError
from evalkit.point import Point

SIZES = (1000, 5000, 50000)
"""Numbers of images for which half-widths and times are given."""
FEWEST = 10


def level_of_each(p: Array, level: float, correct: Correction) -> float:
    """Return the level at which each comparison is planned, so that it counts after the correction for all, whose p (m,) are given.

    Of Holm's it is the first step's, level / m (Bonferroni), which Holm's procedure never falls below. Of Benjamini and Hochberg's it is
    level k / m, for the k comparisons, at least one, that the pilot itself rejects.
    """
    defined = p[~np.isnan(p)]
    if correct == "none" or not len(defined):
        return level
    rejected = 1 if correct == "holm" else max(1, int((significance.benjamini_hochberg(defined) <= level).sum()))
    return level * rejected / len(defined)


def plan(run: Run, power: float = 0.8, level: float = 0.05, correct: Correction = "holm") -> pd.DataFrame:
    """Return one row for each pair of methods, protocol point, score and metric of a pilot run.

    `difference` and `sd` are of images, in percent; `images` are needed at the observed difference, `images_low` at the end of its 95 %
    interval that is farther from zero, `images_high` at the nearer one, inf if the interval holds zero. `half_width_N` is half the 95 %
    interval of N images, `seconds` the time of `images` at the pilot's images/s, nan if that is unknown.
    Raises UserError for a run of one method or of fewer than FEWEST scored images, and for a power, level or correction that is none.
    """
    _check(run, power, level, correct)
    tests = compare(run)
    each = level_of_each(tests.p.to_numpy(float), level, correct)
    table = tests.drop(columns=["p_holm"]).assign(sd=np.nan, level=each)
    near, far = np.sort(np.abs(tests[["low", "high"]].to_numpy()), axis=1).T
    near = np.where((tests.low <= 0) & (tests.high >= 0), 0, near)  # cannot be told from zero
    means = {"images": tests.difference.to_numpy(), "images_low": far, "images_high": near}
    sign = np.where(tests.difference < 0, -1, 1)
    found = [_of_point(run, point, score) for point, score in itertools.product(compared_points(run), scores_in(run))]
    table["sd"], differences = (np.concatenate([one[i] for one in found]) for i in (0, 1))
    step = np.where(tests.test == FLIP, 0, 100)
    for name, size in means.items():
        table[name] = images_needed(differences, np.abs(size) * sign, each, power, step)
    table["images_low"], table["images_high"] = table[["images_low", "images"]].min(axis=1), table[["images_high", "images"]].max(axis=1)
    for count in SIZES:
        table[f"half_width_{count}"] = scipy_stats.norm.isf((1 - stats.LEVEL) / 2) * table.sd / np.sqrt(count)
    table["seconds"] = table.images / run.counts()["images_per_second"]
    return table


def _of_point(run: Run, point: Point, score: str) -> tuple[Array, Array]:
    """Return standard deviations (m,), and the differences (m,n) that images contribute to means, of the comparisons at one point."""
    paired = differences_of(run, point, score)
    columns = np.stack(list(paired.columns.values()), axis=1)
    columns = columns.reshape(-1, columns.shape[-1])  # pair by pair, as `compare` has them
    above = stats.by_image(np.nan_to_num(columns), paired.images)
    count = stats.by_image((~np.isnan(columns)).astype(float), paired.images).mean(axis=1, keepdims=True)
    return stats.spread(columns, paired.images), above / np.where(count > 0, count, 1)


def _check(run: Run, power: float, level: float, correct: str) -> None:
    for name, value in (("power", power), ("level", level)):
        if not 0 < value < 1:
            raise UserError(f"--{name} {value:g} is not valid: give a number between 0 and 1, such as {0.8 if name == 'power' else 0.05}")
    if correct not in get_args(Correction):
        raise UserError(f"--correct {correct} is not valid: give {', '.join(get_args(Correction))}")
    if len(run.methods) < 2:
        raise UserError(f"{run.path} has one method, {run.methods[0]}, so there is no difference to plan for: give a run of two or more")
    if not compared_points(run):
        raise UserError(f"{run.path} keeps or removes 0 or 100 % at every protocol point, so there is no difference to plan for")
    scored = run.counts()["scored"]
    if scored < FEWEST:
        raise UserError(f"{run.path} has {scored} scored images, too few to estimate how differences vary: give a run of {FEWEST} or more")
