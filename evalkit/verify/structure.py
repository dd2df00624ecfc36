"""Check of a shard's tables without the network: every row that belongs there once, no other, and nothing that contradicts itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from evalkit.analysis.load import POINT
from evalkit.analysis.shard_facts import NO_TARGET, STATUSES
from evalkit.evaluation.columns import AGAINST_BOXES
from evalkit.runs.folder import Shard
from evalkit.verify.expected import Expected

Mask = NDArray[np.bool_]
SCORES = ["prob_full", "prob_masked", "logit_full", "logit_masked"]


@dataclass(frozen=True)
class Problem:
    """Something in a shard that no run writes."""

    shard: int
    what: str
    count: int
    """Number of rows, or of images, that are concerned."""
    example: str = ""
    """The first of them."""
    unit: str = ""
    """What `count` counts, where `what` does not say so."""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"shard {self.shard}: {self.what}" + (
            f" ({self.count:,}{unit}{', first ' if self.count > 1 else ': '}{self.example})" if self.example else ""
        )


def check_shard(shard: Shard, expected: Expected) -> list[Problem]:
    """Return the problems of a finished shard."""
    rows, maps = _frame(shard.rows), _frame(shard.maps)
    facts = pd.DataFrame([expected.image(position) for position in expected.of_shard(shard.number)], columns=["image_id", "labels"])
    facts.index = pd.Index(expected.of_shard(shard.number))
    found = [
        *_of_description(shard, expected),
        *_of_images(shard, rows, facts, expected),
        *_of_table(shard.number, rows, facts, expected, "rows", _grid(rows, expected), len(expected.points)),
        *_of_table(shard.number, maps, facts, expected, "maps", _method(maps, expected), 1),
        *_of_rows(shard.number, rows, expected),
        *_of_maps(shard.number, maps, shard.maps),
        *_between(shard.number, rows, maps),
    ]
    return list(dict.fromkeys(found))


def _frame(table: pa.Table) -> pd.DataFrame:
    """Return a shard's table, without stored maps, with the number of each row's item (image and target)."""
    frame: pd.DataFrame = table.select([name for name in table.column_names if name != "map"]).to_pandas()
    frame["target"] = frame["target"].fillna(NO_TARGET).astype(np.int64)
    frame["item"] = frame.groupby(["index", "target"], sort=False).ngroup()
    return frame


def stored_maps(table: pa.Table) -> Iterator[NDArray[np.float32] | None]:
    """Yield the stored map of each row of a table `MAPS`, flat; None where it was not stored."""
    column = table["map"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    ends = np.cumsum(column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
    for end, before, is_null in zip(ends, [0, *ends][: len(ends)], column.is_null().to_pylist(), strict=True):
        yield None if is_null else values[before:end]


def _of_description(shard: Shard, expected: Expected) -> Iterator[Problem]:
    said = shard.description
    for key, ours in (("shard", shard.number), ("shard_size", expected.shard_size)):
        if said.get(key, ours) != ours:  # older files lack them
            yield Problem(shard.number, f"its file says {key} {said[key]} instead of {ours}", 1)


def _of_images(shard: Shard, rows: pd.DataFrame, facts: pd.DataFrame, expected: Expected) -> Iterator[Problem]:
    """Check that every image of the shard's range is there, except those that the run leaves out."""
    absent = facts[~facts.index.isin(rows["index"].unique())]
    left_out = shard.description.get("left_out")
    if left_out != len(absent):
        yield _images(shard.number, absent, f"{len(absent):,} images have no rows, and its file says that {left_out} were left out")
    if expected.only_correct:
        return
    unlabelled = absent["labels"].map(lambda labels: expected.target == "label" and not labels).to_numpy(bool)
    if not unlabelled.all():
        yield _images(shard.number, absent[~unlabelled], "images have no rows")


def _images(shard: int, absent: pd.DataFrame, what: str) -> Problem:
    return Problem(shard, what, len(absent), str(absent["image_id"].iloc[0]) if len(absent) else "")


