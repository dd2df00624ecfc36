"""Ablating one unit for all images: what it costs overall, what it costs single classes, and whether drops and selectivity tell.

A unit is a channel k of the explained layer; ablating it sets A_k to zero, here exactly and for all images and classes from cached
activations (`evalkit.ablation`). Units and classes that are looked for (the largest loss, the most selective units, the class with the
largest drop) are found on every second image of each class, and their losses measured on the others, since the largest of many noisy
values is too large where it was found.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import claim_images as pictures
import numpy as np
from claim_rows import Claim, Row
from unit_ablation import Array, Units, ablated, by_class, lost, rank_correlation, resampled, selectivity

NETWORKS = ("squeezevgg10", "cifar_vgg6", "cifar_resnet20", "mobilenet_v2")
LITTLE = 1
"""Points of accuracy that count as a negligible loss."""
SEVERE = 10
"""Points of a class's accuracy that count as a severe loss."""
POOR = 0.2
"""Rank correlation up to which a quantity counts as a poor predictor."""
FEWEST = 10
"""Images a class in each half that the accuracy of a class needs."""

HOW = "Losses are points of accuracy, intact less ablated; one half of the images chooses units and classes, the other one measures. "
RESOLUTION = "A class has at least {} images in the measuring half, so that one image is up to {:.2g} points. "
CLAIMED = "Desai and Ramaswamy 2020, section 3 (Zhou et al. 2018)"
OVERALL = Claim(
    "Ablating an individual unit has a negligible effect on the overall performance.",
    *("Desai and Ramaswamy 2020, section 3 (Morcos et al. 2018)", "", ""),
    how=HOW + f"Negligible: within {LITTLE} point.",
)
CLASSES = Claim(
    "Removing a single unit has a severe impact on the accuracy of specific classes.",
    *(CLAIMED, "", ""),
    how=HOW + RESOLUTION + f"Severe: more than {SEVERE} points, for the unit and class with the largest loss.",
)
DROPS = Claim(
    "The drop of a class's score indicates how important a unit is for that class.",
    *("Desai and Ramaswamy 2020, section 3", "", ""),
    how=HOW
    + RESOLUTION
    + "The drop is the mean of y - y^k over the images of the class, not divided by y. Ranks are correlated over all units and "
    "classes, on all images; the interval is 1.96 standard deviations of resamples to either side.",
)
SELECTIVITY = Claim(
    "Class selectivity is a poor predictor of a unit's importance for the overall performance.",
    *("Desai and Ramaswamy 2020, section 2 (Morcos et al. 2018)", "", ""),
    how=HOW
    + RESOLUTION
    + "Selectivity is (m - m') / (m + m'), m the largest mean activation of a class, m' the mean of those of the other classes. "
    f"Poor: a rank correlation within {POOR}. Undefined where activations are negative.",
)
SELECTIVE = Claim(
    "Ablating a highly selective unit has a negligible effect on the overall accuracy, and a severe one on its class.",
    *("Desai and Ramaswamy 2020, section 2 (Zhou et al. 2018)", "", ""),
    how=SELECTIVITY.how.partition("Poor")[0] + f"Highly selective: the highest tenth. Negligible: within {LITTLE} point; severe: more "
    f"than {SEVERE}. The unit's class is that with the largest mean activation.",
)
ALL = (OVERALL, CLASSES, DROPS, SELECTIVITY, SELECTIVE)


def measure(data: Path, out: Path) -> list[Row]:  # noqa: ARG001 - nothing but rows is written
    """Return the rows of all networks."""
    found: list[Row] = []
    for network in NETWORKS:
        read = pictures.read(pictures.overrides(network, data))
        units = ablated(read)
        images = pictures.NETWORKS[network][2]
        found += rows(units, network, f"{images}, all {len(read.labels)} images, {units.drop.shape[1]} units")
    return found


def rows(units: Units, network: str, data: str) -> list[Row]:
    """Return the rows of one network; only those of the overall accuracy where classes have too few images."""
    order = np.zeros(len(units.labels), dtype=int)
    for label in np.unique(units.labels):
        order[units.labels == label] = np.arange((units.labels == label).sum())
    choosing, measuring = units.of(order % 2 == 0), units.of(order % 2 == 1)
    fewest = min(int((measuring.labels == label).sum()) for label in np.unique(units.labels))
    at = {claim: replace(claim, network=network, data=data, how=claim.how.format(fewest, 100 / max(fewest, 1))) for claim in ALL}
    found = _overall(units, choosing, measuring, at[OVERALL])
    if fewest < FEWEST:
        return found
    found += [*_classes(choosing, measuring, at[CLASSES]), *_drops(units, choosing, measuring, at[DROPS])]
    if (units.activity >= 0).all():
        found += [*_selectivity(units, at[SELECTIVITY]), *_selective(choosing, measuring, at[SELECTIVE])]
    return found


