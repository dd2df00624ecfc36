"""The run folder: one parquet file a shard, moved into place when complete. The file is the done-marker.

<out>/run.yaml           the resolved configuration
<out>/provenance.json    identity, versions, weights' hash, data fingerprint, hardware
<out>/rows/*.parquet     one row per image x method x protocol point
<out>/maps/*.parquet     one row per image x method, with the low-resolution map itself where stored
<out>/claims/            who is at work on what; hints, see `evalkit.runs.claims`
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from evalkit.errors import UserError
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.files import Place, listed, place, publish, writable_folder
from evalkit.runs.identity import Identity
from evalkit.runs.shards import described, parquet_bytes, read_parquet

log = logging.getLogger(__name__)


class Damaged(UserError):
    """A record that cannot be trusted."""


@dataclass(frozen=True)
class ImageCounts:
    """What became of a run's images."""

    missing: list[int]
    """Shards that still have to be computed."""
    images: Counter[str]
    """Images by `status` of any of their rows."""
    nonfinite: Counter[str]
    """Images by method whose map or score is not finite."""


@dataclass(frozen=True)
class Stored:
    """All that a run folder holds."""

    missing: list[int]
    """Shards that still have to be computed, damaged ones among them."""
    rows: pd.DataFrame
    """`ROWS`, by index."""
    maps: pd.DataFrame
    """`MAPS` without the maps themselves, by index."""
    shards: list[dict[str, Any]]
    """What each finished shard says of itself: seconds, code and library versions, device."""


