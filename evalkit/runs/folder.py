"""The run folder: two parquet files per shard, each moved into place when complete. The rows file marks its shard as done.

<out>/run.yaml           the resolved configuration
<out>/provenance.json    identity, versions, weights' hash, data fingerprint, hardware
<out>/rows/*.parquet     one row per image x method x protocol point
<out>/maps/*.parquet     one row per image x method, with the low-resolution map itself where stored
<out>/partial/           the first images of unfinished shards, see `evalkit.runs.parts`
<out>/claims/            which worker computes which shard; hints, see `evalkit.runs.claims`
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from evalkit.errors import UserError
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.evaluation.store import Part
from evalkit.files import Place, listed, place, publish, writable_folder
from evalkit.runs.identity import Identity
from evalkit.runs.parts import Parts
from evalkit.runs.shards import described, parquet_bytes, read_columns, read_parquet, stored_checksum
from evalkit.threads import mapped

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Damaged(UserError):
    """Error of a damaged provenance.json."""


@dataclass(frozen=True)
class ImageCounts:
    """Counts of a run's images by outcome."""

    missing: list[int]
    """Shards that still have to be computed."""
    images: Counter[str]
    """Number of images by `status`; an image counts for each status among its rows."""
    nonfinite: Counter[str]
    """Number of images whose map or score is not finite, by method."""
    total: int
    """Number of images in the finished shards, without those that `images=correct` or a missing label leaves out."""


class Shard(NamedTuple):
    """The contents of a finished shard."""

    number: int
    rows: pa.Table
    """Table with the columns `ROWS`."""
    maps: pa.Table
    """Table with the columns `MAPS`."""
    description: dict[str, Any]
    """What the rows' file says of itself: seconds, code and library versions, device."""


@dataclass(frozen=True)
class Stored:
    """The contents of a run folder."""

    missing: list[int]
    """Shards that still have to be computed, including damaged ones."""
    rows: pd.DataFrame
    """Table with the columns `ROWS`, ordered by `index`."""
    maps: pd.DataFrame
    """Table with the columns `MAPS` except the maps themselves, ordered by `index`."""
    shards: list[dict[str, Any]]
    """Description of each finished shard: seconds, code and library versions, device."""


