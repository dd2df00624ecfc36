"""Average precision of several labels an image, as PASCAL VOC 2007 defines it and over all points, with intervals over images.

Where several images have one score, they are counted together, so that no AP depends on the order of the images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

RESAMPLES = 2000
ORDERS = 1000
"""Random orders of the images, as of a network whose scores say nothing."""
KINDS = ("ap_2007", "ap")


@dataclass(frozen=True)
class Truth:
    """Labels of n images for C classes."""

    present: Mask
    """(n,C)"""
    known: Mask
    """(n,C); False where a class is neither present nor absent: such an image is left out for this class."""


def precisions(hits: Array, counted: Array) -> tuple[Array, Array]:
    """Return the two APs (W,) of rankings.

    `hits` and `counted` (W,n) are the numbers of positive and of all images above each of n thresholds, which fall. The first AP is that
    of VOC 2007 (VOCevalcls): the mean, over the recalls 0, 0.1, ..., 1, of the highest precision at that recall or a higher one.
    The second sums the precision at each threshold times the recall that it adds, without interpolation (VOC 2010 and later
    interpolate here too). Both are nan without a positive image.
    """
    total = hits[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(counted > 0, hits / counted, 0)
        gained = np.diff(hits, axis=1, prepend=0) / total
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # 10 hits >= tenths * total, in whole numbers: 3 of 10 is not below the recall 0.3.
    first = [(10 * hits < tenths * total).sum(1) for tenths in range(11)]
    at = np.stack([np.take_along_axis(highest, np.minimum(place, hits.shape[1] - 1)[:, None], 1)[:, 0] for place in first])
    some = total[:, 0] > 0
    return np.where(some, at.mean(0), np.nan), np.where(some, (precision * gained).sum(1), np.nan)


def of_classes(scores: Array, truth: Truth, weights: Array | None = None) -> dict[str, Array]:
    """Return both APs (W,C) of scores (n,C), by their names in `KINDS`; `weights` (W,n) count each image, by default once (W = 1)."""
    weights = np.ones((1, len(scores))) if weights is None else weights
    columns = []
    for column, present, known in zip(scores.T, truth.present.T, truth.known.T, strict=True):
        order = np.flatnonzero(known)[np.argsort(-column[known], kind="stable")]
        if not len(order):
            columns.append((np.full(len(weights), np.nan),) * 2)
            continue
        ends = np.flatnonzero(np.append(np.diff(column[order]) != 0, True))
        drawn = weights[:, order]
        columns.append(precisions((drawn * present[order]).cumsum(1)[:, ends], drawn.cumsum(1)[:, ends]))
    return {kind: np.stack([column[i] for column in columns], 1) for i, kind in enumerate(KINDS)}


def of_random_orders(truth: Truth, seed: int) -> dict[str, Array]:
    """Return both APs (ORDERS,C) of random orders of the images, drawn for each class by itself."""
    rng = np.random.default_rng(seed)
    columns = []
    for present, known in zip(truth.present.T, truth.known.T, strict=True):
        hits = rng.permuted(np.tile(present[known].astype(float), (ORDERS, 1)), axis=1).cumsum(1)
        empty = (np.full(ORDERS, np.nan),) * 2
        columns.append(precisions(hits, np.arange(1.0, hits.shape[1] + 1) + 0 * hits) if hits.shape[1] else empty)
    return {kind: np.stack([column[i] for column in columns], 1) for i, kind in enumerate(KINDS)}


def mean_of_known(values: Array) -> Array:
    """Return the mean over the last axis, without nan; nan where all are."""
    some = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(some, values, 0).sum(-1) / some.sum(-1))


def table(scores: Array, truth: Truth, names: list[str], seed: int) -> Iterator[dict[str, object]]:
    """Yield a row for each class and one for their mean (mAP): both APs with 95 % intervals, and those of random orders.

    Intervals are percentiles over `RESAMPLES` bootstrap resamples of the images; a class without a positive image in a resample has no
    part in that resample's mean. `p_random` is the share of random orders whose AP reaches the measured one (with it, of 1 + ORDERS).
    """
    n = len(scores)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    values, resampled, chance = of_classes(scores, truth), of_classes(scores, truth, drawn), of_random_orders(truth, seed)
    counts = {"present": truth.present & truth.known, "undecided": ~truth.known}
    for i, name in [*enumerate(names), (None, "mean")]:
        row: dict[str, object] = {"class": name, "images": n}
        for count, mask in counts.items():
            row[count] = int(mask.sum() if i is None else mask[:, i].sum())
        for kind in KINDS:
            ours, again, random = (mean_of_known(of[kind]) if i is None else of[kind][:, i] for of in (values, resampled, chance))
            low, high = np.nanpercentile(again, [2.5, 97.5]) if np.isfinite(again).any() else (np.nan, np.nan)
            row |= {kind: ours[0], f"{kind}_low": low, f"{kind}_high": high, f"{kind}_random": random.mean()}
            row[f"{kind}_p_random"] = (1 + (random >= ours[0]).sum()) / (1 + ORDERS) if np.isfinite(ours[0]) else np.nan
        yield row
