"""Parts of unfinished shards, so that a run that is stopped loses less than a minute of work.

<out>/partial/rows/shard-00002-00064-00096.parquet      rows of the images 64 to 95 of shard 2, which mark the part as written
<out>/partial/maps/shard-00002-00064-00096.parquet      their maps

Several workers may write parts of one shard: a file holds what its name says, whoever wrote it last.
"""

import logging
from collections.abc import Mapping
from typing import Any

from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.evaluation.store import Part
from evalkit.files import Place, listed, publish
from evalkit.runs.shards import parquet_bytes, read_parquet

log = logging.getLogger(__name__)


class Parts:
    """The parts of the unfinished shards of one run."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    def files(self, shard: int | None = None) -> list[Place]:
        """Return the files with rows, of one shard or of all, sorted by shard and first image."""
        return listed(self.folder / "rows", "shard-*.parquet" if shard is None else f"shard-{shard:05d}-*.parquet")

    def shards(self) -> set[int]:
        """Return the shards of which there are parts."""
        return {int(file.name.split("-")[1]) for file in self.files()}

    def write(self, shard: int, part: Part, owner: Mapping[str, Any]) -> None:
        """Publish a part: first its maps, then its rows. `owner` identifies the run and the shard."""
        about = {**part.about, **owner, "start": part.start, "stop": part.stop}
        name = f"shard-{shard:05d}-{part.start:05d}-{part.stop:05d}.parquet"
        publish(self.folder / "maps" / name, parquet_bytes(part.maps, about))
        publish(self.folder / "rows" / name, parquet_bytes(part.rows, about))

    def read(self, shard: int, owner: Mapping[str, Any], images: int, *, maps: bool) -> list[Part]:
        """Return the owner's undamaged parts that follow each other from the first image; they are fewer than all `images`.

        `maps` says whether they hold their maps.
        """
        longest: dict[int, Part] = {}
        for file in self.files(shard):
            part = self._part(file, owner)
            if (
                part is not None
                and part.about["maps_stored"] == maps
                and part.start < part.stop < images
                and (part.start not in longest or part.stop > longest[part.start].stop)
            ):
                longest[part.start] = part
        chain: list[Part] = []
        while (part := longest.get(chain[-1].stop if chain else 0)) is not None:
            chain.append(part)
        return chain

    def _part(self, file: Place, owner: Mapping[str, Any]) -> Part | None:
        rows, maps = read_parquet(file, ROWS), read_parquet(self.folder / "maps" / file.name, MAPS)
        if rows is None or maps is None:
            log.warning("%s or its maps are damaged or gone, so their images are computed again", file)
            return None
        about = rows[1]
        ours = {**owner, "start": about.get("start"), "stop": about.get("stop")}
        if any(description.get(key) != value for description in (about, maps[1]) for key, value in ours.items()):
            return None
        return Part(about["start"], about["stop"], rows[0], maps[0], {key: value for key, value in about.items() if key not in ours})

    def discard(self, shard: int) -> None:
        """Remove the parts of one shard: first their rows, so that no part seems damaged."""
        for file in self.files(shard):
            file.unlink(missing_ok=True)
            (self.folder / "maps" / file.name).unlink(missing_ok=True)
