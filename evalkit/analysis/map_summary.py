"""Summaries of the maps (complexity, coherency, ADCC, localisation) and areas under and between the curves over thresholds."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from evalkit.analysis import metrics, stats
from evalkit.analysis.load import Run
from evalkit.analysis.summary import main_score, scores_in, scores_of
from evalkit.evaluation.columns import AGAINST_BOXES, MEASURES
from evalkit.point import Point
from evalkit.threads import mapped


def summarise_maps(run: Run) -> pd.DataFrame:
    """Return each measure of the maps and each area with its 95 % interval, one row for each method and metric.

    `n` counts the items (image and explained class) where the metric is defined. The table is empty if none is.
    """
    rows = [
        {
            "run": str(run.path),
            "model": run.name,
            "method": method,
            "select": select,
            "fill": fill,
            "score": score,
            "metric": metric,
            "lower_is_better": metrics.lower_is_better(metric, select),
            "n": int(np.isfinite(values[i]).sum()),
            "value": estimates.value[i],
            "low": estimates.low[i],
            "high": estimates.high[i],
        }
        for (metric, select, fill, score, values, _), estimates in mapped(_estimated, per_item(run))
        for i, method in enumerate(run.methods)
    ]
    return pd.DataFrame(rows)


_Columns = tuple[str, str | None, str | None, str | None, np.ndarray, np.ndarray]
"""The metric, select, fill, score, values (M,n) and images (n,) of the values."""


def per_item(run: Run) -> Iterator[_Columns]:
    """Yield each measure of the maps, area and gain, with its values on every item; what has no `select` is of the map alone."""
    yield from _measures(run)
    yield from _areas(run)
    yield from _gains(run)


def _estimated(columns: _Columns) -> tuple[_Columns, stats.Bootstrapped]:
    metric, _, _, _, values, images = columns
    return columns, stats.bootstrap({metric: values}, images)[metric]


def _measures(run: Run) -> Iterator[_Columns]:
    images = _images(run)
    for name in MEASURES:
        if name in run.table.measured:
            values = run.table.measure(name)
            if np.isfinite(values).any():
                yield name, None, None, None, values * (100 if name in AGAINST_BOXES else 1), images
    soft = Point("soft", None, "black")
    if {"coherency", "complexity"} <= run.table.measured and soft in run.points:
        coherency = run.table.measure("coherency")
        if np.isfinite(coherency).any():
            full, masked, _ = scores_of(run, soft, main_score(run))
            drop = metrics.relative_drop(full, masked, raw=run.raw) / 100
            yield "adcc", "soft", "black", main_score(run), metrics.adcc(coherency, run.table.measure("complexity"), drop), images


def _areas(run: Run) -> Iterator[_Columns]:
    """Yield insertion (keep_top) and deletion (remove_top) for each fill whose thresholds reach from 0 to 100."""
    for (select, fill), points in _curves(run).items():
        if {0.0, 100.0} <= set(points) and len(points) > 2:
            weights = metrics.area_weights(list(points))
            for score, scale in _scales(run).items():
                yield "area", select, fill, score, _weighted(run, points.values(), weights, score) * scale, _images(run)


def _gains(run: Run) -> Iterator[_Columns]:
    """Yield the symmetric relevance gain for each fill under which the top x % are removed wherever the top (100 - x) % are kept.

    Keeping the top 80 % is removing the 20 % that influence least. 0 and 100 are not needed, and are left out if they are there.
    """
    curves = _curves(run)
    for fill in dict.fromkeys(fill for _, fill in curves):
        kept, removed = ({x: p for x, p in curves.get((select, fill), {}).items() if 0 < x < 100} for select in ("keep_top", "remove_top"))
        percents = sorted(removed)
        complements = sorted((100 - x, x) for x in kept)
        if percents and len(percents) == len(complements) and np.allclose([x for x, _ in complements], percents, rtol=0, atol=1e-9):
            weights = metrics.gain_weights(percents)
            for score, scale in _scales(run).items():
                least = _weighted(run, [kept[x] for _, x in complements], weights, score)
                most = _weighted(run, [removed[x] for x in percents], weights, score)
                yield "srg", None, fill, score, (least - most) * scale, _images(run)


def _weighted(run: Run, points: Iterable[Point], weights: Iterable[float], score: str) -> np.ndarray:
    """Return the weighted sum (M,n) of the scores at points, of which one is in memory at a time."""
    total = np.zeros((len(run.methods), len(run.table.scored_items)))
    for point, weight in zip(points, weights, strict=True):
        total += weight * scores_of(run, point, score).masked
    return total


def _images(run: Run) -> np.ndarray:
    return run.table.scored_items["index"].to_numpy()


def _curves(run: Run) -> dict[tuple[str, str], dict[float, Point]]:
    """Return the points with a threshold, by select and fill and then by threshold."""
    curves: dict[tuple[str, str], dict[float, Point]] = {}
    for point in run.points:
        if point.top_percent is not None:
            curves.setdefault((point.select, point.fill), {})[point.top_percent] = point
    return curves


def _scales(run: Run) -> dict[str, int]:
    """Return the scores of a run with their units' size: confidences are in points, of which 100 make 1."""
    return {score: 100 if score == "confidence" else 1 for score in scores_in(run)}
