"""Summaries of the maps (complexity, coherency, ADCC, localisation) and areas under and between the curves over thresholds."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from evalkit.analysis import metrics, stats
from evalkit.analysis.load import ITEM, Run
from evalkit.analysis.summary import main_score, scores_in, scores_of
from evalkit.evaluation.columns import AGAINST_BOXES, MEASURES
from evalkit.point import Point


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
        for metric, select, fill, score, values, images in per_item(run)
        for estimates in [stats.bootstrap({metric: values}, images)[metric]]
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


def _measures(run: Run) -> Iterator[_Columns]:
    scored = pd.MultiIndex.from_frame(run.scored[ITEM].drop_duplicates().sort_values(ITEM))  # in the order of scores_of
    tables = {name: _by_method(run, name).reindex(columns=scored) for name in MEASURES}
    for name, table in tables.items():
        values = table.to_numpy(np.float64)
        if np.isfinite(values).any():
            yield name, None, None, None, values * (100 if name in AGAINST_BOXES else 1), scored.get_level_values("index").to_numpy()
    soft = Point("soft", None, "black")
    if np.isfinite(tables["coherency"].to_numpy(np.float64)).any() and soft in run.points:
        full, masked, images = scores_of(run, soft, main_score(run))
        coherency, complexity = (tables[name].to_numpy(np.float64) for name in ("coherency", "complexity"))
        drop = metrics.relative_drop(full, masked, raw=run.raw) / 100
        yield "adcc", "soft", "black", main_score(run), metrics.adcc(coherency, complexity, drop), images


def _by_method(run: Run, name: str) -> pd.DataFrame:
    """Return a measure as a table of methods (rows) and items (columns)."""
    maps = run.maps[run.maps.target.notna()]
    return maps.pivot(index="method", columns=ITEM, values=name).reindex(run.methods)


def _areas(run: Run) -> Iterator[_Columns]:
    """Yield insertion (keep_top) and deletion (remove_top) for each fill whose thresholds reach from 0 to 100."""
    for (select, fill), points in _curves(run).items():
        if {0.0, 100.0} <= set(points) and len(points) > 2:
            for score, scale in _scales(run).items():
                masked, images = _masked(run, points.values(), score)
                yield "area", select, fill, score, metrics.area_under(list(points), masked) * scale, images


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
            for score, scale in _scales(run).items():
                least, images = _masked(run, [kept[x] for _, x in complements], score)
                most, _ = _masked(run, [removed[x] for x in percents], score)
                yield "srg", None, fill, score, metrics.relevance_gain(percents, least, most) * scale, images


def _curves(run: Run) -> dict[tuple[str, str], dict[float, Point]]:
    """Return the points with a threshold, by select and fill and then by threshold."""
    curves: dict[tuple[str, str], dict[float, Point]] = {}
    for point in run.points:
        if point.top_percent is not None:
            curves.setdefault((point.select, point.fill), {})[point.top_percent] = point
    return curves


def _masked(run: Run, points: Iterable[Point], score: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores (M,n,P) at P points, and the images (n,) of the items."""
    curves = [scores_of(run, point, score) for point in points]
    return np.stack([curve.masked for curve in curves], axis=-1), curves[0].images


def _scales(run: Run) -> dict[str, int]:
    """Return the scores of a run with their units' size: confidences are in points, of which 100 make 1."""
    return {score: 100 if score == "confidence" else 1 for score in scores_in(run)}
