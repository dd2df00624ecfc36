"""What strict comparisons make of scores: whether Y < O, and which of two methods loses less.

Metrics such as increase and win count them however near the two scores are to each other, so that changes far within the tolerances can
move them by tens of points. They depend on nothing but the order of an image's scores at a point, that of the whole image and those of all
methods. Here the orders are compared.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from evalkit.verify.tolerances import LEANING, STRICT

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
SCORES = ("prob_full", "logit_full", "prob_masked", "logit_masked")
TURNED = ", which turns a comparison of scores,"
"""Said of a score that differs within its tolerance, but more than rounding explains."""
_ROUNDING = 1e-15
"""What float64 makes of a confidence near 1."""


def strict_limit(score: Array, limit: Array, of_logits: Array, column: str) -> Array:
    """Return by how much a score (n,) may be off where that turns a comparison: `STRICT` of its tolerance `limit`.

    A confidence p follows its logits, by at most 2 p (1 - p) times as much, so that near 0 and 1 it is off by less. `of_logits` is
    the tolerance of logits.
    """
    if column.startswith("logit"):
        return STRICT * limit
    return np.fmin(STRICT * limit, 2 * score * (1 - score) * STRICT * of_logits + _ROUNDING)


def turned_rows(rows: pd.DataFrame) -> Mask:
    """Return which rows (n,) take part in a comparison that comes out otherwise in the record (columns in _x) than here (_y)."""
    halves, _ = _turns(rows, np.ones(len(rows), bool))
    return halves > 0


def _turns(rows: pd.DataFrame, chosen: Mask) -> tuple[Ints, Ints]:
    """Return for each row the comparisons among the chosen rows that come out otherwise, and how many more of them upwards than downwards.

    Both scores are compared: each with that of the whole image, which counts twice, and with those of other methods, which count once in
    each of both rows. Upwards is where a masked score lies higher in the record.
    """
    halves, up = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    if not len(rows):
        return halves, up
    place = rows.groupby(["index", "target", "select", "top_percent", "fill"], dropna=False, sort=False).ngroup().to_numpy()
    method, names = pd.factorize(rows["method"])
    for score in ("prob", "logit"):
        masked, full = np.full((2, 2, int(place.max()) + 1, len(names)), np.nan)
        for side, end in enumerate(("_x", "_y")):
            masked[side, place, method] = np.where(chosen, rows[f"{score}_masked{end}"], np.nan)
            full[side, place, method] = rows[f"{score}_full{end}"]
        net = _turn(masked, full)
        count = 2 * np.abs(np.sign(net))
        for other in range(len(names)):
            turn = _turn(masked, masked[:, :, other : other + 1])
            count, net = count + np.abs(np.sign(turn)), net + turn
        halves, up = halves + count[place, method], up + net[place, method]
    return halves, up


def _turn(one: Array, other: Array) -> Ints:
    """Return the sign of one - other in the record minus that here, 0 where a score is missing; the first axis is the record and here."""
    recorded, here = np.sign(one - other)
    turn: Ints = np.nan_to_num(recorded - here).astype(np.int64)
    return turn


@dataclass
class Leanings:
    """How often comparisons of nearly equal scores come out otherwise, and in how many images for or against a method."""

    comparisons: int = 0
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By method: images for it, images against it."""

    def add(self, rows: pd.DataFrame, chosen: Mask) -> None:
        """Add the comparisons among the chosen rows of whole images.

        For a method is where its masked score lies higher in the record than here, under remove_top lower. An image counts once a
        method, since its rows share a score.
        """
        halves, up = _turns(rows, chosen)
        self.comparisons += int(halves.sum()) // 2
        favour = pd.Series(np.where(rows["select"] == "remove_top", -up, up))
        of_images = favour.groupby([rows["method"].to_numpy(), rows["index"].to_numpy()]).sum()
        for name, own in of_images.groupby(level=0):
            more, less = self.images.get(str(name), (0, 0))
            self.images[str(name)] = (more + int((own > 0).sum()), less + int((own < 0).sum()))

    def one_sided(self) -> dict[str, tuple[int, int]]:
        """Return the methods for which images come out more to one side than rounding explains, which has none.

        By the exact sign test at the level `LEANING`, divided by the number of methods.
        """
        sides = {name: images for name, images in self.images.items() if sum(images)}
        level = LEANING / max(len(self.images), 1)
        return {name: (more, less) for name, (more, less) in sides.items() if stats.binomtest(more, more + less).pvalue < level}