def _method(frame: pd.DataFrame, expected: Expected) -> NDArray[np.int64]:
    """Return the number of each row's method; -1 for one that the run does not have."""
    return pd.Index(expected.methods).get_indexer(frame["method"]).astype(np.int64)


def _grid(rows: pd.DataFrame, expected: Expected) -> NDArray[np.int64]:
    """Return the number of each row's method and point; -1 where the run does not have one of both."""
    known = {(point.select, point.top_percent, point.fill): number for number, point in enumerate(expected.points)}
    groups = rows.groupby(POINT, sort=False, dropna=False)
    keys = [(select, None if pd.isna(top) else top, fill) for select, top, fill in rows[POINT].drop_duplicates().itertuples(index=False)]
    point = np.array([known.get(key, -1) for key in keys], np.int64)[groups.ngroup().to_numpy()] if len(rows) else np.zeros(0, np.int64)
    method = _method(rows, expected)
    return np.where((method < 0) | (point < 0), -1, method * len(expected.points) + point)


def _of_table(
    shard: int, frame: pd.DataFrame, facts: pd.DataFrame, expected: Expected, table: str, cell: NDArray[np.int64], points: int
) -> Iterator[Problem]:
    """Check what both tables have: images, targets, and each method (and point) exactly once an item. `cell` numbers method and point."""
    say = _sayer(shard, frame, table)
    inside = frame["index"].isin(facts.index).to_numpy()
    yield from say(~inside, "of images outside the shard's range")
    known = facts.reindex(frame["index"])
    yield from say(inside & (frame["image_id"].to_numpy() != known["image_id"].to_numpy()), "with another image_id than the data set's")
    yield from say(cell < 0, "of a method or protocol point that the run does not have")
    yield from say(~frame["status"].isin(STATUSES).to_numpy(), "with an unknown status")
    cells = len(expected.methods) * points
    key = frame["item"].to_numpy() * cells + cell
    yield from say((cell >= 0) & frame.assign(key=key).duplicated("key").to_numpy(), "that are there twice")
    there = frame.assign(key=key)[cell >= 0].groupby("item")["key"].nunique().reindex(frame["item"]).fillna(0).to_numpy()
    partial = frame[(there < cells) & ~frame.duplicated("item").to_numpy()]
    if len(partial):
        what = f"{table} of some methods{' or points' if table == 'rows' else ''} are missing"
        yield Problem(shard, what, len(partial), f"image {partial['image_id'].iloc[0]}", "images or classes")
    yield from _of_targets(say, frame, known, inside, expected)


def _of_targets(
    say: "Callable[..., Iterator[Problem]]", frame: pd.DataFrame, known: pd.DataFrame, inside: Mask, expected: Expected
) -> Iterator[Problem]:
    """Check labels and explained classes against the data source."""
    target, read = frame["target"].to_numpy(), (frame["status"] != "error").to_numpy()
    yield from say(read == (target == NO_TARGET), "whose status and target contradict each other")
    items = frame.drop_duplicates("item")
    if not isinstance(expected.target, str):
        yield from say(read & ~np.isin(target, list(expected.target)), "of a class that the run does not explain")
        classes = items.groupby("index")["target"].nunique().reindex(frame["index"]).to_numpy()
        yield from say(read & (classes != len(expected.target)), "of images of which not all classes are explained")
    elif expected.target == "predicted":
        yield from say(frame["index"].map(items["index"].value_counts()).to_numpy() != 1, "of images with several explained classes")
        if "predicted" in frame:
            yield from say(
                read & (frame["predicted"].fillna(NO_TARGET).to_numpy() != target), "that explain another class than the predicted one"
            )
    labels, given = known["labels"].to_list(), frame["label"].fillna(NO_TARGET).to_numpy()
    if any(each is None for each in labels):
        return
    first = np.array([each[0] if isinstance(each, tuple) and each else NO_TARGET for each in labels])
    own = np.array([isinstance(each, tuple) and one in each for each, one in zip(labels, target, strict=True)], bool)
    yield from say(inside & (given != np.where(own, target, first)), "with another label than the data set's")
    if expected.target == "label":
        yield from say(inside & read & ~own, "of a class that is no label of the image")
    if expected.only_correct and "predicted" in frame:
        guess = frame["predicted"].fillna(NO_TARGET).to_numpy()
        right = np.array([isinstance(each, tuple) and one in each for each, one in zip(labels, guess, strict=True)], bool)
        yield from say(inside & read & ~right, "of images that are not predicted correctly, which the run leaves out")


