"""Audit of protocol points and metrics: which of them prefer a control version of a method to the method itself.

A control version (`+control=[...]`) adds no information about the network, so a metric that prefers it measures something else than
what the method found. The null hypothesis of each test is that a control version is not better than its method; the tests are
one-sided sign-flip permutation tests of the mean paired difference, corrected by Holm within one family: all control versions of
all methods, at one protocol point, for one score and metric. So a sound point and metric is said to fail in at most 5 % of runs. Where no
choice of the differences' signs could be significant, since too few images differ for so many tests, there is no verdict.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from evalkit.analysis import metrics, stats
from evalkit.analysis.load import CONTROLS, Run, point_columns
from evalkit.analysis.map_summary import per_item
from evalkit.analysis.significance import fewest_images, holm, sign_flip
from evalkit.analysis.summary import changes, losses_of, scores_in, scores_of
from evalkit.control_names import versions
from evalkit.errors import UserError
from evalkit.point import Point

LEVEL = 0.05
"""The largest family-wise error of the verdict on one protocol point, score and metric."""
FAMILY = ["select", "top_percent", "fill", "score", "metric"]
"""Columns that are equal within one family of tests, besides `kind`."""
CONTROL, BLIND = "control version", "network-independent map"
"""The two kinds of tests: against a method's own control versions, and against maps that do not look at the network."""
FAILS, PASSES, NO_VERDICT = "fails", "passes", "no verdict"
ROUNDING = 1e-9
"""Differences up to this share of the largest value are of rounding, and count as 0."""
ADD = "'+control=[blurred,dilated,mixed,shuffled]'"


class Quantity(NamedTuple):
    """What one family of tests compares: differences (m,n), positive where the control is better, of m pairs of methods."""

    where: dict[str, object]
    pairs: list[tuple[int, int]]
    better: np.ndarray
    images: np.ndarray


def audit(run: Run) -> pd.DataFrame:
    """Return every test, one row for each point, score, metric, method and control; `improvement` is positive where the control is better.

    `n` counts the items where both are defined, `differing` the images whose difference is not 0, and `largest` is the share of all
    differences' sizes that one image has; `low` and `high` are an uncorrected 95 % interval. `verdict` is that of the whole family:
    `fails`, `passes` or `no verdict`. Raises UserError where the run has no control versions, or no image is scored.
    """
    pairs = _pairs(run.methods)
    if not pairs[CONTROL]:
        raise UserError(
            f"{run.path} has no control versions of its methods to audit: run its command again with {ADD} and another out="
            " (maps_from= reads its maps, if it was run with maps=store)"
        )
    if not run.counts()["scored"]:
        raise UserError(f"{run.path}: no image could be scored by every method, so there is nothing to audit")
    tables = [
        _tests(run, kind, quantity)
        for kind, chosen in pairs.items()
        if chosen
        for quantity in (*_at_points(run, chosen), *_of_maps(run, chosen))
        if np.isfinite(quantity.better).any()
    ]
    return pd.concat(tables, ignore_index=True)


def verdicts(tests: pd.DataFrame, kind: str = CONTROL) -> pd.DataFrame:
    """Return one row for each family of tests of a kind: its `verdict`, how many controls are significantly better, and the worst.

    The worst is the significant test with the largest improvement or, where none is significant, the one with the smallest p. `most`
    is the largest number of images that differ in one test.
    """
    rows = []
    for _, family in tests[tests.kind == kind].groupby(FAMILY, sort=False, dropna=False):
        significant = family[family.p_corrected <= LEVEL]
        by_p = family.sort_values("p", kind="stable")
        worst = by_p.iloc[0] if significant.empty else significant.loc[significant.improvement.idxmax()]
        rows.append({**worst.to_dict(), "better": len(significant), "most": family.differing.max()})
    return pd.DataFrame(rows)


