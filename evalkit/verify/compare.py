"""Comparison of recorded rows with rows computed here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from evalkit.analysis.shard_facts import NO_TARGET
from evalkit.evaluation.columns import MEASURES
from evalkit.verify.map_distances import MAP_KEY, map_distances
from evalkit.verify.strict import SCORES, TURNED, Leanings, strict_limit, turned_rows
from evalkit.verify.tolerances import COARSER, NEAR_TIE, tolerance

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ROW_KEY = ["index", "target", "method", "select", "top_percent", "fill"]
ROW_WORDS = ("image_id", "label", "predicted", "target_name", "status")
MAP_WORDS = ("image_id", "label", "target_name", "status", "height", "width")
"""What has to be the same."""
ROW_NUMBERS = ("prob_full", "logit_full", "prob_masked", "logit_masked", "kept_fraction", "positive_fraction", "rank_gap")
MAP_NUMBERS = ("minimum", "maximum", "zero_fraction", *MEASURES)
MASKED = ("prob_masked", "logit_masked")
"""What a swap of two pixels may change."""
_ALL = slice(None)
SHOWN = 20
"""How many differences are kept to be shown."""


@dataclass(frozen=True)
class Difference:
    """A value that differs beyond its tolerance, or a row that only one side has (`column` is "row" then)."""

    image: str
    index: int
    method: str
    point: str
    column: str
    recorded: str
    computed: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (f"image {self.image}", self.method, self.point) if part)
        return f"{where}: {self.column} is {self.recorded} in the run, {self.computed} here"


class _Distance(NamedTuple):
    """How far the numbers of a column are from those computed here."""

    away: Mask
    """Whether they are further away than the tolerance."""
    distance: Array
    """Absolute deviation; nan where it is no finite number."""
    limit: Array
    """The tolerance."""


@dataclass(frozen=True)
class Suspect:
    """A row near a tie whose masked scores differ: rounding that swapped pixels may be the reason, or somebody altered it."""

    image: str
    index: int
    target: int
    method: str
    point: str
    recorded: tuple[float, float]
    """Confidence (nan where there is none) and logit of the masked image."""
    computed: tuple[float, float]
    allowed: tuple[float, float]
    """Their tolerances."""


@dataclass
class Comparison:
    """What was compared so far."""

    precision: str = "fp32"
    rows: int = 0
    """Rows of either side."""
    maps: int = 0
    differing_rows: int = 0
    """Rows of both tables with a difference."""
    differing_images: set[int] = field(default_factory=set)
    differences: list[Difference] = field(default_factory=list)
    """The first `SHOWN`."""
    largest: dict[str, float] = field(default_factory=dict)
    """The largest absolute deviation of each column; of masked scores without rows near a tie."""
    shares: dict[str, float] = field(default_factory=dict)
    """The largest of these deviations as a share of its tolerance."""
    near_ties: int = 0
    """Rows whose mask depends on two pixels that rounding may swap."""
    swapped: int = 0
    """Those among them whose masked scores differ as swapped pixels make them differ."""
    largest_swapped: dict[str, float] = field(default_factory=dict)
    """The largest absolute deviation of their masked scores."""
    leanings: Leanings = field(default_factory=Leanings)
    """What strict comparisons make of scores that differ within the tolerances."""
    suspects: list[Suspect] = field(default_factory=list)
    """Rows that still have to be settled."""

    def add(self, recorded: tuple[pa.Table, pa.Table], computed: tuple[pa.Table, pa.Table]) -> None:
        """Compare the tables `ROWS` and `MAPS` of some images, as recorded and as computed here."""
        rows = _joined(recorded[0], computed[0], ROW_KEY)
        maps = _joined(recorded[1].drop_columns("map"), computed[1].drop_columns("map"), MAP_KEY)
        self.rows += len(rows)
        self.maps += len(maps)
        self._compare_rows(self._in_both(rows))
        maps = self._in_both(maps)
        self._compare_maps(maps, map_distances(maps, recorded[1], computed[1]))

    def _in_both(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Record the rows that only one side has, and return the others."""
        for merge, recorded, computed in (("left_only", "there", "not made"), ("right_only", "missing", "made")):
            self._record(frame, (frame["_merge"] == merge).to_numpy(), "row", [recorded] * len(frame), [computed] * len(frame))
        alone = (frame["_merge"] != "both").to_numpy()
        self._count(frame, alone)
        return frame[~alone]

    def settle(self, suspect: Suspect, low: Sequence[float], high: Sequence[float]) -> None:
        """Settle a suspect by the lowest and highest masked confidence and logit that swaps of pixels near the tie lead to."""
        away = [
            not ((math.isnan(theirs) and math.isnan(ours)) or least - slack <= theirs <= most + slack)
            for theirs, ours, least, most, slack in zip(suspect.recorded, suspect.computed, low, high, suspect.allowed, strict=True)
        ]
        for column, is_away, theirs, ours in zip(MASKED, away, suspect.recorded, suspect.computed, strict=True):
            if is_away:
                self._show(Difference(suspect.image, suspect.index, suspect.method, suspect.point, column, f"{theirs:.6g}", f"{ours:.6g}"))
            elif not any(away) and not math.isnan(theirs):
                self.largest_swapped[column] = max(self.largest_swapped.get(column, 0.0), abs(theirs - ours))
        self.swapped += not any(away)
        if any(away):
            self.differing_rows += 1
            self.differing_images.add(suspect.index)

    def _compare_rows(self, rows: pd.DataFrame) -> None:
        near = (rows["rank_gap_y"] < NEAR_TIE * COARSER[self.precision]).to_numpy()  # computed here: the recorded one may be made up
        differ, apart, loose = self._words(rows, ROW_WORDS), np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        full, masked = (np.abs(rows[f"{name}_y"].to_numpy(float)) for name in ("logit_full", "logit_masked"))
        usual = float(np.nanmedian(full)) if not np.isnan(full).all() else 0.0
        of_logits, turned, limits = np.fmax(np.fmax(full, masked), usual), turned_rows(rows), {}
        for column in ROW_NUMBERS:
            scale = of_logits if column.startswith("logit") else _scale(rows, column)
            away, distance, limits[column] = self._distance(rows, column, scale)
            swappable = near & np.isfinite(distance) & (column in MASKED)
            self._keep(column, distance, limits[column], ~near if column in MASKED else _ALL)
            if column in SCORES:
                strict = strict_limit(_scale(rows, column), limits[column], self._limit("logit_full", of_logits), column)
                over = ~away & (distance > strict)
                loose |= away | over
                limits[column] = np.where(turned, strict, limits[column])
                differ |= self._numbers(rows, column, over & turned & ~swappable, TURNED)
                apart |= swappable & over & turned
            apart |= swappable & away
            differ |= self._numbers(rows, column, away & ~swappable)
        self.near_ties += int(near.sum())
        for at in np.flatnonzero(apart & ~differ):
            self.suspects.append(_suspect(rows.iloc[int(at)], (float(limits[MASKED[0]][at]), float(limits[MASKED[1]][at]))))
        self._count(rows, differ)
        self.leanings.add(rows, ~loose)

    def _compare_maps(self, maps: pd.DataFrame, distances: Array) -> None:
        """Compare the measures of maps, and the maps by their greatest distances, which are nan where none is stored."""
        differ = self._words(maps, MAP_WORDS)
        largest = np.fmax(_scale(maps, "minimum"), _scale(maps, "maximum"))
        for column in MAP_NUMBERS:
            away, distance, limit = self._distance(maps, column, largest if column in ("minimum", "maximum") else _scale(maps, column))
            self._keep(column, distance, limit)
            differ |= self._numbers(maps, column, away)
        with np.errstate(invalid="ignore"):
            limit = tolerance("map").relative * COARSER[self.precision] * np.nan_to_num(largest, nan=0.0)
            away = distances > limit
        self._keep("map", distances, limit)
        self._record(maps, away, "the stored map", [f"another one, {distance:.3g} away" for distance in distances], ["its own"] * len(maps))
        self._count(maps, differ | away)

    def _distance(self, frame: pd.DataFrame, column: str, scale: Array) -> _Distance:
        theirs, ours = (frame[f"{column}{side}"].to_numpy(float) for side in ("_x", "_y"))
        limit = self._limit(column, scale)
        with np.errstate(invalid="ignore"):
            distance = np.abs(theirs - ours)
            same = (theirs == ours) | (np.isnan(theirs) & np.isnan(ours)) | (distance <= limit)
        return _Distance(~same, np.where(np.isfinite(distance), distance, np.nan), limit)

    def _limit(self, column: str, scale: Array) -> Array:
        allowed = tolerance(column)
        return COARSER[self.precision] * (allowed.absolute + allowed.relative * np.where(np.isfinite(scale), scale, 0))

    def _keep(self, column: str, distance: Array, limit: Array, chosen: Mask | slice = _ALL) -> None:
        """Keep the largest deviation and its largest share of the tolerance."""
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(distance == 0, 0, distance / limit)
        for known, values in ((self.largest, distance[chosen]), (self.shares, share[chosen])):
            if not np.isnan(values).all():
                known[column] = max(known.get(column, 0.0), float(np.nanmax(values)))

    def _words(self, frame: pd.DataFrame, columns: Sequence[str]) -> Mask:
        found = np.zeros(len(frame), bool)
        for column in columns:
            theirs, ours = frame[f"{column}_x"], frame[f"{column}_y"]
            differ = ~((theirs == ours) | (theirs.isna() & ours.isna())).to_numpy(bool)
            self._record(frame, differ, column, theirs.to_list(), ours.to_list())
            found |= differ
        return found

    def _numbers(self, frame: pd.DataFrame, column: str, differ: Mask, why: str = "") -> Mask:
        digits = 12 if why else 6
        theirs, ours = ([f"{value:.{digits}g}" for value in frame[f"{column}{side}"].to_numpy(float)] for side in ("_x", "_y"))
        self._record(frame, differ, column + why, theirs, ours)
        return differ

    def _record(self, frame: pd.DataFrame, differ: Mask, column: str, recorded: Sequence[object], computed: Sequence[object]) -> None:
        """Keep the first differences to be shown."""
        for at in np.flatnonzero(differ)[: SHOWN - len(self.differences)]:
            row = frame.iloc[int(at)]
            point = point_in_words(row["select"], row["top_percent"], row["fill"]) if "select" in row else ""
            self._show(Difference(_image(row), int(row["index"]), str(row["method"]), point, column, str(recorded[at]), str(computed[at])))

    def _show(self, difference: Difference) -> None:
        if len(self.differences) < SHOWN:
            self.differences.append(difference)

    def _count(self, frame: pd.DataFrame, differ: Mask) -> None:
        self.differing_rows += int(differ.sum())
        self.differing_images.update(int(index) for index in frame["index"].to_numpy()[differ])


