"""Choice of a gallery's images: where methods differ, where each wins, where all fail, and some at random."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evalkit.analysis import metrics
from evalkit.analysis.load import CONTROLS, ITEM, Run
from evalkit.analysis.summary import main_score, scores_of
from evalkit.control_names import versions
from evalkit.point import Point

MOST_METHODS = 8
"""Largest number of methods whose maps a gallery shows side by side."""
DIFFER, FAIL, RANDOM = "methods differ most", "all fail", "drawn at random"
TIE = "tie"
FAILURE = 50.0
"""Drop in percent of the confidence, or else of the score, above which a method has failed; under remove_top, below which."""


@dataclass(frozen=True)
class GalleryEntry:
    """An image and explained class of the gallery."""

    index: int
    target: int
    winner: str
    """The shown method with the strictly smallest clipped drop in confidence (largest under remove_top), or `TIE`."""
    reasons: list[str] = field(default_factory=list)
    """Reasons for showing it: `DIFFER`, `FAIL`, `RANDOM`, or `METHOD wins`."""


def shown_methods(run: Run) -> list[str]:
    """Return the first `MOST_METHODS` methods that are not controls, or of all methods if there are only controls."""
    altered = versions(run.methods)
    methods = [method for method in run.methods if method not in CONTROLS and method not in altered] or run.methods
    return methods[:MOST_METHODS]


def select(run: Run, point: Point, each: int) -> list[GalleryEntry]:
    """Choose up to `each` images for every reason, by the drop in confidence at one protocol point.

    Differing: by the spread of the drops among the shown methods. A win: by its margin over the second. All fail: by the
    drop of the best method, largest first; under remove_top, where a drop is a success, smallest first; see `FAILURE`.
    Entries are unique, in the order of their first reason.
    """
    full, masked, _ = scores_of(run, point, main_score(run))
    methods = shown_methods(run)
    rows = [run.methods.index(method) for method in methods]
    drops = metrics.relative_drop(full, masked, raw=run.raw)[rows]
    losses = metrics.clipped_drop(full, masked)[rows]
    if point.select == "remove_top":
        drops, losses = -drops, -losses
    n = drops.shape[1]
    pairs = list(run.items[ITEM].itertuples(index=False, name=None))  # as scores_of orders them
    best = losses.argmin(0)
    margin = np.partition(losses, 1, axis=0)[1] - losses.min(0) if len(methods) > 1 else np.zeros(n)
    winners = [methods[best[i]] if margin[i] > 0 else TIE for i in range(n)]

    chosen: dict[int, list[str]] = {}

    def take(reason: str, ranked: Sequence[int] | np.ndarray) -> None:
        for i in ranked[:each]:
            chosen.setdefault(int(i), []).append(reason)

    if len(methods) > 1:
        take(DIFFER, _descending(np.ptp(drops, axis=0)))
        for number, method in enumerate(methods):
            take(f"{method} wins", _descending(np.where(best == number, margin, 0)))
    take(FAIL, _descending(drops.min(0), above=-FAILURE if point.select == "remove_top" else FAILURE))
    take(RANDOM, np.random.default_rng(0).permutation(n))
    return [GalleryEntry(pairs[i][0], pairs[i][1], winners[i], reasons) for i, reasons in chosen.items()]


def _descending(values: np.ndarray, above: float = 0) -> np.ndarray:
    """Return the positions of values above a bound, by descending value; ties in order."""
    order = np.argsort(-values, kind="stable")
    return order[values[order] > above]
