"""Scores of metrics on maps of known order: each metric's values per image, and Spearman's correlation of their means with the order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from evalkit.analysis import metrics
from evalkit.point import Point

Array = NDArray[np.float64]
PERCENTS = (0, 10, 25, 50, 100)
"""The shares of a map that are replaced: the known order, best first."""
BASES = ("oracle", "grad_cam", "ablation_cam")
SUBSTITUTES = ("noise", "other")
RESAMPLES, LEVEL = 1000, 95


class Metric(NamedTuple):
    """A metric with the protocol point and the score that it is taken at; None where it has none."""

    name: str
    select: str | None = None
    top_percent: float | None = None
    fill: str | None = None
    score: str | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured of n images and the P maps of one known order, best first."""

    full: Mapping[str, Array]
    """Y (n,) by the score's name."""
    masked: Mapping[str, Mapping[Point, Array]]
    """O (P,n) by the score's name and the protocol point."""
    maps: Mapping[str, Array]
    """The measures of the maps themselves (P,n)."""


def values_of(measured: Measured, tops: Sequence[float]) -> dict[Metric, Array]:
    """Return each metric's values per image (P,n); thresholds other than `tops` only enter areas.

    `win` is the mean over the other maps of the order (100 where this clipped drop is strictly smaller, else 0).
    """
    found: dict[Metric, Array] = {}
    for score, by_point in measured.masked.items():
        curves: dict[tuple[str, str], dict[float, Array]] = {}
        for point, masked in by_point.items():
            if point.top_percent is not None:
                curves.setdefault((point.select, point.fill), {})[point.top_percent] = masked
            if point.top_percent is None or point.top_percent in tops:
                values = _at_point(point, np.broadcast_to(measured.full[score], masked.shape), masked, score)
                found |= {Metric(name, point.select, point.top_percent, point.fill, score): v for name, v in values.items()}
        areas = {key: metrics.area_under(list(by_top), np.stack(list(by_top.values()), -1)) for key, by_top in curves.items()}
        for (select, fill), area in areas.items():
            found[Metric("area", select, None, fill, score)] = area
        for fill in dict.fromkeys(fill for _, fill in areas):  # symmetric relevance gain, Bluecher et al. 2024
            found[Metric("srg", None, None, fill, score)] = areas["keep_top", fill] - areas["remove_top", fill]
    found |= {Metric(name): values for name, values in measured.maps.items()}
    drop = metrics.relative_drop(measured.full["confidence"], measured.masked["confidence"][Point("soft", None, "black")]) / 100
    coherency, complexity = measured.maps["coherency"], measured.maps["complexity"]
    found[Metric("adcc", "soft", None, "black", "confidence")] = metrics.adcc(coherency, complexity, drop)
    return found


def _at_point(point: Point, full: Array, masked: Array, score: str) -> dict[str, Array]:
    drops = metrics.clipped_drop(full, masked)
    losses = drops if metrics.lower_is_better("average_drop", point.select) else -drops
    wins = [sum(metrics.wins(own, other) for other in losses) / (len(losses) - 1) for own in losses]
    return {
        "average_drop": metrics.relative_drop(full, masked),
        "increase": metrics.increased(full, masked),
        "win": np.stack(wins),
        "score_change": (masked - full) * (100 if score == "confidence" else 1),
    }


def spearman(means: Array, higher_is_better: bool = True) -> Array:
    """Return Spearman's correlation of means (...,P) with the known order of the P steps, best first: 1 where it is recovered.

    Ties get their mean rank. 0 where all means are equal: a metric that sees no difference recovers nothing. nan where one
    is nan.
    """
    signed = means if higher_is_better else -means
    ranks = rankdata(signed, axis=-1)
    order = np.arange(signed.shape[-1], 0, -1, dtype=float)
    centred, wanted = ranks - ranks.mean(-1, keepdims=True), order - order.mean()
    length = np.sqrt((centred**2).sum(-1) * (wanted**2).sum())
    rho = np.where(length > 0, (centred * wanted).sum(-1) / np.where(length > 0, length, 1), 0.0)
    return np.where(np.isnan(signed).any(-1), np.nan, rho)


class Score(NamedTuple):
    """A metric's score: the mean over seeds with its interval, the seeds' own scores, and their means per step."""

    value: float
    low: float
    high: float
    seeds: Array
    means: Array


def score(values: Sequence[Array], higher_is_better: bool, resamples: int) -> Score:
    """Return the score of one metric from its values (P,n) of P steps and n images, one array for each training seed.

    All seeds share the images. A resample draws seeds and images with replacement, the same images for every seed and step; the
    interval is the percentile one. Undefined values (nan) are left out of their means.
    """
    stacked = np.stack(values)  # (S,P,n)
    defined = ~np.isnan(stacked)
    numbers, counts = np.where(defined, stacked, 0), defined.astype(float)
    drawn, of_seed = _resamples(stacked.shape[2], len(stacked), resamples)
    with np.errstate(invalid="ignore", divide="ignore"):  # no defined value in a resample
        means = numbers.sum(-1) / counts.sum(-1)
        again = np.einsum("spn,bn->bsp", numbers, drawn, optimize=True) / np.einsum("spn,bn->bsp", counts, drawn, optimize=True)
    own, resampled = spearman(_rounded(means), higher_is_better), spearman(_rounded(again), higher_is_better)
    of_seeds = np.take_along_axis(resampled, of_seed, axis=1).mean(1)
    low, high = np.nanpercentile(of_seeds, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Score(float(own.mean()), float(low), float(high), own, means)


@cache
def _resamples(n: int, seeds: int, resamples: int) -> tuple[Array, NDArray[np.int64]]:
    """Return how often each resample contains each image (B,n), and its seeds (B,S)."""
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(resamples)]
    return np.stack(drawn).astype(float), rng.integers(seeds, size=(resamples, seeds))


def _rounded(means: Array) -> Array:
    """Round to 6 significant digits, which single precision carries, so that equal means stay tied whatever their rounding."""
    with np.errstate(invalid="ignore", divide="ignore"):
        size = 10.0 ** (5 - np.floor(np.log10(np.abs(means))))
    usable = np.isfinite(size) & np.isfinite(means)
    return np.where(usable, np.round(means * np.where(usable, size, 1)) / np.where(usable, size, 1), means)


def table(by_seed: Mapping[int, Mapping[tuple[str, str], Mapping[Metric, Array]]]) -> pd.DataFrame:
    """Return one row for each known order and metric, from the values (P,n) by seed, known order and metric."""
    first = next(iter(by_seed.values()))
    rows = []
    for (base, by), of_family in first.items():
        for metric in of_family:
            higher = not metrics.lower_is_better(metric.name, metric.select)
            found = score([families_of[base, by][metric] for families_of in by_seed.values()], higher, RESAMPLES)
            n = next(iter(of_family.values())).shape[1]
            means = {f"mean_{percent}": found.means[:, i].mean() for i, percent in enumerate(PERCENTS)}
            seeds = {f"seed_{seed}": rho for seed, rho in zip(by_seed, found.seeds, strict=True)}
            about = {"base": base, "by": by, **metric._asdict(), "higher_is_better": higher, "images": n}
            rows.append({**about, "spearman": found.value, "low": found.low, "high": found.high, **seeds, **means})
    return pd.DataFrame(rows)