class RunFolder:
    """The folder of one run, on a disk or any file system of fsspec."""

    def __init__(self, path: str | Place) -> None:
        self.path = place(path)
        self._parts = Parts(self.path / "partial")
        self._identity_hash: str | None = None
        self._reported: set[Place] = set()
        """Damaged and misplaced files that were already logged."""

    @property
    def exists(self) -> bool:
        """Whether a run was started in this folder."""
        return self._record.is_file()

    def create_or_resume(self, identity: Identity, provenance: dict[str, Any], run_yaml: str, images: int, shard_size: int) -> None:
        """Make the folder, or check that it belongs to the same run.

        A folder of another configuration without any finished image is taken over; a damaged record is rewritten, since the
        shards hold the hash of their run's identity. Raises UserError: the folder belongs to another run (the difference is
        in the message), or cannot be written.
        """
        files = [*listed(self.path / "rows", "shard-*.parquet"), *self._parts.files()]
        shards = [description for file in files if (description := described(file)) is not None]
        before = self._identity_before()
        if shards:  # an earlier version recorded less of the same run, and its shards hold that identity's hash
            hashes = {description.get("identity") for description in shards}
            of_shards = next((version for version in identity.versions if hashes == {version.hash}), identity)
            identity = of_shards if before is None else identity.as_recorded(before)
        if before is None and any(description.get("identity") != identity.hash for description in shards):
            raise UserError(f"{self.path} holds shards of another run; choose another folder with out=, or remove that one")
        if before is not None and shards and before.hash != identity.hash:
            difference = "; ".join(identity.difference(before))
            raise UserError(f"{self.path} holds another run ({difference}); {identity.way_out(before, str(self.path))}")
        if before is None or before.hash != identity.hash:
            size = next((int(description["shard_size"]) for description in shards), shard_size)
            record = {"identity_hash": identity.hash, "identity": identity.facts, "images": images, "shard_size": size, **provenance}
            writable_folder(self.path, "out=")
            publish(self.path / "run.yaml", run_yaml.encode())
            self._publish(record)
        self._identity_hash = identity.hash

    def _identity_before(self) -> Identity | None:
        """Read the identity of the folder's run; None where the record is absent or damaged."""
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
        """The record of the run: identity, versions, hardware. Raises UserError where this is not a run folder."""
        if not self.exists:
            raise UserError(f"{self.path} is not a run folder: it has no provenance.json (evalkit run ... out={self.path} makes one)")
        try:
            record: dict[str, Any] = json.loads(self._record.read_bytes())
        except ValueError as reason:
            raise Damaged(f"{self._record} is damaged ({reason}); the command that made it rewrites it") from reason
        if not isinstance(record, dict) or not {"identity", "images", "shard_size", "checksum"} <= record.keys():
            raise UserError(f"{self._record} was not written by evalkit, or by an older version; name a run folder")
        end = record.get("end", {"shards": 1})
        numbers = (record["images"], record["shard_size"], end.get("shards") if isinstance(end, dict) else None)
        if not all(isinstance(number, int) and number > 0 for number in numbers) or not isinstance(record["identity"], dict):
            raise UserError(f"{self._record} is no record of a run: images and shard_size must be whole numbers above 0")
        if record.pop("checksum") != _checksum(record):
            raise Damaged(f"{self._record} is damaged (its checksum does not match); the command that made it rewrites it")
        return record

    @property
    def _hash(self) -> str:
        return Identity(self.provenance["identity"]).hash

    def missing(self, *, maps: bool = False) -> list[int]:
        """Return the shards that still have to be computed, including damaged ones; with `maps`, also those without stored maps."""
        return [shard for shard in self.shards if not self.is_done(shard, maps=maps)]

    @property
    def shard_size(self) -> int:
        """Images per shard; fixed when the folder was made."""
        return int(self.provenance["shard_size"])

    @property
    def shards(self) -> range:
        """Numbers of all shards, finished or not; of a run that `until` has ended, those that count."""
        record = self.provenance
        end = record.get("end") or {}
        return range(end["shards"] if end.get("settled") else shard_count(record["images"], record["shard_size"]))

    @property
    def images(self) -> int:
        """Number of images in `shards`."""
        record = self.provenance
        return min(int(record["images"]), len(self.shards) * int(record["shard_size"]))

    def rows_of(self, shard: int) -> pd.DataFrame | None:
        """Return the rows of one shard; None where it is not finished."""
        contents = self._shard(shard)
        return None if contents is None else contents[0].to_pandas()

    def record_end(self, end: Mapping[str, Any]) -> None:
        """Record why a run with `until` ended; where it is settled, `shards` are only the first so many from then on.

        Those that other workers finished behind them are removed.
        """
        record = self.provenance
        if record.get("end") != end:
            self._publish({**record, "end": dict(end)})
        self.remove_behind()

    def remove_behind(self) -> None:
        """Remove the files of shards behind the end of a run with `until`."""
        record = self.provenance
        behind = range(len(self.shards), shard_count(record["images"], record["shard_size"]))
        for file in (file for shard in behind for file in (self._rows_file(shard), self._maps_file(shard))):
            file.unlink(missing_ok=True)

    def _publish(self, record: Mapping[str, Any]) -> None:
        publish(self._record, json.dumps({**record, "checksum": _checksum(record)}, indent=2).encode())

    def is_done(self, shard: int, *, maps: bool = False) -> bool:
        """Return whether a shard is finished, unchanged and of this run; with `maps`, also whether its maps are stored."""
        contents = self._shard(shard)
        return contents is not None and (not maps or bool(contents[2]["maps_stored"]))

    def finished(self) -> "Iterator[Shard]":
        """Yield the contents of every finished shard in turn, checked, with one in memory at a time."""
        for number in self.shards:
            contents = self._shard(number)
            if contents is not None:
                yield Shard(number, *contents)

    def digest(self) -> str:
        """Return a SHA-256 over the checksums in the files of all shards, rows and maps: another one as soon as any value changes."""
        digest = hashlib.sha256()
        for shard in self.shards:
            for file in (self._rows_file(shard), self._maps_file(shard)):
                digest.update(f"{file.parent.name} {shard} {stored_checksum(file)}\n".encode())
        return digest.hexdigest()

    def each(self, function: "Callable[[Shard], Result]") -> "Iterator[Result]":
        """Yield what a function returns for every finished shard, on all cores; columns of text are dictionary arrays."""
        own = self._identity_hash or self._hash

        def applied(number: int) -> "Result | None":
            contents = self._shard(number, coded=True, own=own)
            return None if contents is None else function(Shard(number, *contents))

        return (result for result in mapped(applied, self.shards) if result is not None)

    def columns(self, shard: int, names: Sequence[str], *, maps: bool = False) -> pa.Table:
        """Read columns of the rows of a finished shard, or of its maps, without checking them again: text as dictionary arrays."""
        return read_columns(self._maps_file(shard), MAPS, names) if maps else read_columns(self._rows_file(shard), ROWS, names)

    def _shard(self, shard: int, *, coded: bool = False, own: str | None = None) -> tuple[pa.Table, pa.Table, dict[str, Any]] | None:
        """Read the rows, maps and description of a finished shard; None where it is not finished or is damaged.

        `coded` as in `read_parquet`; `own` is the hash of the run's identity, where it is known.
        """
        if not self._rows_file(shard).is_file():
            return None
        rows, maps = read_parquet(self._rows_file(shard), ROWS, coded=coded), read_parquet(self._maps_file(shard), MAPS, coded=coded)
        for file, table in ((self._rows_file(shard), rows), (self._maps_file(shard), maps)):
            if table is None:
                self._warn_once(file, "is damaged or gone, so its shard counts as missing")
        if rows is None or maps is None:
            return None
        own = own or self._identity_hash or self._hash
        for file, (_, description) in ((self._rows_file(shard), rows), (self._maps_file(shard), maps)):
            if description.get("identity", own) != own:
                self._warn_once(file, "is of another run, so its shard counts as missing")
                return None
        if not all(description.get("shard", shard) == shard for _, description in (rows, maps)):  # older files lack the number
            self._warn_once(self._rows_file(shard), "holds images of another shard, so its own counts as missing")
            return None
        return rows[0], maps[0], rows[1]

    def stored_maps(self, shard: int) -> tuple[pa.Table, dict[str, Any]] | None:
        """Read the table `MAPS` of a finished shard, maps included, and its description; None where the maps were not stored."""
        contents = self._shard(shard)
        return None if contents is None or not contents[2]["maps_stored"] else contents[1:]

    def _warn_once(self, file: Place, problem: str) -> None:
        """Log a warning once per file."""
        if file not in self._reported:
            self._reported.add(file)
            log.warning("%s %s", file, problem)

    def _rows_file(self, shard: int) -> Place:
        return self.path / "rows" / f"shard-{shard:05d}.parquet"

    def _maps_file(self, shard: int) -> Place:
        return self.path / "maps" / f"shard-{shard:05d}.parquet"

    def write_shard(self, shard: int, rows: pa.Table, maps: pa.Table, metadata: Mapping[str, Any]) -> None:
        """Publish one shard: first its maps, then its rows, which mark it as done. Each file appears complete or not at all.

        A shard behind the end of a run with `until` is dropped, also where another worker records the end meanwhile.
        """
        owner = self._owner(shard)
        if shard not in self.shards:
            return
        publish(self._maps_file(shard), parquet_bytes(maps, {"identity": owner["identity"], "shard": shard}))
        publish(self._rows_file(shard), parquet_bytes(rows, {**metadata, **owner}))
        if shard not in self.shards:
            self.remove_behind()

    def write_part(self, shard: int, part: Part) -> None:
        """Publish some images of an unfinished shard, so that they need not be computed again."""
        self._parts.write(shard, part, self._owner(shard))

    def _owner(self, shard: int) -> dict[str, Any]:
        """Return what a file says of its run and shard. Raises UserError where the folder belongs to another run by now."""
        record = self.provenance
        identity = Identity(record["identity"]).hash
        if self._identity_hash not in (None, identity):
            raise UserError(f"another run has taken over {self.path} meanwhile; choose another folder with out=")
        return {"identity": identity, "shard": shard, "shard_size": record["shard_size"]}

    def parts(self, shard: int, *, maps: bool = False) -> list[Part]:
        """Return what is kept of an unfinished shard, in parts that follow each other; with `maps`, where its maps are stored."""
        return self._parts.read(shard, self._owner(shard), self._images(shard), maps=maps)

    def discard_parts(self, shard: int) -> None:
        """Remove the parts of a shard that is finished."""
        self._parts.discard(shard)

    def images_left(self, *, maps: bool = False) -> dict[int, int]:
        """Return how many images of each missing shard still have to be computed; `maps` as in `missing`."""
        begun = self._parts.shards()
        kept = {shard: self.parts(shard, maps=maps) if shard in begun else [] for shard in self.missing(maps=maps)}
        return {shard: self._images(shard) - (parts[-1].stop if parts else 0) for shard, parts in kept.items()}

    def discard_needless_parts(self, missing: Container[int]) -> None:
        """Remove the parts of shards that are not missing, left by a worker that was killed just after it had finished one."""
        for shard in self._parts.shards():
            if shard not in missing:
                self.discard_parts(shard)

    def _images(self, shard: int) -> int:
        record = self.provenance
        return min(int(record["shard_size"]), int(record["images"]) - shard * int(record["shard_size"]))

    def load(self) -> Stored:
        """Load everything except the maps themselves from the shards that are done."""
        missing = set(self.shards)
        rows, maps, shards = [ROWS.empty_table()], [MAPS.empty_table().drop_columns("map")], []
        for shard in self.finished():
            missing.remove(shard.number)
            rows.append(shard.rows)
            maps.append(shard.maps.drop_columns("map"))
            shards.append(shard.description)
        return Stored(sorted(missing), _by_index(rows), _by_index(maps), shards)

    def image_counts(self) -> ImageCounts:
        """Count the images by outcome, with one shard in memory at a time."""
        missing = set(self.shards)
        images: Counter[str] = Counter()
        by_method: Counter[str] = Counter()
        total = 0
        for shard in self.finished():
            missing.remove(shard.number)
            rows = shard.rows
            total += len(rows["index"].unique())
            images.update(rows.group_by(["index", "status"]).aggregate([])["status"].to_pylist())
            nonfinite = rows.filter(pc.field("status") == "nonfinite")
            by_method.update(nonfinite.group_by(["index", "method"]).aggregate([])["method"].to_pylist())
        return ImageCounts(sorted(missing), images, by_method, total)

    def rows(self) -> pd.DataFrame:
        """Return the rows of the shards that are done."""
        return self.load().rows


def _by_index(tables: list[pa.Table]) -> pd.DataFrame:
    """Join the tables of all shards, ordered by index, which the shards of a run with `until` are not."""
    return pa.concat_tables(tables).to_pandas().sort_values("index", kind="stable", ignore_index=True)


def shard_count(images: int, shard_size: int) -> int:
    """Return how many contiguous ranges of `shard_size` cover `images`."""
    return -(-images // shard_size)


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
