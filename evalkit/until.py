"""What `until` asks of a run: whether the difference between two methods is settled; the order of its images, and its values."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalkit.errors import UserError, did_you_mean
from evalkit.point import Point

Metric = Literal["average_drop", "win"]
BOUND = 100.0
"""Largest absolute value of a difference: drops and shares of wins are percentages."""
SHARD_SIZE = 128
"""Images after which such a run looks again, unless `shard_size` says otherwise."""


@dataclass(frozen=True)
class Question:
    """The difference first - second of a metric in confidence at one protocol point."""

    first: str
    second: str
    metric: Metric
    point: Point


def pair_of(text: str, methods: Iterable[str]) -> tuple[str, str]:
    """Return the two methods of `first-second`; names may hold hyphens. Raises UserError unless both are among `methods`."""
    known = list(methods)
    cuts = [(text[:i].strip(), text[i + 1 :].strip()) for i, letter in enumerate(text) if letter == "-"]
    if not cuts:
        raise UserError(f"until={text} must name two methods with a hyphen between them, as in until='ablation_cam-grad_cam'")
    first, second = max(cuts, key=lambda cut: (cut[0] in known) + (cut[1] in known))
    for name in (first, second):
        if name not in known:
            raise UserError(f"until={text}: no method '{name}' is chosen{did_you_mean(name, known)}")
    if first == second:
        raise UserError(f"until={text} compares a method with itself: name two methods")
    return first, second


def point_of(points: Sequence[Point], named: Point | None = None) -> Point:
    """Return the point that is looked at: the one that is named, or the first at which the score depends on the map.

    Raises UserError: the run has no such point.
    """
    told = [point for point in points if point.depends_on_map]
    if not told:
        raise UserError("until needs a protocol point that depends on the map, but each of this run keeps or removes 0 or 100 %")
    if named is None:
        return told[0]
    if named not in told:
        why = "does not depend on the map, since it keeps or removes 0 or 100 %" if named in points else "is no protocol point of this run"
        settings = {"select": named.select, "top_percent": named.top_percent, "fill": named.fill}
        text = ", ".join(
            f"{key}: {value:g}" if isinstance(value, float) else f"{key}: {value}" for key, value in settings.items() if value is not None
        )
        raise UserError(f"until_point={{{text}}} {why}: leave it out for the first one that does, or name another")
    return named


def shuffled(positions: Sequence[int], seed: int, shard_size: int) -> list[int]:
    """Return the positions in seeded random order, shard by shard, and ascending within each shard, as files hold them."""
    order = sorted(positions, key=lambda position: _turn(position, seed))
    return [position for start in range(0, len(order), shard_size) for position in sorted(order[start : start + shard_size])]


def _turn(position: int, seed: int) -> bytes:
    """Return where a position stands in the random order, which depends on nothing but it and the seed."""
    return hashlib.sha256(f"{seed} {position}".encode()).digest()


def values(rows: pd.DataFrame, question: Question, seed: int) -> NDArray[np.float64]:
    """Return the difference for each image (n,), in points, in the random order, from the rows of whole images of a run.

    As in the tables, an image counts only if every method has finite maps and scores for it and its confidence is not 0. Several
    explained classes of an image are averaged, since they are not independent.
    """
    good = rows[~rows["index"].isin(rows.loc[rows.status.isin(["error", "nonfinite"]), "index"])]
    top, point = good.top_percent, question.point
    at_top = top.isna() if point.top_percent is None else top == point.top_percent
    good = good[(good["select"] == point.select) & (good["fill"] == point.fill) & at_top]
    full, masked = (
        good.pivot(index=["index", "target"], columns="method", values=column).reindex(columns=[question.first, question.second])
        for column in ("prob_full", "prob_masked")
    )
    drops = (full - masked).clip(lower=0)
    if question.metric == "average_drop":
        relative = 100 * drops / full.where(full > 0)
        differences = relative[question.first] - relative[question.second]
    else:
        fewer = np.sign(drops[question.second] - drops[question.first])
        differences = 100 * (-fewer if point.select == "remove_top" else fewer)
    of_images = differences.groupby(level="index").mean().dropna()
    order = sorted(range(len(of_images)), key=lambda i: _turn(int(of_images.index[i]), seed))
    return of_images.to_numpy(np.float64)[order]


def facts(question: Question, points: Sequence[Point], shard_size: int) -> dict[str, Any]:
    """Return what a run's identity says of `until`, the point only if it is not the first; the seed stands there by itself."""
    point = question.point
    named = {} if point == point_of(points) else {"point": [point.select, point.top_percent, point.fill]}
    return {"pair": [question.first, question.second], "metric": question.metric, "shard_size": shard_size, **named}
