"""What one pass over a shard keeps of its rows: facts of its items (image and explained class) and of their maps.

Rows are numbered by item, method and protocol point, so that nothing here grows with the number of points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from evalkit.evaluation.columns import MEASURES
from evalkit.point import Point
from evalkit.runs.folder import Shard

STATUSES = ("ok", "degenerate", "nonfinite", "error")
"""The values of the column `status`; arrays hold their places here, and ABSENT where there is no row."""
OK, DEGENERATE, NONFINITE, ERROR = range(4)
ABSENT = -1
WHERE = ["index", "target", "method", "select", "top_percent", "fill"]
"""The columns that say which row this is."""
COLUMNS = {
    "index": np.int64, "target": np.int64, "label": np.float64, "predicted": np.float64, "logit_full": np.float64, "prob_full": np.float64,
    "rows": np.int64, "twice": np.bool_, "unread": np.bool_, "read": np.bool_,
}  # fmt: skip
"""The columns of `ShardFacts.items`, with their types."""
NO_TARGET = -1
"""The target of an image that could not be read."""
_NO_TOP = -1.0
_TARGETS = 2**32

Ints = NDArray[np.int64]
Codes = NDArray[np.int8]


class Coded(NamedTuple):
    """Item, method and point of the rows (r,) of a table, as places in `keys`, `methods` and `points`."""

    keys: Ints
    """Keys of the items, ascending, see `item_keys`."""
    methods: list[str]
    """By first appearance."""
    points: list[Point]
    item: Ints
    method: Ints
    point: Ints


@dataclass(frozen=True)
class ShardFacts:
    """The facts of one shard: I items, M methods."""

    number: int
    description: dict[str, Any]
    methods: list[str]
    points: list[Point]
    fills: set[str]
    """All fills and selections, known or not, for a message."""
    selects: set[str]
    items: pd.DataFrame
    """A line for each item, by its key: index, target, label, predicted, prob_full, logit_full, rows, twice (whether a row is there twice),
    unread (whether some row has the status error) and read (whether some has not)."""
    status: Codes
    """(I,M): of the first point."""
    nonfinite: NDArray[np.bool_]
    """(I,M): at any point."""
    excluded: pd.DataFrame
    """The first row of each image with a row of the status error or nonfinite: index, image_id, status, error."""
    measured: set[str]
    """The measures of maps that are finite somewhere."""


def item_keys(index: Ints, target: Ints) -> Ints:
    """Return one number for each pair of an image's index and a target, in the order of such pairs."""
    return np.asarray(index * _TARGETS + (target - NO_TARGET), np.int64)


def pairs_of(keys: Ints) -> tuple[Ints, Ints]:
    """Return the indices and targets of `item_keys`."""
    return keys // _TARGETS, keys % _TARGETS + NO_TARGET


