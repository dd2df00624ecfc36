"""Judgements: the ways in which one run ranks its methods, a protocol point, a score and a metric each, item by item."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.analysis import metrics
from evalkit.analysis.load import CONTROLS, Run
from evalkit.analysis.map_summary import per_item
from evalkit.analysis.stats import Array
from evalkit.analysis.summary import compared_points, item_values, scores_in
from evalkit.control_names import versions
from evalkit.evaluation.columns import AGAINST_BOXES

FAITHFULNESS, MAP, LOCALISATION = "faithfulness", "map", "localisation"
"""What a judgement asks: what the network's score does without pixels; what the map itself looks like; where the object is."""
OF_SCORES = ("average_drop", "increase", "win", "area", "srg", "single_deletion")
NO_JUDGEMENT = ("region_fraction", "others_fraction")
"""Measures of the image, which are the same for all methods."""
KEY = ["metric", "select", "top_percent", "fill", "score"]


@dataclass(frozen=True)
class Judgement:
    """One way to rank M methods, from values of n items (image and explained class)."""

    metric: str
    select: str | None
    top_percent: float
    """nan for soft masks, areas and measures of the map."""
    fill: str | None
    score: str | None
    values: Array
    """(M,n), nan where undefined. Of `win`, the losses that pairs are compared by."""
    images: NDArray[Any]
    """The image (n,) of each item."""

    @property
    def question(self) -> str:
        """What the judgement asks."""
        if self.metric in OF_SCORES:
            return FAITHFULNESS
        return LOCALISATION if self.metric in AGAINST_BOXES else MAP

    @property
    def sign(self) -> int:
        """1 where higher values are better, else -1."""
        return -1 if metrics.lower_is_better(self.metric, self.select) else 1

    @property
    def key(self) -> tuple[str, str | None, float, str | None, str | None]:
        """The values of the columns `KEY`."""
        return self.metric, self.select, self.top_percent, self.fill, self.score

    @property
    def scored(self) -> Array:
        """Values (M,n) whose means rank the methods: of `win`, 100 for each other method beaten, -100 for each lost to, on average."""
        if self.metric != "win":
            return self.values
        others = max(len(self.values) - 1, 1)
        return np.asarray(100 * sum(np.sign(other - self.values) for other in self.values) / others)


def competitors(run: Run) -> list[str]:
    """Return the methods that are judged, controls last: not the control versions (`control_names`) of others."""
    altered = versions(run.methods)
    return [method for method in run.methods if method not in altered]


def contenders(methods: Sequence[str]) -> list[str]:
    """Return the methods that are no controls."""
    return [method for method in methods if method not in CONTROLS]


def judgements_of(run: Run) -> Iterator[Judgement]:
    """Yield all judgements of a run, confidence first: `average_drop`, `increase` and `win` at each point, areas, measures of the maps.

    Average drop asks how much is lost on average, increase on how many images nothing is, win who loses less on more images. The other
    metrics of the tables (median, drop of sums, average gain, mean change, best of all) summarise the same drops and gains once more.
    Left out is what does not depend on the map: points that keep or remove 0 or 100 %, and measures that are the same for all methods.
    """
    chosen = [run.methods.index(method) for method in competitors(run)]
    for score in scores_in(run):
        for point in compared_points(run):
            values, images = item_values(run, point, score)
            top = math.nan if point.top_percent is None else point.top_percent
            for metric, of in values.items():
                if np.isfinite(of).any():
                    yield Judgement(metric, point.select, top, point.fill, score, of[chosen], images)
    for metric, select, fill, measure_score, of, images in per_item(run):
        if metric not in NO_JUDGEMENT:
            yield Judgement(metric, select, math.nan, fill, measure_score, of[chosen], images)