def _of_rows(shard: int, rows: pd.DataFrame, expected: Expected) -> Iterator[Problem]:
    """Check scores and masks for contradictions."""
    say = _sayer(shard, rows, "rows")
    for key, columns in (
        (["index"], ["image_id", "predicted"]),
        (["item"], ["label", "target_name", "prob_full", "logit_full"]),
        (["item", "method"], ["positive_fraction"]),
    ):
        groups = rows.groupby(key, sort=False, dropna=False)
        for column in columns:
            first = groups[column].transform("first")
            differ = ~((rows[column] == first) | (rows[column].isna() & first.isna())).to_numpy()
            yield from say(differ, f"whose {column} is not that of the other rows of the same {'image' if key == ['index'] else key[-1]}")
    failed = (rows["status"] == "error").to_numpy()
    finite = rows["status"].isin(["ok", "degenerate"]).to_numpy()
    yield from say(failed != rows["error"].notna().to_numpy(), "whose status and error contradict each other")
    yield from say(
        failed & rows[[*SCORES, "kept_fraction"]].notna().any(axis=1).to_numpy(), "with scores of an image that could not be read"
    )
    confidences = rows[["prob_full", "prob_masked"]].to_numpy(float)
    logits = rows[["logit_full", "logit_masked"]].to_numpy(float)
    yield from say(finite & ~np.isfinite(logits).all(1), "with a score that is not finite, and a status that says otherwise")
    if expected.output == "raw":
        yield from say(~np.isnan(confidences).all(1), "with a confidence, which model.output=raw has not")
    else:
        with np.errstate(invalid="ignore"):
            inside = ((confidences >= 0) & (confidences <= 1)).all(1)
        yield from say(finite & ~inside, "with a confidence outside of 0 to 1")
    if expected.output in ("sigmoid", "binary"):
        with np.errstate(over="ignore"):
            away = np.abs(1 / (1 + np.exp(-logits)) - confidences).max(axis=1, initial=0)
        yield from say(finite & ~(away < 1e-9), "whose confidence is not the sigmoid of its logit")
    yield from _of_masks(say, rows, failed, expected)


def _of_masks(say: "Callable[..., Iterator[Problem]]", rows: pd.DataFrame, failed: Mask, expected: Expected) -> Iterator[Problem]:
    share = {(point.select, point.top_percent, point.fill): expected.kept_fraction(point) for point in expected.points}
    selects, tops, fills = (rows[name].to_list() for name in POINT)
    exact = np.array(
        [share.get((select, None if pd.isna(top) else top, fill)) for select, top, fill in zip(selects, tops, fills, strict=True)], float
    )
    kept, gap, positive = (rows[name].to_numpy(float) for name in ("kept_fraction", "rank_gap", "positive_fraction"))
    with np.errstate(invalid="ignore"):
        yield from say(~failed & ~np.isnan(exact) & ~(np.abs(kept - exact) < 1e-9), "that do not keep the point's share of the pixels")
        yield from say(~failed & ~((kept >= 0) & (kept <= 1)), "with a kept_fraction outside of 0 to 1")
        yield from say(~failed & ~((positive >= 0) & (positive <= 1)), "with a positive_fraction outside of 0 to 1")
        yield from say(~failed & (gap < 0), "with a rank_gap below 0")