def numbers(table: pa.Table, name: str, absent: float | None = None) -> NDArray[Any]:
    """Return a column of numbers; `absent` stands for null, else floats with nan."""
    column = table[name].combine_chunks()
    if absent is not None:
        column = column.fill_null(absent)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def texts(table: pa.Table, name: str) -> tuple[list[str], Ints]:
    """Return the different texts of a dictionary column, and the place (r,) of each row's among them; -1 for null."""
    column = table[name].unify_dictionaries().combine_chunks()
    return column.dictionary.to_pylist(), np.asarray(column.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def coded(table: pa.Table) -> Coded:
    """Number the rows of a table with the columns WHERE."""
    keys, item = _distinct(item_keys(numbers(table, "index"), numbers(table, "target", NO_TARGET).astype(np.int64)))
    methods, method = _by_appearance(*texts(table, "method"))
    (selects, select), (fills, fill) = texts(table, "select"), texts(table, "fill")
    tops, top = np.unique(np.nan_to_num(numbers(table, "top_percent", _NO_TOP), nan=_NO_TOP), return_inverse=True)
    codes = (select * len(fills) + fill) * len(tops) + top
    names = [(s, None if t == _NO_TOP else float(t), f) for s in selects for f in fills for t in tops]
    points, point = _by_appearance(names, codes)
    return Coded(keys, methods, [Point(*one) for one in points], item, method, point)


def _distinct(keys: Ints) -> tuple[Ints, Ints]:
    """Return the different keys, ascending, and the place of each row's; faster than np.unique where rows are in their order."""
    if len(keys) and (np.diff(keys) >= 0).all():
        new = np.concatenate([[True], keys[1:] != keys[:-1]])
        return keys[new], np.cumsum(new) - 1
    return np.unique(keys, return_inverse=True)


def _by_appearance(names: Sequence[Any], codes: Ints) -> tuple[list[Any], Ints]:
    """Return the names that occur, in the order of their first rows, and the place of each row's among them."""
    first = np.full(len(names), len(codes))
    np.minimum.at(first, codes, np.arange(len(codes)))
    order = [int(place) for place in np.argsort(first, kind="stable") if first[place] < len(codes)]
    places = np.full(len(names), -1)
    places[order] = np.arange(len(order))
    return [names[place] for place in order], places[codes]


def facts_of(shard: Shard) -> ShardFacts:
    """Return the facts of a shard, from a pass over its rows and maps."""
    rows = shard.rows
    at = coded(rows)
    status = _statuses(rows)
    size = (len(at.keys), len(at.methods))
    cells = (at.item * size[1] + at.method) * len(at.points) + at.point
    repeated = np.bincount(cells, minlength=size[0] * size[1] * len(at.points)).reshape(size[0], size[1] * len(at.points)) > 1
    first = np.full(size, ABSENT, np.int8)
    first[at.item[::-1], at.method[::-1]] = status[::-1]  # of repeated places, the last one written stays: the first row's
    nonfinite = np.zeros(size, bool)
    nonfinite[at.item[status == NONFINITE], at.method[status == NONFINITE]] = True
    index, target = pairs_of(at.keys)
    items = pd.DataFrame({"index": index, "target": target}, index=at.keys)
    for name in ("label", "predicted", "logit_full"):
        items[name] = _first(at.item, numbers(rows, name).astype(np.float64), size[0])
    items["prob_full"] = _largest(at.item, numbers(rows, "prob_full"), size[0])
    items["rows"] = np.bincount(at.item, minlength=size[0])
    items["twice"] = repeated.any(axis=1)
    for name, chosen in (("unread", status == ERROR), ("read", status != ERROR)):
        items[name] = np.bincount(at.item[chosen], minlength=size[0]) > 0
    measured = {name for name in MEASURES if np.isfinite(numbers(shard.maps, name)).any()}
    selects, fills = (set(texts(rows, name)[0]) for name in ("select", "fill"))
    assert list(items) == list(COLUMNS)
    return ShardFacts(
        shard.number, shard.description, at.methods, at.points, fills, selects, items, first, nonfinite, _excluded(rows, status), measured
    )


def _statuses(rows: pa.Table) -> Codes:
    names, codes = texts(rows, "status")
    return np.array([STATUSES.index(name) if name in STATUSES else OK for name in names] or [OK], np.int8)[codes]


def _first(item: Ints, values: NDArray[Any], items: int) -> NDArray[np.float64]:
    """Return the value of the first row of each item."""
    first = np.full(items, np.nan)
    first[item[::-1]] = values[::-1]
    return first


def _largest(item: Ints, values: NDArray[Any], items: int) -> NDArray[np.float64]:
    """Return the largest value of each item's rows, without nan."""
    if not len(item):
        return np.full(items, np.nan)
    order = np.argsort(item, kind="stable")
    starts = np.searchsorted(item[order], np.arange(items))
    return np.asarray(np.fmax.reduceat(values.astype(np.float64)[order], starts))


def _excluded(rows: pa.Table, status: Codes) -> pd.DataFrame:
    bad = rows.filter(pa.array(status >= NONFINITE)).select(["index", "image_id", "status", "error"]).to_pandas()
    return bad.drop_duplicates("index").astype({"image_id": object, "status": object, "error": object})