class RunFolder:
    """One run, on a disk or wherever fsspec reaches."""

    def __init__(self, path: str | Place) -> None:
        self.path = place(path)
        self._identity_hash: str | None = None
        self._named: set[Place] = set()
        """Damaged and misplaced files that somebody was told of."""

    @property
    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return self._record.is_file()

    def create_or_resume(self, identity: Identity, provenance: dict[str, Any], run_yaml: str, images: int, shard_size: int) -> None:
        """Make the folder, or check that it belongs to the same run.

        A folder that another configuration left without a single finished shard is taken over; a damaged record is
        written anew, since the shards say whose they are. Raises UserError: the folder belongs to another run (the
        difference is in the message), or cannot be written.
        """
        shards = [said for file in listed(self.path / "rows", "shard-*.parquet") if (said := described(file)) is not None]
        before = self._identity_before()
        if before is None and any(said.get("identity") != identity.hash for said in shards):
            raise UserError(f"{self.path} holds shards of another run; choose another folder with out=, or remove that one")
        if before is not None and shards and before.hash != identity.hash:
            difference = "; ".join(identity.difference(before))
            raise UserError(f"{self.path} holds another run ({difference}); choose another folder with out=, or remove that one")
        if before is None or before.hash != identity.hash:
            size = next((int(said["shard_size"]) for said in shards), shard_size)
            record = {"identity_hash": identity.hash, "identity": identity.facts, "images": images, "shard_size": size, **provenance}
            writable_folder(self.path, "out=")
            publish(self.path / "run.yaml", run_yaml.encode())
            publish(self._record, json.dumps({**record, "checksum": _checksum(record)}, indent=2).encode())
        self._identity_hash = identity.hash

    def _identity_before(self) -> Identity | None:
        """Whose folder it is; None where there is no record, or a damaged one."""
        try:
            return Identity(self.provenance["identity"]) if self.exists else None
        except Damaged as reason:
            log.warning("%s", reason)
            return None

    @property
    def _record(self) -> Place:
        return self.path / "provenance.json"

    @property
    def provenance(self) -> dict[str, Any]:
        """Identity, versions, hardware. Raises UserError where this is not a run folder."""
        if not self.exists:
            raise UserError(f"{self.path} is not a run folder: it has no provenance.json (evalkit run ... out={self.path} makes one)")
        try:
            record: dict[str, Any] = json.loads(self._record.read_bytes())
        except ValueError as reason:
            raise Damaged(f"{self._record} is damaged ({reason}); the command that made it writes it anew") from reason
        if not isinstance(record, dict) or not {"identity", "images", "shard_size", "checksum"} <= record.keys():
            raise UserError(f"{self._record} was not written by evalkit, or by an older one; name a run folder")
        numbers = (record["images"], record["shard_size"])
        if not all(isinstance(number, int) and number > 0 for number in numbers) or not isinstance(record["identity"], dict):
            raise UserError(f"{self._record} is no record of a run: images and shard_size must be whole numbers above 0")
        if record.pop("checksum") != _checksum(record):
            raise Damaged(f"{self._record} is damaged (its checksum does not fit); the command that made it writes it anew")
        return record

    @property
    def _hash(self) -> str:
        return Identity(self.provenance["identity"]).hash

    def missing(self, *, maps: bool = False) -> list[int]:
        """Shards that still have to be computed, damaged ones among them; with `maps`, also those without stored maps."""
        return [shard for shard in self.shards if not self.is_done(shard, maps=maps)]

    @property
    def shard_size(self) -> int:
        """Images per shard; fixed when the folder was made."""
        return int(self.provenance["shard_size"])

    @property
    def shards(self) -> range:
        """Numbers of all shards, finished or not."""
        record = self.provenance
        return range(shard_count(record["images"], record["shard_size"]))

    def is_done(self, shard: int, *, maps: bool = False) -> bool:
        """Whether a shard is finished, of this run, and every bit of it as it was written."""
        found = self._shard(shard)
        return found is not None and (not maps or bool(found[2]["maps_stored"]))

    def _shard(self, shard: int) -> tuple[pa.Table, pa.Table, dict[str, Any]] | None:
        """Rows, maps and description of a finished shard."""
        if not self._rows_file(shard).is_file():
            return None
        rows, maps = read_parquet(self._rows_file(shard), ROWS), read_parquet(self._maps_file(shard), MAPS)
        for file, found in ((self._rows_file(shard), rows), (self._maps_file(shard), maps)):
            if found is None:
                self._tell(file, "is damaged or gone, so its shard counts as missing")
        if rows is None or maps is None or rows[1]["identity"] != (self._identity_hash or self._hash):
            return None
        if not all(said.get("shard", shard) == shard for _, said in (rows, maps)):  # older files do not say which they are
            self._tell(self._rows_file(shard), "holds images of another shard, so its own counts as missing")
            return None
        return rows[0], maps[0], rows[1]

    def stored_maps(self, shard: int) -> tuple[pa.Table, dict[str, Any]] | None:
        """`MAPS` of a finished shard with the maps themselves, and its description; None where they were not stored."""
        found = self._shard(shard)
        return None if found is None or not found[2]["maps_stored"] else (found[1], found[2])

    def _tell(self, file: Place, what: str) -> None:
        """Once a file, however often its shard is looked at."""
        if file not in self._named:
            self._named.add(file)
            log.warning("%s %s", file, what)

    def _rows_file(self, shard: int) -> Place:
        return self.path / "rows" / f"shard-{shard:05d}.parquet"

    def _maps_file(self, shard: int) -> Place:
        return self.path / "maps" / f"shard-{shard:05d}.parquet"

    def write_shard(self, shard: int, rows: pa.Table, maps: pa.Table, metadata: Mapping[str, Any]) -> None:
        """Publish one shard: its maps first, its rows, which mark it as done, last; each whole or not at all."""
        record = self.provenance
        identity = Identity(record["identity"]).hash
        if self._identity_hash not in (None, identity):
            raise UserError(f"another run has taken {self.path} over meanwhile; choose another folder with out=")
        whose = {"identity": identity, "shard": shard}
        publish(self._maps_file(shard), parquet_bytes(maps, whose))
        publish(self._rows_file(shard), parquet_bytes(rows, {**metadata, **whose, "shard_size": record["shard_size"]}))

    def load(self) -> Stored:
        """Everything of the shards that are done."""
        missing: list[int] = []
        rows, maps, shards = [ROWS.empty_table()], [MAPS.empty_table().drop_columns("map")], []
        for shard in self.shards:
            found = self._shard(shard)
            if found is None:
                missing.append(shard)
                continue
            rows.append(found[0])
            maps.append(found[1].drop_columns("map"))
            shards.append(found[2])
        return Stored(missing, pa.concat_tables(rows).to_pandas(), pa.concat_tables(maps).to_pandas(), shards)

    def image_counts(self) -> ImageCounts:
        """What became of the images; holds one shard at a time."""
        counts = ImageCounts([], Counter(), Counter())
        for shard in self.shards:
            found = self._shard(shard)
            if found is None:
                counts.missing.append(shard)
                continue
            counts.images.update(found[0].group_by(["index", "status"]).aggregate([])["status"].to_pylist())
            bad = found[0].filter(pc.field("status") == "nonfinite")
            counts.nonfinite.update(bad.group_by(["index", "method"]).aggregate([])["method"].to_pylist())
        return counts

    def rows(self) -> pd.DataFrame:
        """`load().rows`."""
        return self.load().rows


def shard_count(images: int, shard_size: int) -> int:
    """How many contiguous ranges of `shard_size` cover `images`."""
    return -(-images // shard_size)


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
