"""Ablating each unit of a layer for all images, and statistics of what that does."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from claim_images import BATCH, Pictures
from claim_rows import Claim, Row
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from evalkit.probe import Probe

Array = NDArray[np.float64]

RESAMPLES = 500


@dataclass(frozen=True)
class Units:
    """What ablating each of K units does to n images."""

    labels: NDArray[np.int64]
    right: Array
    """1 where the intact network is right, else 0 (n,)."""
    kept: Array
    """1 where the network without unit k is right, else 0 (n,K)."""
    drop: Array
    """y - y^k of the label's score (n,K)."""
    activity: Array
    """The mean of A_k over its positions (n,K)."""

    @property
    def loss(self) -> Array:
        """Points of accuracy lost on an image: 100, 0 or -100 (n,K)."""
        return 100 * (self.right[:, None] - self.kept)

    def of(self, rows: NDArray[np.bool_]) -> "Units":
        """Return some of the images."""
        return Units(self.labels[rows], self.right[rows], self.kept[rows], self.drop[rows], self.activity[rows])


def ablated(read: Pictures) -> Units:
    """Ablate each unit for all images."""
    right, kept, drop, activity = [], [], [], []
    for at in torch.arange(len(read.labels)).split(BATCH):
        labels = read.labels[at]
        probe = Probe(read.net, read.images[at], labels)
        with torch.no_grad():
            drops = probe.tier.drops(probe.activations, probe.context, probe.logits, None)
        right.append(probe.logits.argmax(1) == labels)
        kept.append((probe.logits[:, None] - drops).argmax(2) == labels[:, None])
        drop.append(drops.gather(2, labels[:, None, None].expand(-1, drops.shape[1], 1))[:, :, 0])
        activity.append(probe.activations.mean((2, 3)))
    return Units(read.labels.numpy(), *(torch.cat(parts).double().numpy() for parts in (right, kept, drop, activity)))


def by_class(values: Array, labels: NDArray[np.int64], weights: Array | None = None) -> Array:
    """Return the means (C,K) of values (n,K) over the images of each class that occurs, each image counted `weights` (n,) times."""
    counts = np.ones(len(labels)) if weights is None else weights
    member = (labels == np.unique(labels)[:, None]) * counts
    with np.errstate(invalid="ignore"):  # a resample may lack a class
        return np.asarray(member @ values / member.sum(1, keepdims=True))


def selectivity(means: Array) -> Array:
    """Return the selectivity (K,) of units with these mean activations of classes (C,K), not negative; nan where a unit is never active."""
    highest = means.max(0)
    others = (means.sum(0) - highest) / (len(means) - 1)
    with np.errstate(invalid="ignore"):
        return np.asarray((highest - others) / (highest + others))


def rank_correlation(first: Array, second: Array) -> float:
    """Return Spearman's correlation over the entries where both are defined; nan where one of them is constant."""
    defined = np.isfinite(first) & np.isfinite(second)
    if min(np.ptp(side[defined]) if defined.any() else 0 for side in (first, second)) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(first[defined]), rankdata(second[defined]))[0, 1])


def resampled(claim: Claim, measure: str, estimate: Callable[[Array], float], n: int, expects: str = "") -> Row:
    """Return the row of an estimate, which is given how often each of n images counts (n,).

    The interval is the estimate plus and minus 1.96 standard deviations of the estimates on resamples of the images, and p that of a
    normal distribution. Percentiles would be too low for correlations: a resample adds noise to both sides, and so lowers them.
    """
    rng = np.random.default_rng(0)
    drawn = [estimate(np.bincount(rng.integers(n, size=n), minlength=n).astype(float)) for _ in range(RESAMPLES)]
    value, deviation = estimate(np.ones(n)), float(np.nanstd(drawn))
    half = norm.ppf(0.975) * deviation
    p = 2 * norm.sf(abs(value) / deviation) if deviation > 0 else np.nan
    return claim.estimate(measure, value, value - half, value + half, images=n, p=float(p), expects=expects)


def lost(claim: Claim, measure: str, losses: Array, images: NDArray[np.int64] | None = None, expects: str = "") -> Row:
    """Return the row of a mean loss in points, as `Claim.level` does.

    Where no image is lost or won, resamples have no spread, and the interval is the exact one of a share of 0 in so many images
    (Clopper and Pearson 1934), to either side.
    """
    row = claim.level(measure, losses, images, expects)
    if losses.any():
        return row
    bound = 100 * (1 - 0.025 ** (1 / row["images"]))
    return claim.estimate(measure, 0.0, -bound, bound, images=row["images"], n=row["n"], expects=expects)
