"""One shard in progress: the parts that are kept already, and the images that were finished since."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from evalkit.evaluation.rows import ShardRows
from evalkit.evaluation.stopwatch import Stopwatch
from evalkit.evaluation.store import Part, ShardStore

KEEP_EVERY = 10.0
"""Seconds of work on a shard after which what is finished of it is kept, at the end of a batch."""


class OpenShard:
    """A shard in progress. An interrupt at any moment leaves it consistent: each change of its state is one assignment or append."""

    def __init__(
        self, store: ShardStore, shard: int, images: int, kept: Sequence[Part], metadata: Mapping[str, Any], stopwatch: Stopwatch
    ) -> None:
        self.shard = shard
        self._store, self._images, self._metadata, self._stopwatch = store, images, metadata, stopwatch
        new: list[tuple[int, ShardRows]] = []
        self._state: tuple[tuple[Part, ...], list[tuple[int, ShardRows]]] = (*kept,), new
        self._since = time.perf_counter()

    def add(self, images: int, rows: ShardRows) -> None:
        """Add the rows of the next images."""
        self._state[1].append((images, rows))

    @property
    def complete(self) -> bool:
        """Whether all images of the shard are finished."""
        kept, new = self._state
        return _end(kept) + sum(images for images, _ in new) == self._images

    @property
    def due(self) -> bool:
        """Whether enough work was done since the last part for another one."""
        return time.perf_counter() - self._since >= KEEP_EVERY

    def keep(self) -> None:
        """Publish the images that were finished since the last part as another part."""
        kept, new = self._state
        if new:
            with self._stopwatch("writing"):
                part = self._part(_end(kept), new)
                self._store.write_part(self.shard, part)
            self._state = (*kept, part), []
            self._since = time.perf_counter()

    def close(self) -> None:
        """Publish the whole shard, ordered by index."""
        kept, new = self._state
        with self._stopwatch("writing"):
            parts = [*kept, self._part(_end(kept), new)]
            rows, maps = _ordered([part.rows for part in parts]), _ordered([part.maps for part in parts])
            self._store.write_shard(self.shard, rows, maps, summed([part.about for part in parts]))

    def _part(self, start: int, new: Sequence[tuple[int, ShardRows]]) -> Part:
        """Return the tables of the images `new`, which begin at `start`, with the time that they took."""
        began, stages = self._stopwatch.since, seconds_by_stage(self._stopwatch.take())
        collected = ShardRows()
        for _, rows in new:
            collected.extend(rows)
        tables = collected.tables()
        about = {**self._metadata, "left_out": collected.left_out, "seconds": self._stopwatch.since - began, **stages}
        return Part(start, start + sum(images for images, _ in new), *tables, about)


def summed(abouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metadata of a shard from those of its parts: sums of seconds and images, and all values of anything else."""
    total: dict[str, Any] = {}
    for name, first in abouts[0].items():
        values = [about[name] for about in abouts]
        if isinstance(first, Mapping):
            names = dict.fromkeys(key for value in values for key in value)
            total[name] = {key: sum(value.get(key, 0.0) for value in values) for key in names}
        elif name in ("seconds", "left_out"):
            total[name] = sum(values)
        else:  # several where it was continued with other code, on another device or in other batches
            total[name] = first if all(value == first for value in values) else ", ".join(dict.fromkeys(map(str, values)))
    return total


def seconds_by_stage(seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Sort the stopwatch's seconds for a shard's file: per method, of its maps only, and per stage.

    What several methods share (gradients) counts for the first of them that uses it.
    """
    methods = {name.partition(".")[2]: spent for name, spent in seconds.items() if name.startswith("maps.")}
    others = {name: spent for name, spent in seconds.items() if "." not in name}
    return {"seconds_per_method": methods, "seconds_per_stage": {**others, "maps": sum(methods.values())}}


def _end(parts: Sequence[Part]) -> int:
    return parts[-1].stop if parts else 0


def _ordered(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all parts, ordered by index; each table is ordered already, and each image in one of them."""
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).sort_by([("index", "ascending")]).combine_chunks()
