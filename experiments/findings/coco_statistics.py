"""The measures of coco_objects.py and their statistics: levels and paired gains; the bootstrap draws images."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalkit.analysis import significance, stats
from evalkit.analysis.metrics import direction
from evalkit.analysis.summary import SCORES
from evalkit.output.tables import describe_point
from evalkit.point import Point

PAIR_TESTS = (
    ("ablation_cam", "grad_cam"), ("guided_ablation_cam", "guided_grad_cam"), ("grad_cam_pp", "grad_cam"),
    ("layer_cam", "grad_cam"), ("spatial_ablation", "grad_cam"), ("guided_grad_cam", "grad_cam"),
)  # fmt: skip
RIVALS_OF_CENTRE = (
    "grad_cam", "ablation_cam", "grad_cam_pp", "layer_cam", "hires_cam", "spatial_ablation", "guided_grad_cam", "guided_ablation_cam",
)  # fmt: skip
CENTRE_TESTS = tuple((method, "centre") for method in RIVALS_OF_CENTRE)
TWO, MORE, BOTH, OWN = "two categories", "two or more", "both recognised", "explained one recognised"
"""Choices of pairs. Only in the last can a map that ignores the class beat chance: recognised categories are large and central."""

INSTANCE_TESTS = (("grad_cam_pp", "grad_cam"), ("grad_cam_pp", "ablation_cam"))
ONE, SEVERAL, BETWEEN = "one instance", "several instances", "several less one"

KEEP = Point("keep_top", 20.0, "black")
SOFT = Point("soft", None, "black")
REMOVE = Point("remove_top", 25.0, "black")
RECOGNISED = 0.01
"""Confidence above which a category counts as recognised: ten times chance."""


def drop_name(point: Point, score: str) -> str:
    """Return the name of a drop in the tables."""
    return f"average drop in {score} %, {describe_point(point)}"


RIGHT, SHARE, LIKENESS, HIT = (
    "right category, %",
    "own share of both densities, %",
    "correlation of an image's two maps",
    "instances hit, %",
)
ENERGY, IOU = "energy inside, %", "best IoU, %"
DROPS = {(point, score): drop_name(point, score) for point in (SOFT, REMOVE, KEEP) for score in SCORES}
BETTER = {
    **dict.fromkeys((RIGHT, SHARE, HIT, ENERGY, IOU), "higher"),
    LIKENESS: "lower",
    **{name: direction("average_drop", point.select) for (point, _), name in DROPS.items()},
}
"""Every measure, and whether higher or lower is better."""
DROPS_FIRST = (*DROPS.values(), ENERGY, IOU, HIT)
"""Measures in the order of the table of instances: those of the paper's claim, then those of the boxes."""

ITEM = ("network", "index", "target", "other")
"""Key of the rows of one method: an image, the explained output and, for pairs, that of the other category."""

Rows = list[dict[str, Any]]


def pair_statistics(table: pd.DataFrame) -> Rows:
    """Return levels and gains by network, and of all networks together, on four choices of items."""
    own, other = table.prob_full > RECOGNISED, table.other_prob > RECOGNISED
    subsets = {TWO: table.categories == 2, MORE: table.categories > 1, BOTH: own & other, OWN: own}
    rows: Rows = []
    for items, chosen in subsets.items():
        for network, part in by_network(table[chosen]):
            about = {"part": "pairs", "network": network, "items": items}
            rows += levels(part, about, PAIR_TESTS if items != OWN else (*PAIR_TESTS, *CENTRE_TESTS), even=items != OWN)
    return rows


def instance_statistics(table: pd.DataFrame) -> Rows:
    """Return levels for one and for several instances, and how the gain of one method over another differs between them."""
    rows: Rows = []
    for network, part in by_network(table[table.prob_full > RECOGNISED]):
        for items, chosen in ((ONE, part.instances == 1), (SEVERAL, part.instances > 1)):
            rows += levels(part[chosen], {"part": "instances", "network": network, "items": items}, ())
        rows += contrasts(part, {"part": "instances", "network": network}, INSTANCE_TESTS)
    return rows