def _overall(units: Units, choosing: Units, measuring: Units, claim: Claim) -> list[Row]:
    worst = int(choosing.loss.mean(0).argmax())
    return [
        claim.level("accuracy of the intact network, %", 100 * units.right),
        lost(claim, "overall loss, mean over all units", units.loss.mean(1), expects=f"within {LITTLE}"),
        lost(claim, "overall loss, the unit where it is largest", measuring.loss[:, worst], expects=f"within {LITTLE}"),
    ]


def _classes(choosing: Units, measuring: Units, claim: Claim) -> list[Row]:
    names, losses = np.unique(choosing.labels), by_class(choosing.loss, choosing.labels)
    label, unit = np.unravel_index(losses.argmax(), losses.shape)
    inside = measuring.labels == names[label]
    of_unit = measuring.loss[:, unit]
    worst = names[losses.argmax(0)]
    mine = measuring.labels[:, None] == worst
    severe = 100 * (by_class(choosing.loss, choosing.labels).max(0) > SEVERE)
    return [
        lost(claim, "loss of the class, unit and class where it is largest", of_unit[inside], expects=f"> {SEVERE}"),
        lost(claim, "overall loss, the same unit", of_unit),
        lost(claim, "loss of the class where it is largest, mean over all units", measuring.loss[mine], mine.nonzero()[0]),
        claim.estimate(
            f"units that seem to cost a class more than {SEVERE} points, choosing half, %",
            *(severe.mean(), np.nan, np.nan),
            images=len(choosing.labels),
            n=len(severe),
        ),
    ]


def _drops(units: Units, choosing: Units, measuring: Units, claim: Claim) -> list[Row]:
    def likeness(weights: Array) -> float:
        drop, loss = (by_class(values, units.labels, weights) for values in (units.drop, units.loss))
        return rank_correlation(drop.ravel(), loss.ravel())

    names = np.unique(choosing.labels)
    mine = measuring.labels[:, None] == names[by_class(choosing.drop, choosing.labels).argmax(0)]

    def own_less_others(weights: Array) -> float:
        own, others = (np.sum(weights[:, None] * part * measuring.loss) / np.sum(weights[:, None] * part) for part in (mine, ~mine))
        return float(own - others)

    return [
        resampled(claim, "rank correlation of drop and loss, units and classes", likeness, len(units.labels), expects="> 0"),
        lost(claim, "loss of the class with the largest drop, mean over all units", measuring.loss[mine], mine.nonzero()[0]),
        resampled(claim, "that loss less the loss of the other classes", own_less_others, len(measuring.labels), expects="> 0"),
    ]


def _selectivity(units: Units, claim: Claim) -> list[Row]:
    def likeness(of_class: bool) -> Callable[[Array], float]:
        def estimate(weights: Array) -> float:
            means, losses = (by_class(values, units.labels, weights) for values in (units.activity, units.loss))
            own = np.take_along_axis(losses, means.argmax(0)[None], 0)[0]
            return rank_correlation(selectivity(means), own if of_class else weights @ units.loss / weights.sum())

        return estimate

    n = len(units.labels)
    mean = selectivity(by_class(units.activity, units.labels))
    overall, own = (
        "rank correlation of selectivity and overall loss, units",
        "rank correlation of selectivity and loss of the unit's class, units",
    )
    return [
        resampled(claim, overall, likeness(of_class=False), n, expects=f"within {POOR}"),
        resampled(claim, own, likeness(of_class=True), n),
        claim.estimate(
            "selectivity, mean over the active units", float(np.nanmean(mean)), np.nan, np.nan, images=n, n=int(np.isfinite(mean).sum())
        ),
    ]


def _selective(choosing: Units, measuring: Units, claim: Claim) -> list[Row]:
    means = by_class(choosing.activity, choosing.labels)
    index = np.nan_to_num(selectivity(means), nan=-1)
    chosen = np.argsort(-index, kind="stable")[: max(1, round(len(index) / 10))]
    mine = measuring.labels[:, None] == np.unique(choosing.labels)[means.argmax(0)][chosen]
    loss = measuring.loss[:, chosen]
    return [
        lost(claim, "overall loss, mean over the selective units", loss.mean(1), expects=f"within {LITTLE}"),
        lost(claim, "loss of the unit's class, mean over the selective units", loss[mine], mine.nonzero()[0], expects=f"> {SEVERE}"),
    ]
