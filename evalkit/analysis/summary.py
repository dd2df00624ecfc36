"""All metrics of a run with their intervals, and all paired comparisons."""

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from evalkit.analysis import metrics, stats
from evalkit.analysis.load import Run, point_columns
from evalkit.analysis.paired import tested
from evalkit.analysis.significance import holm
from evalkit.control_names import versions
from evalkit.errors import UserError
from evalkit.layer_names import layer_of, method_of
from evalkit.point import Point
from evalkit.threads import mapped

SCORES = {"confidence": "prob", "activation": "logit"}
RAW = {"score": "logit"}
"""The one score of a run with model.output=raw, which has no confidence."""
FLIP = "sign-flip permutation"
"""The name of the test of `significance.sign_flip`."""
EXACT = {"increase": "McNemar", "win": "sign"}
"""The exact tests of outcomes, by metric."""
PAPER_METRICS = ("average_drop", "increase", "win")
"""The metrics of the paper's tables: six, since each is taken for confidence and activation."""


def scores_in(run: Run) -> dict[str, str]:
    """Return the scores of a run by name, with the beginning of their columns' names."""
    return RAW if run.raw else SCORES


def main_score(run: Run) -> str:
    """Return the score that stands first: the confidence, or the score where there is none."""
    return next(iter(scores_in(run)))


class Scores(NamedTuple):
    """Y and O (M,n) of all methods at one protocol point, over the same sorted items, and the images (n,) of the items."""

    full: np.ndarray
    masked: np.ndarray
    images: np.ndarray


def scores_of(run: Run, point: Point, score: str) -> Scores:
    """Return the scores at one protocol point; `score` is a name of `scores_in`."""
    column = scores_in(run)[score]
    return Scores(run.table.full(column), run.table.masked(point, column), run.table.scored_items["index"].to_numpy())


def losses_of(point: Point, full: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return what `win` compares, smaller being better: the clipped drop, negated under `remove_top`."""
    drops = metrics.clipped_drop(full, masked)
    return drops if metrics.lower_is_better("average_drop", point.select) else -drops


def rival(methods: Sequence[str], method: str) -> str | None:
    """Return the method that `win` compares with: the second for the first, the first for all others; None for one method.

    Control versions of methods are no rivals, unless there is no other method.
    """
    if len(methods) < 2:
        return None
    altered = versions(methods)
    first, second = sorted(methods, key=lambda name: name in altered)[:2]
    return second if method == first else first


def summarise(run: Run) -> pd.DataFrame:
    """Return every metric with its 95 % interval, one row for each method, protocol point, score and metric.

    Raises UserError if no image could be scored.
    """
    tables = list(mapped(lambda one: _summarise_point(run, *one), _scores_at(run, run.points)))
    summary = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if summary.empty:
        counts = run.counts()
        raise UserError(
            f"{run.path}: no image could be scored by every method, of {counts['images']} images "
            f"({counts['unreadable']} unreadable, {counts['nonfinite']} with maps or scores that are not finite, "
            f"{counts['left_out']} left out by images=correct, {run.provenance['missing_shards']} shards missing)"
        )
    summary["reference"] = [_reference(run, record) for record in summary.to_dict("records")]
    return summary


def _scores_at(run: Run, points: Sequence[Point]) -> Iterator[tuple[Point, str, Scores]]:
    """Yield the scores at points, read here and not where they are used: a thread then cannot make another one's be forgotten."""
    return ((point, score, scores_of(run, point, score)) for point, score in itertools.product(points, scores_in(run)))


def _summarise_point(run: Run, point: Point, score: str, scores: Scores) -> pd.DataFrame:
    full, masked, images = scores
    if not full.shape[1]:
        return pd.DataFrame()
    methods = run.methods
    drops = metrics.clipped_drop(full, masked)
    losses = losses_of(point, full, masked)
    relative, size = metrics.relative_drop(full, masked, raw=run.raw), metrics.sizes(full[0], raw=run.raw)
    against = [rival(methods, method) for method in methods]
    columns: dict[str, np.ndarray | tuple[np.ndarray, np.ndarray]] = {
        "average_drop": relative,
        "increase": metrics.increased(full, masked),
        **changes(full, masked, score),
    }
    if len(methods) > 1:
        columns["win"] = metrics.wins(losses, losses[[methods.index(str(other)) for other in against]])
        columns["best_of_all"] = metrics.best_of_all(losses, np.array([method not in versions(methods) for method in methods]))
    positive = size > 0
    if positive.any():
        columns["drop_of_sums"] = (100 * np.where(positive, drops, 0), np.broadcast_to(size, drops.shape))
    estimates: dict[str, stats.Intervals] = dict(stats.bootstrap(columns, images))
    if positive.any():
        estimates["median_drop"] = stats.medians(relative[:, positive], images[positive])
    return pd.DataFrame(
        {
            "run": str(run.path),
            "model": run.name,
            "method": method,
            **point_columns(point),
            "score": score,
            "metric": metric,
            "against": against[i] if metric == "win" else None,
            "n": int(positive.sum()) if metric in metrics.DROPS else full.shape[1],
            "value": estimate.value[i],
            "low": estimate.low[i],
            "high": estimate.high[i],
        }
        for metric, estimate in estimates.items()
        for i, method in enumerate(methods)
    )


def changes(full: np.ndarray, masked: np.ndarray, score: str) -> dict[str, np.ndarray]:
    """Return the metrics per item (M,n) of how a score changes: its change and, of a confidence, its gain."""
    if score != "confidence":
        return {"score_change": masked - full}
    return {"score_change": (masked - full) * 100, "average_gain": metrics.relative_gain(full, masked)}


def compare(run: Run) -> pd.DataFrame:
    """Compare every pair of methods: sign-flip permutation test of the mean drop, McNemar for increase, sign test for win.

    A control version (`control_names`) is compared with its own method only, so that controls add few comparisons.
    If several classes of an image are explained, all use the sign-flip test, which keeps the classes of an image together. `p` is
    uncorrected; `p_holm` is corrected by Holm's procedure for all comparisons of the run: every pair, protocol point, score and metric.
    Points that keep or remove 0 or 100 % are left out: there all maps give the same image.
    """
    points = compared_points(run)
    if len(run.methods) < 2 or not points:
        return pd.DataFrame()
    tables = list(mapped(lambda one: _compare_point(run, *one), _scores_at(run, points)))
    table = pd.concat(tables, ignore_index=True)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table.p.to_numpy(float)))
    return table