def _joined(recorded: pa.Table, computed: pa.Table, key: list[str]) -> pd.DataFrame:
    """Join two tables: columns of the recorded one end in _x, of the other in _y, and `_merge` says who has a row."""
    frames = []
    for table in (recorded, computed):
        frame = table.to_pandas()
        frame["target"] = frame["target"].fillna(NO_TARGET).astype(np.int64)
        frame = frame.drop_duplicates(key)  # a row that is there twice is a problem of the structure
        frames.append(frame if len(frame) else frame.astype(object))  # pandas cannot join columns of strings without any
    return frames[0].merge(frames[1], on=key, how="outer", indicator=True, sort=True)


def _scale(frame: pd.DataFrame, column: str) -> Array:
    scale: Array = np.abs(frame[f"{column}_y"].to_numpy(float))
    return scale


def _suspect(row: "pd.Series[Any]", allowed: tuple[float, float]) -> Suspect:
    recorded, computed = (tuple(float(row[f"{column}{side}"]) for column in MASKED) for side in ("_x", "_y"))
    point = point_in_words(row["select"], row["top_percent"], row["fill"])
    key = (int(row["index"]), int(row["target"]), str(row["method"]), point)
    return Suspect(_image(row), *key, (recorded[0], recorded[1]), (computed[0], computed[1]), allowed)


def _image(row: "pd.Series[Any]") -> str:
    return str(row["image_id_y"] if isinstance(row["image_id_y"], str) else row["image_id_x"])


def point_in_words(select: str, top_percent: float | None, fill: str) -> str:
    """Return a protocol point as text: `keep_top 20 % black`."""
    top = "" if top_percent is None or pd.isna(top_percent) else f" {top_percent:g} %"
    return f"{select}{top} {fill}"
