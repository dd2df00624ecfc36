"""How far stored maps lie from those computed here."""

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from evalkit.analysis.shard_facts import NO_TARGET
from evalkit.verify.structure import stored_maps

MAP_KEY = ["index", "target", "method"]


def map_distances(maps: pd.DataFrame, recorded: pa.Table, computed: pa.Table) -> NDArray[np.float64]:
    """Return the greatest deviation of each recorded map, infinite for one of another size, nan where none was recorded."""
    theirs, ours = (_maps_by_key(table) for table in (recorded, computed))
    found = np.full(len(maps), np.nan)
    for at, key in enumerate(zip(*(maps[name] for name in MAP_KEY), strict=True)):
        one, other = theirs.get(key), ours.get(key)
        if one is not None and other is not None:
            found[at] = _apart(one, other)
    return found


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    if len(one) != len(other):
        return float("inf")
    with np.errstate(invalid="ignore"):
        distance = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0, np.abs(one.astype(float) - other))
    return float(np.where(np.isnan(distance), np.inf, distance).max(initial=0))


def _maps_by_key(table: pa.Table) -> dict[tuple[int, int, str], NDArray[np.float32]]:
    columns = (table["index"].to_pylist(), table["target"].fill_null(NO_TARGET).to_pylist(), table["method"].to_pylist())
    keys = zip(*columns, strict=True)
    return {key: map_ for key, map_ in zip(keys, stored_maps(table), strict=True) if map_ is not None}