def compared_points(run: Run) -> list[Point]:
    """Return the protocol points at which methods are compared: those that depend on the map."""
    return [point for point in run.points if point.depends_on_map]


def compared(methods: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of methods that are compared, by their places: all but those with a control version, which has one pair."""
    altered = versions(methods)
    pairs = itertools.combinations(range(len(methods)), 2)
    return [(i, j) for i, j in pairs if methods[i] not in altered and altered.get(methods[j], methods[i]) == methods[i]]


class Paired(NamedTuple):
    """Differences (P,n) of P pairs of methods (by position) at one point, by metric, in percent; and the images (n,) of the items."""

    pairs: list[tuple[int, int]]
    columns: dict[str, np.ndarray]
    images: np.ndarray


def differences_of(run: Run, point: Point, score: str) -> Paired:
    """Return the differences whose means are compared: of drops (nan where undefined), of increases, and wins less losses."""
    values, images = item_values(run, point, score)
    pairs = compared(run.methods)
    first, second = np.array(pairs).T
    return Paired(pairs, {metric: metrics.differences(metric, of[first], of[second]) for metric, of in values.items()}, images)


def _compare_point(run: Run, point: Point, score: str, scores: Scores) -> pd.DataFrame:
    pairs, columns, images = np.array(compared(run.methods)), _values(run, point, scores), scores.images
    exact = EXACT if len(np.unique(images)) == len(images) else {}  # they need independent items
    means = stats.bootstrap({metric: values for metric, values in columns.items() if metric != "win"}, images)
    found = [tested(metric, values, means.get(metric), pairs, images, exact=metric in exact) for metric, values in columns.items()]
    first, second = np.array(run.methods, dtype=object)[pairs.T].repeat(len(columns), axis=1)
    results = {name: np.stack([getattr(one, name) for one in found], axis=1).ravel() for name in ("p", "difference", "low", "high")}
    return pd.DataFrame(
        {
            "run": str(run.path),
            "model": run.name,
            "first": first,
            "second": second,
            **point_columns(point),
            "score": score,
            "metric": [*columns] * len(pairs),
            "test": [exact.get(metric, FLIP) for metric in columns] * len(pairs),
            **results,
        }
    )


def win_matrix(run: Run, point: Point, score: str) -> pd.DataFrame:
    """Return the share of images, in percent, where the row's method beats the column's: a strictly smaller clipped drop.

    Under `remove_top`, a strictly larger one.
    """
    full, masked, _ = scores_of(run, point, score)
    losses = losses_of(point, full, masked)
    shares = np.array([[metrics.wins(a, b).mean() for b in losses] for a in losses])
    np.fill_diagonal(shares, np.nan)
    return pd.DataFrame(shares, index=run.methods, columns=run.methods)


@cache
def published(name: str) -> pd.DataFrame:
    """Read values that others published, from published/<name>.csv: `paper` (the paper's Tables 1 and 2) or `soft_mask`."""
    with (resources.files("evalkit.analysis") / "published" / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def item_values(run: Run, point: Point, score: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return what pairs of methods are compared on at one point, for each metric of the paper (M,n), and the images (n,) of the items.

    A pair's differences of these are `metrics.differences`.
    """
    scores = scores_of(run, point, score)
    return _values(run, point, scores), scores.images


def _values(run: Run, point: Point, scores: Scores) -> dict[str, np.ndarray]:
    full, masked, _ = scores
    drops = metrics.relative_drop(full, masked, raw=run.raw)
    return {"average_drop": drops, "increase": metrics.increased(full, masked), "win": losses_of(point, full, masked)}


def _reference(run: Run, record: dict[str, Any]) -> float:
    """Return the published value of the same quantity; nan if there is none."""
    keep = (record["select"], record["top_percent"], record["fill"]) == ("keep_top", 20, "black")
    identity = run.provenance["identity"]
    comparable = record["metric"] != "win" or {record["method"], record["against"]} == {"ablation_cam", "grad_cam"}
    if keep and comparable and run.provenance["paper_table"] and (identity["target"], identity["images"]) == ("predicted", "all"):
        paper = published("paper")
        matches = paper[
            (paper.table == run.provenance["paper_table"])
            & (paper.metric == record["metric"])
            & (paper.score == record["score"])
            & (paper.method == record["method"])
        ]
        return float(matches.percent.iloc[0]) if len(matches) else float("nan")
    column = {"average_drop": "average_drop_percent", "increase": "increase_percent"}.get(record["metric"])
    if (record["select"], record["fill"], record["score"]) == ("soft", "mean", "confidence") and column:
        others = published("soft_mask")
        layer, method = identity["model"]["layer"], record["method"]
        if not isinstance(layer, str):
            layer, method = layer_of(method), method_of(method)
        matches = others[(others.model == run.name) & (others.layer == layer) & (others.method == method)]
        matches = matches.sort_values("variant", key=lambda v: v != "logit target")  # this package explains logits
        return float(matches[column].iloc[0]) if len(matches) else float("nan")
    return float("nan")
