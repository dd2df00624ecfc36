"""Faithfulness metrics on arrays of scores: Y on the image, O on the perturbed image, one entry per image.

Ablation-CAM paper, section 6.1 (i) to (v). A score is a confidence (softmax), an activation (logit), or with model.output=raw
the explained output itself, which may be negative.
Values per image are averaged, with intervals, by `evalkit.analysis.stats`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from evalkit.errors import UserError

Scores = NDArray[np.float64]

DROPS = ("average_drop", "median_drop", "drop_of_sums")
GAINS = ("increase", "average_gain", "score_change")
_LOWER = (*DROPS, "complexity", "energy_others", "max_sensitivity", "randomised_output", "randomised_all")
_REVERSED = (*DROPS, *GAINS, "area")


def lower_is_better(metric: str, select: str | None) -> bool:
    """Return whether lower values of a metric are better; `select` is the selection of its point, None for a measure of the map.

    Keeping the important pixels should cost little score, removing them (`remove_top`) much: this reverses the direction
    of drops, gains and areas.
    """
    return (metric in _LOWER) != (select == "remove_top" and metric in _REVERSED)


def direction(metric: str, select: str | None) -> str:
    """Return "lower" or "higher", whichever is better."""
    return "lower" if lower_is_better(metric, select) else "higher"


def clipped_drop(full: Scores, masked: Scores) -> Scores:
    """Return max(0, Y - O), not divided by Y: what win compares, defined for every Y."""
    return np.maximum(0, full - masked)


def relative_drop(full: Scores, masked: Scores, *, raw: bool = False) -> Scores:
    """Return max(0, Y - O) / Y * 100 (eq. 5 before averaging); nan where Y <= 0. The average excludes and counts nan.

    `raw`: max(0, Y - O) / |Y| * 100, nan where Y is 0. A drop is what the explained score loses, whatever its sign.
    """
    size = sizes(full, raw=raw)
    return np.where(size > 0, clipped_drop(full, masked) / np.where(size > 0, size, 1) * 100, np.nan)


def sizes(full: Scores, *, raw: bool = False) -> Scores:
    """Return what drops are divided by: |Y| for `raw` scores, else Y; 0 where Y is not positive, so that no drop is defined."""
    return np.abs(full) if raw else np.maximum(0, full)


def increased(full: Scores, masked: Scores) -> Scores:
    """Return 100 where Y < O, strictly, else 0 (eq. 6 before averaging)."""
    return np.where(full < masked, 100.0, 0.0)


def wins(drop: Scores, other: Scores) -> Scores:
    """Return 100 where this clipped drop is strictly smaller than the other's, else 0; ties count for neither.

    This is why the sum 47.97 + 34.68 in Table 1 is below 100.
    """
    return np.where(drop < other, 100.0, 0.0)


def differences(metric: str, first: Scores, second: Scores) -> Scores:
    """Return paired differences (...,n), first minus second; of the losses of "win", 100 where the first is smaller, -100 where larger."""
    return np.asarray(100 * np.sign(second - first) if metric == "win" else first - second)


def best_of_all(drops: Scores, competing: NDArray[np.bool_] | None = None) -> Scores:
    """Return 100 where a method is strictly below all others, else 0, for clipped drops (M,n) of M methods: (M,n).

    `competing` (M,) marks the others that count; by default all do.
    """
    counted = np.ones(len(drops), bool) if competing is None else competing
    own = np.arange(len(drops))
    others = np.stack([drops[counted & (own != i)].min(axis=0, initial=np.inf) for i in own])
    return wins(drops, others)


def relative_gain(full: Scores, masked: Scores) -> Scores:
    """Return max(0, O - Y) / (1 - Y) * 100, the average gain before averaging (Zhang et al., "Opti-CAM", CVIU 2024).

    For confidences only: 1 - Y is the largest possible gain. nan where Y is 1; the average excludes and counts nan.
    """
    room = 1 - full
    return np.where(room > 0, np.maximum(0, masked - full) / np.where(room > 0, room, 1) * 100, np.nan)


def adcc(coherency: Scores, complexity: Scores, drop: Scores) -> Scores:
    """Return the harmonic mean of coherency, 1 - complexity and 1 - average drop, each in [0,1].

    Poppi et al., CVPR workshops 2021. Inputs are broadcast. 0 where a part is 0 (the limit); nan where a part is nan. The
    authors' code computes it for each image; computed once from the means of the parts over a set, it is never lower than
    the mean over the images (the harmonic mean is concave).
    """
    parts = np.stack(np.broadcast_arrays(coherency, 1 - np.asarray(complexity), 1 - np.asarray(drop)))
    zero = (parts <= 0).any(axis=0)
    mean = 3 / (1 / np.where(zero, 1, parts)).sum(axis=0)
    return np.where(np.isnan(parts).any(axis=0), np.nan, np.where(zero, 0, mean))


def area_under(percents: Sequence[float], values: Scores) -> Scores:
    """Return the area under scores (..., P) at P percentages of pixels, by trapezoids, over an axis from 0 to 1: (...).

    It is insertion for scores of the top x % kept, and deletion for the top x % removed (Petsiuk et al., "RISE", BMVC
    2018). Percentages may be in any order. Raises UserError unless they reach from 0 to 100, each once.
    """
    weights = area_weights(percents)
    return np.asarray(values) @ weights


def area_weights(percents: Sequence[float]) -> Scores:
    """Return the weight (P,) of each score in `area_under`. Raises UserError as that does."""
    grid = np.asarray(percents, dtype=float)
    if len(np.unique(grid)) != len(grid) or len(grid) < 2 or grid.min() != 0 or grid.max() != 100:
        raise UserError(f"an area needs scores at percentages from 0 to 100, each once; these are {', '.join(f'{x:g}' for x in grid)}")
    order = np.argsort(grid)
    weights = np.empty(len(grid))
    weights[order] = np.asarray(trapezoid(np.eye(len(grid)), grid[order] / 100, axis=-1))
    return weights


def relevance_gain(removed: Sequence[float], least_first: Scores, most_first: Scores) -> Scores:
    """Return the symmetric relevance gain (...): the area between scores (..., P) after removing P percentages of pixels in both orders.

    Bluecher, Vielhaben and Strodthoff, "Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks", TMLR 2024:
    SRG = LIF - MIF, the area under the scores when the least influential pixels are removed first minus that when the most influential
    are, over an axis from 0 to 1. By trapezoids over 0, `removed` and 100 %: at both ends the two orders leave the same image, so
    the difference there is 0 and no score is needed. Percentages may be in any order. Raises UserError unless they lie
    between 0 and 100, each once.
    """
    return (np.asarray(least_first) - np.asarray(most_first)) @ gain_weights(removed)


def gain_weights(removed: Sequence[float]) -> Scores:
    """Return the weight (P,) of the difference at each percentage in `relevance_gain`. Raises UserError as that does."""
    inner = np.asarray(removed, dtype=float)
    if not len(inner) or inner.min() <= 0 or inner.max() >= 100:
        raise UserError(f"a relevance gain needs scores at percentages between 0 and 100; these are {', '.join(f'{x:g}' for x in inner)}")
    return area_weights([0, *inner, 100])[1:-1]