def improvements(differences: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p and Holm's p (m,) of the one-sided tests that m mean differences (m,n) are not above zero; nan entries are left out.

    `images` (n,) names the image of each entry. By symmetry, the one-sided p is half of the two-sided one, or what is left; it is 1
    where all differences are 0.
    """
    two_sided = sign_flip(differences, images)
    with np.errstate(invalid="ignore"):
        p = np.where(np.nansum(differences, axis=1) > 0, two_sided / 2, 1 - two_sided / 2)
    p = np.where((np.nan_to_num(differences) == 0).all(axis=1), 1.0, p)
    p = np.where(np.isfinite(differences).sum(1) > 1, p, np.nan)
    return p, holm(p)


def _pairs(methods: list[str]) -> dict[str, list[tuple[int, int]]]:
    """Return the pairs (control, method) of each kind of test, by their places in the run's methods."""
    places = {method: place for place, method in enumerate(methods)}
    bases = versions(methods)
    altered = [(places[name], places[base]) for name, base in bases.items()]
    looking = [name for name in methods if name not in CONTROLS and name not in bases]
    blind = [(places[name], places[method]) for name in methods if name in CONTROLS for method in looking]
    return {CONTROL: altered, BLIND: blind}


def _tests(run: Run, kind: str, quantity: Quantity) -> pd.DataFrame:
    better, images = quantity.better, quantity.images
    interval = stats.bootstrap({"better": better}, images)["better"]
    p, corrected = improvements(better, images)
    tests = int(np.isfinite(p).sum())
    sizes = np.abs(stats.by_image(np.nan_to_num(better), images))
    differing, total = (sizes > 0).sum(axis=1), sizes.sum(axis=1)
    can_fail = (differing[np.isfinite(p)] >= fewest_images(tests, LEVEL, sides=1)).any()
    methods = run.methods
    return pd.DataFrame(
        {
            "run": str(run.path),
            "model": run.name,
            **quantity.where,
            "kind": kind,
            "method": [methods[method] for _, method in quantity.pairs],
            "control": [methods[control] for control, _ in quantity.pairs],
            "n": np.isfinite(better).sum(1),
            "improvement": interval.value,
            "low": interval.low,
            "high": interval.high,
            "p": p,
            "p_corrected": corrected,
            "tests": tests,
            "differing": differing,
            "largest": np.where(total > 0, sizes.max(axis=1) / np.where(total > 0, total, 1), np.nan),
            "verdict": FAILS if (corrected <= LEVEL).any() else PASSES if can_fail else NO_VERDICT,
        }
    )


def _at_points(run: Run, pairs: list[tuple[int, int]]) -> Iterator[Quantity]:
    """Yield the metrics of each protocol point and score."""
    control, method = np.array(pairs).T
    for point in run.points:
        for score in scores_in(run):
            full, masked, images = scores_of(run, point, score)
            columns = {
                "average_drop": metrics.relative_drop(full, masked, raw=run.raw),
                "increase": metrics.increased(full, masked),
                **changes(full, masked, score),
                "win": losses_of(point, full, masked),
            }
            for metric, values in columns.items():
                sign = -1 if metrics.lower_is_better(metric, point.select) else 1
                better = sign * _differences(metric, values[control], values[method])
                yield Quantity({**point_columns(point), "score": score, "metric": metric}, pairs, better, images)


def _of_maps(run: Run, pairs: list[tuple[int, int]]) -> Iterator[Quantity]:
    """Yield the areas over thresholds and the measures of the maps that say which direction is better."""
    control, method = np.array(pairs).T
    for metric, select, fill, score, values, images in per_item(run):
        if not metric.endswith("_fraction"):
            where: dict[str, object] = {"select": select, "top_percent": np.nan, "fill": fill, "score": score, "metric": metric}
            sign = -1 if metrics.lower_is_better(metric, select) else 1
            yield Quantity(where, pairs, sign * _differences(metric, values[control], values[method]), images)


def _differences(metric: str, controls: np.ndarray, methods: np.ndarray) -> np.ndarray:
    """Return the differences (m,n) of controls less methods (m,n), 0 where equal but for rounding; wins are strict, as in tables."""
    if metric == "win":
        return metrics.differences(metric, controls, methods)
    largest = np.nan_to_num(np.maximum(np.abs(controls), np.abs(methods))).max(axis=1, keepdims=True)
    equal = np.abs(controls - methods) <= ROUNDING * largest
    return np.where(equal, 0, metrics.differences(metric, controls, methods))


def point_of(row: Any) -> Point | None:
    """Return the protocol point of a test; None for measures of the maps and areas over thresholds."""
    if pd.isna(row.select) or row.metric in ("area", "adcc"):
        return None
    return Point(row.select, None if pd.isna(row.top_percent) else float(row.top_percent), row.fill)