def _of_maps(shard: int, maps: pd.DataFrame, table: pa.Table) -> Iterator[Problem]:
    """Check measures for their ranges, and stored maps against what the table says of them."""
    say = _sayer(shard, maps, "maps")
    for name in ("zero_fraction", *AGAINST_BOXES):
        values = maps[name].to_numpy(float)
        with np.errstate(invalid="ignore"):
            yield from say((values < 0) | (values > 1), f"whose {name} lies outside of 0 to 1")
    with np.errstate(invalid="ignore"):
        yield from say(maps["minimum"].to_numpy(float) > maps["maximum"].to_numpy(float), "whose minimum lies above the maximum")
    yield from say(_maps_away(maps, table), "whose stored map has another size, minimum, maximum or share of zeros than its row says")


def _maps_away(maps: pd.DataFrame, table: pa.Table) -> Mask:
    """Return which stored maps are others than their rows say; those with values that are not finite are left to the comparison."""
    column = table["map"].combine_chunks()
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    wrong = column.is_valid().to_numpy(zero_copy_only=False) & (lengths != (maps["height"] * maps["width"]).to_numpy())
    there = np.flatnonzero(lengths)
    if not len(there):
        return wrong
    values, starts = column.flatten().to_numpy(zero_copy_only=False), (np.cumsum(lengths) - lengths)[there]
    own = np.stack(
        [
            np.minimum.reduceat(values, starts),
            np.maximum.reduceat(values, starts),
            np.add.reduceat((values == 0).astype(float), starts) / lengths[there],
        ]
    )
    theirs = maps[["minimum", "maximum", "zero_fraction"]].to_numpy(float)[there].T
    wrong[there] |= ~np.isclose(own, theirs, rtol=1e-6, atol=1e-7).all(0) & np.isfinite(own).all(0)
    return wrong


def _between(shard: int, rows: pd.DataFrame, maps: pd.DataFrame) -> Iterator[Problem]:
    """Check that both tables speak of the same maps."""
    keys = ["index", "target", "method"]
    columns = ["image_id", "label", "target_name", "status"]
    of_rows = rows.groupby(keys, sort=False)[columns].first()
    constant = rows[rows["status"].isin(["ok", "degenerate"])].groupby(keys, sort=False)["status"].agg(["first", "nunique"])
    of_maps = maps.drop_duplicates(keys).set_index(keys)
    together = of_rows.index.intersection(of_maps.index)
    for here, there, name in ((of_rows.index, of_maps.index, "the table of maps"), (of_maps.index, of_rows.index, "the rows")):
        lost = here.difference(there)
        if len(lost):
            yield Problem(shard, f"maps are not in {name}", len(lost), f"image {lost[0][0]}, {lost[0][2]}")
    ours, theirs = of_rows.loc[together], of_maps.loc[together]
    for column in columns[:3]:
        differ = ~((ours[column] == theirs[column]) | (ours[column].isna() & theirs[column].isna()))
        if differ.any():
            yield Problem(
                shard, f"maps have another {column} than their rows", int(differ.sum()), f"image {differ.idxmax()[0]}, {differ.idxmax()[2]}"
            )
    known = constant.reindex(together)
    finite = known["first"].notna().to_numpy()
    wrong = np.where(finite, (known["first"] != theirs["status"]).to_numpy() | (known["nunique"] != 1).to_numpy(), False)
    wrong |= ~finite & ((ours["status"] == "error").to_numpy() != (theirs["status"] == "error").to_numpy())
    if wrong.any():
        first = together[int(np.flatnonzero(wrong)[0])]
        yield Problem(shard, "maps have a status that contradicts their rows'", int(wrong.sum()), f"image {first[0]}, {first[2]}")


def _sayer(shard: int, frame: pd.DataFrame, table: str) -> "Callable[..., Iterator[Problem]]":
    def say(mask: Mask, what: str) -> Iterator[Problem]:
        if mask.any():
            first: Mapping[str, Any] = frame.iloc[int(np.flatnonzero(mask)[0])]
            where = f"image {first['image_id']}, {first['method']}"
            if "select" in frame:
                where += (
                    f", {first['select']}{'' if pd.isna(first['top_percent']) else ' ' + format(first['top_percent'], 'g')} {first['fill']}"
                )
            yield Problem(shard, f"{table} {what}", int(mask.sum()), where)

    return say
