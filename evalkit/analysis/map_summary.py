"""Summaries of the maps (complexity, coherency, ADCC, localisation) and areas under the curves over thresholds."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from evalkit.analysis import metrics, stats
from evalkit.analysis.load import ITEM, Run
from evalkit.analysis.summary import main_score, scores_in, scores_of
from evalkit.evaluation.columns import MEASURES
from evalkit.point import Point

PERCENT = [name for name in MEASURES if name not in ("complexity", "coherency")]
"""Measures that are fractions, reported in percent."""


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
        for metric, select, fill, score, values, images in (*_measures(run), *_areas(run))
        for estimates in [stats.bootstrap({metric: values}, images)[metric]]
        for i, method in enumerate(run.methods)
    ]
    return pd.DataFrame(rows)


_Columns = tuple[str, str | None, str | None, str | None, np.ndarray, np.ndarray]
"""The metric, select, fill, score, values (M,n) and images (n,) of the values."""


def _measures(run: Run) -> Iterator[_Columns]:
    scored = pd.MultiIndex.from_frame(run.scored[ITEM].drop_duplicates().sort_values(ITEM))  # in the order of scores_of
    tables = {name: _by_method(run, name).reindex(columns=scored) for name in MEASURES}
    for name, table in tables.items():
        values = table.to_numpy(np.float64)
        if np.isfinite(values).any():
            yield name, None, None, None, values * (100 if name in PERCENT else 1), scored.get_level_values("index").to_numpy()
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
    for select, fill in dict.fromkeys((p.select, p.fill) for p in run.points if p.top_percent is not None):
        points = [p for p in run.points if (p.select, p.fill) == (select, fill)]
        percents = [p.top_percent for p in points if p.top_percent is not None]
        if {0.0, 100.0} <= set(percents) and len(percents) > 2:
            for score in scores_in(run):
                curves = [scores_of(run, point, score) for point in points]
                scale = 100 if score == "confidence" else 1
                values = metrics.area_under(percents, np.stack([curve.masked for curve in curves], axis=-1)) * scale
                yield "area", select, fill, score, values, curves[0].images
