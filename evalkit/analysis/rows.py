"""The rows of one run, or of several that were merged, as arrays: facts of all items, and the scores of a few protocol points at a time.

Loading reads every shard once, whole, and checks it. Scores are read again when they are asked for, only their columns, and only so
many points as fit in memory together, so that memory depends on images and methods but not on the number of points.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evalkit.analysis.shard_facts import ABSENT, COLUMNS, WHERE, Codes, Ints, ShardFacts, coded, facts_of, item_keys, numbers, texts
from evalkit.errors import printable
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.point import Point
from evalkit.runs.folder import RunFolder
from evalkit.threads import mapped

Floats = NDArray[np.float64]

TOGETHER = 2**28
"""Bytes of scores that are read at once."""


@dataclass(frozen=True)
class Part:
    """What one pass over the shards of one folder keeps."""

    folder: RunFolder
    shards: list[ShardFacts]

    @property
    def missing(self) -> int:
        """Number of shards that still have to be computed."""
        return len(self.folder.shards) - len(self.shards)

    @property
    def images(self) -> int:
        """Number of images in finished shards."""
        return len({index for shard in self.shards for index in shard.items["index"].unique()})

    @property
    def descriptions(self) -> list[dict[str, Any]]:
        """The description of each finished shard."""
        return [shard.description for shard in self.shards]


def read_part(folder: RunFolder) -> Part:
    """Read and check every finished shard of a folder once."""
    return Part(folder, list(folder.each(facts_of)))


class Rows:
    """The rows of a run's parts, whose methods differ: I items (image and explained class), M methods, P protocol points.

    Items are ordered by index and then by target. The first M methods are `methods`; rows of others make their items incomplete.
    """

    def __init__(self, parts: Sequence[Part], methods: Sequence[str]) -> None:
        self.parts = list(parts)
        self.methods = list(methods)
        self._columns = {name: place for place, name in enumerate(self.methods)}
        facts = [shard for part in self.parts for shard in part.shards]
        self.points: list[Point] = list(dict.fromkeys(point for shard in facts for point in shard.points))
        """The protocol points in the order of the rows."""
        self.measured = set[str]().union(*(shard.measured for shard in facts))
        """The measures of the maps that are finite somewhere."""
        self.items = _items([shard.items for shard in facts])
        """A line for each item, as in `ShardFacts.items`."""
        self.status: Codes = np.full((len(self.items), len(self.methods)), ABSENT, np.int8)
        """The status of each map (I,M) at its first point, as a place in STATUSES."""
        self.nonfinite: NDArray[np.bool_] = np.zeros(self.status.shape, bool)
        """Whether a map or score is not finite (I,M)."""
        for shard in facts:
            places = np.searchsorted(self.items.index, shard.items.index)
            columns = self._column_of(shard.methods)
            known = columns >= 0
            at = np.ix_(places, columns[known])
            self.status[at] = shard.status[:, known]
            self.nonfinite[at] = shard.nonfinite[:, known]
        self._scores: dict[tuple[Point, str], Floats] = {}

    @cached_property
    def excluded(self) -> pd.DataFrame:
        """The first row of each image with a row of the status error or nonfinite: index, image_id, status, error."""
        found = [shard.excluded for part in self.parts for shard in part.shards if len(shard.excluded)]
        if not found:
            return pd.DataFrame(columns=["index", "image_id", "status", "error"])
        return pd.concat(found).sort_values("index", kind="stable", ignore_index=True).drop_duplicates("index", ignore_index=True)

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """Whether every method could be scored on an item (I,), at every point, as on all items of its image."""
        bad = self.items["index"][self.items.unread | self.nonfinite.any(axis=1)]
        whole = (self.items.rows == len(self.methods) * len(self.points)) & ~self.items.twice  # an unfinished run may lack rows
        return np.asarray(whole & ~self.items["index"].isin(bad))

    @cached_property
    def scored_items(self) -> pd.DataFrame:
        """The lines of `items` that are scored (n)."""
        return self.items[self.scored]

    def full(self, column: str) -> Floats:
        """Return a score (M,n) of the whole image, `prob` or `logit`, as each method's rows have it."""
        return self._score(self.points[0], f"{column}_full")

    def masked(self, point: Point, column: str) -> Floats:
        """Return a score (M,n) of the perturbed image, `prob` or `logit`."""
        return self._score(point, f"{column}_masked")

    def _score(self, point: Point, column: str) -> Floats:
        if (point, column) not in self._scores:
            self._read(point)
        return self._scores[point, column]

    def _read(self, point: Point) -> None:
        """Read the scores of a point, and of as many others as fit in TOGETHER, those after it first; those read before are forgotten."""
        columns = ("prob_masked", "logit_masked")
        size = (len(self.methods), len(self.scored_items))
        room = max(1, TOGETHER // max(1, 8 * size[0] * size[1] * len(columns)))
        start = max(0, min(self.points.index(point), len(self.points) - room))
        chosen = self.points[start : start + room]
        kept = {key: values for key, values in self._scores.items() if key[1].endswith("_full")}
        wanted = [(one, column) for one in chosen for column in columns]
        if not kept:
            wanted += [(self.points[0], column) for column in ("prob_full", "logit_full")]
        self._scores = kept  # before others are made, so that those of two readings are never in memory together
        scores = {key: np.full(size, np.nan) for key in wanted}

        def filled(job: tuple[Part, int]) -> None:
            part, number = job
            table = part.folder.columns(number, [*WHERE, *dict.fromkeys(column for _, column in wanted)])
            at = coded(table)
            method = self._column_of(at.methods)[at.method]
            item = self._places(at.keys)[at.item]
            usable = (item >= 0) & (method >= 0)
            for place, one in enumerate(at.points):
                here = usable & (at.point == place)
                for key in wanted:
                    if key[0] == one:
                        scores[key][method[here], item[here]] = numbers(table, key[1])[here]

        for _ in mapped(filled, self._jobs()):
            pass
        for values in scores.values():
            values.flags.writeable = False
        self._scores = {**kept, **scores}

    def _column_of(self, names: Sequence[str]) -> Ints:
        """Return the place of each of a shard's methods among `methods`; -1 for others."""
        return np.array([self._columns.get(printable(name), -1) for name in names], np.int64)

    def _jobs(self) -> list[tuple[Part, int]]:
        return [(part, shard.number) for part in self.parts for shard in part.shards]

    def _places(self, keys: Ints) -> Ints:
        """Return the places of items among those that are scored; -1 for others."""
        own = self.scored_items.index.to_numpy()
        if not len(own):
            return np.full(len(keys), -1)
        places = np.searchsorted(own, keys).clip(max=len(own) - 1)
        return np.where(own[places] == keys, places, -1)

    def measure(self, name: str) -> Floats:
        """Return a measure of the maps (M,n) on the items that are scored; nan where it is undefined."""
        values = np.full((len(self.methods), len(self.scored_items)), np.nan)

        def filled(job: tuple[Part, int]) -> None:
            part, number = job
            table = part.folder.columns(number, ["index", "target", "method", name], maps=True)
            names, method = texts(table, "method")
            method = self._column_of(names)[method]
            item = self._places(item_keys(numbers(table, "index"), numbers(table, "target", -1).astype(np.int64)))
            usable = (item >= 0) & (method >= 0)
            values[method[usable], item[usable]] = numbers(table, name)[usable]

        for _ in mapped(filled, self._jobs()):
            pass
        return values

    def frame(self, *, maps: bool = False) -> pd.DataFrame:
        """Return all rows, or all lines of the maps, as a table in the order of their index."""
        tables = []
        for part in self.parts:
            found = [shard.maps.drop_columns("map") if maps else shard.rows for shard in part.folder.finished()]
            tables.append(pa.concat_tables([(MAPS.empty_table().drop_columns("map") if maps else ROWS.empty_table()), *found]))
        return pd.concat([_printable(table.to_pandas().sort_values("index", kind="stable", ignore_index=True)) for table in tables])

    def rows_of(self, images: Collection[int], point: Point) -> pd.DataFrame:
        """Return the rows of some images (their index) at one point."""
        chosen = (pc.field("select") == point.select) & (pc.field("fill") == point.fill) & pc.field("index").isin(list(images))
        top = pc.field("top_percent")
        chosen &= top.is_null(nan_is_null=True) if point.top_percent is None else top == point.top_percent
        holding = [(part, shard.number) for part in self.parts for shard in part.shards if shard.items["index"].isin(images).any()]
        found = [part.folder.columns(number, ROWS.names).cast(ROWS).filter(chosen) for part, number in holding]
        return _printable(pa.concat_tables([ROWS.empty_table(), *found]).to_pandas())


def _printable(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(method=table.method.map({name: printable(name) for name in table.method.unique()}))


def _items(found: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join the items of shards and parts: the same item has rows in every part."""
    items = pd.concat(found) if found else pd.DataFrame(columns=list(COLUMNS), index=pd.Index([], dtype=np.int64)).astype(COLUMNS)
    if items.index.is_unique:
        return items.sort_index()
    how = {"rows": "sum", "twice": "any", "unread": "any", "read": "any", "prob_full": "max"}
    return items.groupby(level=0, sort=True).agg({name: how.get(name, "first") for name in items.columns})
