"""Friedman's test over images and Nemenyi's critical difference of mean ranks (Demšar, JMLR 2006, section 3.2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from evalkit.analysis.load import Run
from evalkit.analysis.stats import Array
from evalkit.analysis.summary import item_values
from evalkit.point import Point

ALPHA = 0.05


@dataclass(frozen=True)
class Friedman:
    """Mean ranks of k methods over n images, 1 the best, with Friedman's p and Nemenyi's critical difference."""

    ranks: Array
    p: float
    difference: float
    n: int

    def cliques(self) -> list[list[int]]:
        """Return the longest runs of places in the order of the ranks whose first and last differ by less than the critical difference."""
        ranks = np.sort(self.ranks, kind="stable")
        runs = [
            [place for place in range(start, len(ranks)) if ranks[place] - ranks[start] < self.difference] for start in range(len(ranks))
        ]
        return [run for i, run in enumerate(runs) if len(run) > 1 and not (i and set(run) <= set(runs[i - 1]))]


def friedman(run: Run, methods: Sequence[str], point: Point, score: str) -> Friedman:
    """Rank three or more methods on each image by the score lost at one point (`summary.item_values`, win), equal ones sharing a rank.

    Where several classes of an image are explained, its ranks are their means. p is nan where all ranks are equal.
    """
    values, images = item_values(run, point, score)
    losses = values["win"][[run.methods.index(method) for method in methods]]
    ranks = pd.DataFrame(stats.rankdata(losses, axis=0).T).groupby(images).mean().to_numpy().T
    k, n = ranks.shape
    p = float(stats.friedmanchisquare(*ranks).pvalue) if n > 1 and (ranks != ranks[0]).any() else float("nan")
    quantile = float(stats.studentized_range.ppf(1 - ALPHA, k, np.inf)) / np.sqrt(2)
    return Friedman(ranks.mean(1), p, quantile * np.sqrt(k * (k + 1) / (6 * n)), n)
