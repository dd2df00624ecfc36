"""Kendall's tau between the rankings of a run's judgements, averaged over pairs of judgements that differ in one thing."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from evalkit.analysis import stats
from evalkit.analysis.judged import Judged
from evalkit.analysis.judgements import contenders
from evalkit.analysis.stats import Array

BETWEEN = {
    "fill": ["metric", "select", "top_percent", "score"],
    "select": ["metric", "fill", "score"],
    "top_percent": ["metric", "select", "fill", "score"],
    "metric": ["select", "top_percent", "fill", "score"],
    "score": ["metric", "select", "top_percent", "fill"],
}
"""What the two judgements of a pair differ in, and what they have in common."""
EXCESS = "srg - average_drop"
"""The difference of two values of tau between fills: that of symmetric relevance gain minus that of average drop."""
AT_ONCE = 2**25


def ranked(judged: Judged, *, controls: bool) -> list[str]:
    """Return the methods whose order is compared: without controls, unless that leaves fewer than two."""
    few = contenders(judged.methods)
    return judged.methods if controls or len(few) < 2 else few


def agreement(judged: Judged) -> pd.DataFrame:
    """Return mean values of Kendall's tau-b with 95 % bootstrap intervals over images, a line for each kind of pairs of judgements.

    Columns: `between` (a key of `BETWEEN`, or "all"), `metric` (of both judgements; empty where all metrics are pooled; or `EXCESS`),
    `pairs` of judgements, `tau`, `low`, `high`, without and, where there are some, with (`with_controls`) the controls. Judgements that
    are set aside do not count; in the lines of a single metric nor do soft masks, of which symmetric relevance gain has none. Empty for
    fewer than two methods or judgements.
    """
    table = judged.counted
    if len(judged.methods) < 2 or len(table) < 2:
        return pd.DataFrame()
    kinds: list[tuple[str, str, pd.DataFrame]] = [("all", "", table), *((between, "", table) for between in BETWEEN)]
    kinds += [("fill", str(metric), part) for metric, part in table[table["select"] != "soft"].groupby("metric", sort=False)]
    lines = []
    sets = [_sets(part, between) for between, _, part in kinds]
    for with_controls in (False, True) if ranked(judged, controls=False) != judged.methods else (False,):
        taus = mean_taus(judged, sets, ranked(judged, controls=with_controls))
        found = {(between, metric): of for (between, metric, _), of in zip(kinds, taus, strict=True) if of[2]}
        if {("fill", "srg"), ("fill", "average_drop")} <= set(found):
            (gain, of_gain, pairs), (drop, of_drop, _) = found["fill", "srg"], found["fill", "average_drop"]
            found["fill", EXCESS] = gain - drop, of_gain - of_drop, pairs
        lines += [(*kind, with_controls, pairs, tau, *_interval(tau, resampled)) for kind, (tau, resampled, pairs) in found.items()]
    return pd.DataFrame(lines, columns=["between", "metric", "with_controls", "pairs", "tau", "low", "high"])


def _interval(tau: float, resampled: Array) -> tuple[float, float]:
    """Return the percentile interval, widened to tau: resampling adds noise to both rankings, so that most resamples may lie below it.

    The basic and the shifted bootstrap, which reflect or move the resamples, cover far less often.
    """
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2])
    return float(min(low, tau)), float(max(high, tau))


def _sets(table: pd.DataFrame, between: str) -> list[list[list[int]]]:
    """Return sets of classes of judgements: those of different classes of a set make the pairs."""
    if between == "all":
        return [[[place] for place in table.index]]
    sets = []
    for _, part in table.groupby(BETWEEN[between], dropna=False, sort=False):
        classes = [list(one.index) for _, one in part.groupby(between, dropna=False, sort=False)]
        if len(classes) > 1:
            sets.append(classes)
    return sets


Sets = Sequence[Sequence[Sequence[int]]]


def mean_taus(judged: Judged, kinds: Sequence[Sets], methods: Sequence[str]) -> list[tuple[float, Array, int]]:
    """Return for each of several kinds the mean tau-b over pairs of judgements in different classes of a set, the same on all resamples
    (B,), and the number of pairs.

    With unit vectors s_j of the signs of all pairs of methods, tau of judgements j and k is s_j . s_k, so that sums over pairs of
    judgements are differences of squares of sums. A ranking with all methods equal, or with one undefined, has no tau and is left out.
    """
    at = [judged.methods.index(method) for method in methods]
    columns = np.concatenate([judged.better[:, :, None], judged.resampled], axis=2)[:, at]
    size = max(1, AT_ONCE // max(1, len(columns) * len(at) ** 2))
    starts = range(0, columns.shape[2], size)
    parts = [[_sums(*of, sets) for sets in kinds] for of in (directions(columns[:, :, start : start + size]) for start in starts)]
    found = []
    for of_kind in zip(*parts, strict=True):
        total, pairs = (np.concatenate([part[side] for part in of_kind]) for side in (0, 1))
        tau = np.where(pairs > 0, total / np.where(pairs > 0, pairs, 1), np.nan)
        found.append((float(tau[0]), tau[1:], int(pairs[0])))
    return found


def _sums(units: Array, defined: Array, sets: Sets) -> tuple[Array, Array]:
    """Return sums of tau over pairs of judgements, and the number of pairs, each (B,), from `directions`."""
    total, pairs = np.zeros((2, units.shape[2]))
    for classes in sets:
        sums = np.stack([units[list(one)].sum(0) for one in classes])
        counts = np.stack([defined[list(one)].sum(0) for one in classes])
        total += ((sums.sum(0) ** 2).sum(0) - (sums**2).sum((0, 1))) / 2
        pairs += (counts.sum(0) ** 2 - (counts**2).sum(0)) / 2
    return total, pairs


def directions(better: Array) -> tuple[Array, Array]:
    """Return for rankings (J,M,B) the unit vectors (J,P,B) of the signs of all pairs of methods, and which are defined (J,B) as 0 or 1."""
    first, second = np.array(list(itertools.combinations(range(better.shape[1]), 2))).T
    signs = np.sign(better[:, first] - better[:, second])
    length = np.sqrt((signs**2).sum(1))
    defined = np.isfinite(length) & (length > 0)
    units = np.where(defined[:, None], signs / np.where(defined, length, 1)[:, None], 0)
    return units, defined.astype(float)


def tau_matrix(judged: Judged, judgements: Sequence[int], *, controls: bool = False) -> Array:
    """Return Kendall's tau-b between all pairs of some judgements (J,J), nan where it is undefined."""
    at = [judged.methods.index(method) for method in ranked(judged, controls=controls)]
    units, defined = directions(judged.better[list(judgements)][:, at, None])
    tau = units[:, :, 0] @ units[:, :, 0].T
    return np.where(defined[:, 0, None] * defined[:, 0] > 0, tau, np.nan)