def by_network(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each network's rows, then those of all networks with the methods that all have."""
    yield from table.groupby("network", sort=False)
    count = table.network.nunique()
    if count > 1:
        yield "all", table[table.groupby("method").network.transform("nunique") == count]


def grid(table: pd.DataFrame) -> tuple[list[str], dict[str, NDArray[np.float64]], pd.DataFrame]:
    """Return the methods in the order of the rows, values (M,n) of each measure, and a table that describes the n columns."""
    methods = list(dict.fromkeys(table.method))
    key = [name for name in (*ITEM, "instances") if name in table]
    pivoted = {name: table.pivot(index="method", columns=key, values=name).reindex(methods) for name in BETTER if name in table}
    items = next(iter(pivoted.values())).columns.to_frame(index=False)
    return methods, {name: values.to_numpy(float) for name, values in pivoted.items()}, items


def levels(table: pd.DataFrame, about: dict[str, str], tests: Iterable[tuple[str, str]], even: bool = True) -> Rows:
    """Return every measure of every method with its interval, and the gains of one method over another; images are drawn whole.

    `even`: a map that ignores the class has 50 %, and `RIGHT` is tested against that.
    """
    methods, values, items = grid(table)
    images = items["index"].to_numpy()
    rows = []
    for name, interval in stats.bootstrap(values, images).items():
        chance = significance.sign_flip(values[name] - 50, images) if name == RIGHT and even else np.full(len(methods), np.nan)
        for i, method in enumerate(methods):
            estimate = (interval.value[i], interval.low[i], interval.high[i], chance[i])
            rows.append({**about, "method": method, **_row(name, "", values[name][i], images, estimate)})
    for (method, other), name in itertools.product(tests, values):
        gained = gain(methods, values, name, (method, other))
        interval = stats.bootstrap({name: gained[None]}, images)[name]
        estimate = (interval.value[0], interval.low[0], interval.high[0], significance.sign_flip(gained[None], images)[0])
        rows.append({**about, "method": method, **_row(name, other, gained, images, estimate)})
    return rows


def contrasts(table: pd.DataFrame, about: dict[str, str], tests: Iterable[tuple[str, str]]) -> Rows:
    """Return the gain over another method with one instance, with several, and the second minus the first.

    An image may show one dog and several cars, so both cases use the same resamples of images.
    """
    methods, values, items = grid(table)
    images, several = items["index"].to_numpy(), items.instances.to_numpy() > 1
    rows = []
    for (method, other), name in itertools.product(tests, values):
        gained = gain(methods, values, name, (method, other))
        kinds = {ONE: np.where(several, np.nan, gained), SEVERAL: np.where(several, gained, np.nan)}
        one, more = stats.bootstrap({kind: gains[None] for kind, gains in kinds.items()}, images).values()
        sums = [(np.nan_to_num(gains)[None], np.isfinite(gains)[None].astype(float)) for gains in (kinds[SEVERAL], kinds[ONE])]
        between, p = significance.compare_ratios(*sums, images)
        of_one, of_more = significance.sign_flip(np.stack([kinds[ONE], kinds[SEVERAL]]), images)
        estimates = {
            ONE: (one.value[0], one.low[0], one.high[0], of_one),
            SEVERAL: (more.value[0], more.low[0], more.high[0], of_more),
            BETWEEN: (between.value[0], between.low[0], between.high[0], p[0]),
        }
        for kind, estimate in estimates.items():
            rows.append({**about, "items": kind, "method": method, **_row(name, other, kinds.get(kind, gained), images, estimate)})
    return rows


def gain(methods: Sequence[str], values: dict[str, NDArray[np.float64]], measure: str, pair: tuple[str, str]) -> NDArray[np.float64]:
    """Return by how much the first method is better than the second, for each item (n,)."""
    first, second = (values[measure][methods.index(method)] for method in pair)
    return first - second if BETTER[measure] == "higher" else second - first


def _row(measure: str, against: str, values: NDArray[np.float64], images: NDArray[np.int64], estimate: tuple[float, ...]) -> dict[str, Any]:
    defined = np.isfinite(values)
    numbers = dict(zip(("value", "low", "high", "p"), estimate, strict=True))
    counted = {"images": len(np.unique(images[defined])), "n": int(defined.sum())}
    return {"against": against, "measure": measure, "better": BETTER[measure], **counted, **numbers}


def claim(several: dict[str, Any], between: dict[str, Any]) -> str:
    """Return whether there is a gain with several instances, and a larger one than with one instance."""
    if several["high"] < 0 or between["high"] < 0:
        return "does not hold"
    return "holds" if several["low"] > 0 and between["low"] > 0 else "cannot be told"
