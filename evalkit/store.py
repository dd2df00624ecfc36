"""The run folder: one parquet file a shard, moved into place when complete. The file is the done-marker.

<out>/run.yaml           the resolved configuration
<out>/provenance.json    identity, versions, weights' hash, data fingerprint, hardware
<out>/rows/*.parquet     one row per image x method x protocol point
<out>/maps/*.parquet     one row per image x method, with the low-resolution map itself where stored
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evalkit.errors import UserError, first_line
from evalkit.shards import shard_count

ROWS = pa.schema(
    [
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("method", pa.string()),
        ("select", pa.string()),
        ("top_percent", pa.float64()),
        ("fill", pa.string()),
        ("kept_fraction", pa.float64()),
        ("positive_fraction", pa.float64()),
        ("rank_gap", pa.float64()),
        ("prob_full", pa.float64()),
        ("prob_masked", pa.float64()),
        ("logit_full", pa.float64()),
        ("logit_masked", pa.float64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
"""Raw scores only; every metric is derived afterwards. Null where an image could not be read. `status` is ok,
degenerate (constant map, included in every metric), nonfinite or error (both excluded, for all methods alike)."""

MEASURES = ("complexity", "coherency", "region_fraction", "others_fraction", "pointing", "energy_inside", "energy_others", "best_iou")
"""What is measured of a map itself: see `evalkit.measures`."""

MAPS = pa.schema(
    [
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("method", pa.string()),
        ("status", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("minimum", pa.float32()),
        ("maximum", pa.float32()),
        ("zero_fraction", pa.float32()),
        *((name, pa.float64()) for name in MEASURES),
        ("map", pa.list_(pa.float32())),
    ]
)
"""One row per image x target x method. Measures are null where they are not defined, not asked for, or no boxes are known.
`map` is the raw map at the activations' resolution, row by row; null unless `maps=store`. float16 would change masks."""


@dataclass(frozen=True)
class Identity:
    """What decides a run's numbers, and nothing else: no batch size, device, worker count or path of the output."""

    facts: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """The same on every machine."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    def difference(self, other: "Identity") -> list[str]:
        """`key: theirs -> ours` for every fact that differs."""
        ours, theirs = _flatten(self.facts), _flatten(other.facts)
        keys = sorted(ours.keys() | theirs.keys())
        return [f"{key}: {theirs.get(key)} -> {ours.get(key)}" for key in keys if ours.get(key) != theirs.get(key)]


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity_hash: str | None = None

    @property
    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return (self.path / "provenance.json").is_file()

    def create_or_resume(self, identity: Identity, provenance: dict[str, Any], run_yaml: str, images: int, shard_size: int) -> None:
        """Make the folder, or check that it belongs to the same run.

        A folder that another configuration left without a single finished shard is taken over. Raises UserError: it
        belongs to another run (the difference is in the message), or cannot be written.
        """
        self._identity_hash = identity.hash
        if not self.exists or (self._hash != identity.hash and not any((self.path / "rows").glob("*"))):
            record = {"identity_hash": identity.hash, "identity": identity.facts, "images": images, "shard_size": shard_size, **provenance}
            writable_folder(self.path, "out=")
            _publish(self.path / "run.yaml", run_yaml.encode())
            _publish(self.path / "provenance.json", json.dumps(record, indent=2).encode())
        if self._hash != identity.hash:
            difference = "; ".join(identity.difference(Identity(self.provenance["identity"])))
            raise UserError(f"{self.path} holds another run ({difference}); choose another folder with out=, or remove that one")

    @property
    def provenance(self) -> dict[str, Any]:
        """Identity, versions, hardware. Raises UserError where this is not a run folder."""
        try:
            record: dict[str, Any] = json.loads((self.path / "provenance.json").read_text())
        except ValueError as reason:
            raise UserError(f"{self.path}/provenance.json is damaged ({reason}); remove the folder and run again") from reason
        except (FileNotFoundError, NotADirectoryError) as reason:
            raise UserError(
                f"{self.path} is not a run folder: it has no provenance.json (evalkit run ... out={self.path} makes one)"
            ) from reason
        if not isinstance(record, dict) or not {"identity", "images", "shard_size"} <= record.keys():
            raise UserError(f"{self.path}/provenance.json was not written by evalkit; name a run folder")
        return record

    @property
    def _hash(self) -> str:
        return Identity(self.provenance["identity"]).hash

    def rows_file(self, shard: int) -> Path:
        """The done-marker of a shard."""
        return self.path / "rows" / f"shard-{shard:05d}.parquet"

    def missing(self, *, maps: bool = False) -> list[int]:
        """Shards that still have to be computed; with `maps`, also those that were computed without storing the maps."""
        record = self.provenance
        shards = range(shard_count(record["images"], record["shard_size"]))
        return [shard for shard in shards if not self._is_whole(shard, maps)]

    def _is_whole(self, shard: int, maps: bool) -> bool:
        said = _said(self.rows_file(shard))
        return said is not None and (not maps or said["maps_stored"]) and self._maps_file(shard).is_file()

    def _maps_file(self, shard: int) -> Path:
        return self.path / "maps" / f"shard-{shard:05d}.parquet"

    def _done(self) -> dict[Path, dict[str, Any]]:
        """Files of the finished shards in order, each with what it says of itself."""
        return {file: said for file in sorted((self.path / "rows").glob("shard-*.parquet")) if (said := _said(file)) is not None}

    def write_shard(self, shard: int, rows: pa.Table, maps: pa.Table, metadata: Mapping[str, Any]) -> None:
        """Publish one shard: its maps first, its rows last, each whole or not at all."""
        if self._identity_hash not in (None, self._hash):
            raise UserError(f"another run has taken {self.path} over meanwhile; choose another folder with out=")
        described = rows.replace_schema_metadata({"evalkit": json.dumps(metadata)})
        for file, table in ((self._maps_file(shard), maps), (self.rows_file(shard), described)):
            writable_folder(file.parent, "out=")
            write_parquet(file, table)

    def rows(self) -> pd.DataFrame:
        """All rows of the shards that are done, by index."""
        return pa.concat_tables([ROWS.empty_table(), *(_read(file, ROWS) for file in self._done())]).to_pandas()

    def maps(self) -> pd.DataFrame:
        """What was measured of each map of the shards that are done, without the maps themselves."""
        names = [name for name in MAPS.names if name != "map"]
        files = [self._maps_file(int(file.stem.rpartition("-")[2])) for file in self._done()]
        return pa.concat_tables([MAPS.empty_table().select(names), *(_read(file, MAPS, names) for file in files)]).to_pandas()

    def shard_metadata(self) -> list[dict[str, Any]]:
        """What each finished shard says of itself: seconds per method, code and library versions, device."""
        return list(self._done().values())


def _said(rows_file: Path) -> dict[str, Any] | None:
    """What a shard says of itself; None where it is not there or its footer, which parquet writes last, is damaged."""
    try:
        stored = pq.read_metadata(rows_file).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    said: dict[str, Any] | None = json.loads(stored.get(b"evalkit", "null"))
    return said


def _read(file: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(file, schema=schema, columns=columns)
    except (OSError, pa.ArrowException) as reason:
        raise UserError(f"{file} is damaged ({first_line(reason)}); delete it and run the same command again") from reason


def writable_folder(path: Path, option: str) -> Path:
    """The folder, made where it is missing. Raises UserError, naming the option that chose it, where it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as reason:
        raise UserError(f"cannot write to {path} ({reason.strerror}); choose another folder with {option}") from reason
    return path


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write under a temporary name, flush to the disk, move into place."""
    with _temporary(path) as file:
        pq.write_table(table, file, compression="zstd")


class _temporary:  # noqa: N801 - reads as a function
    """A binary file that becomes `path` when the block ends well, and vanishes when it does not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        self.file = tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp", delete=False)
        return self.file

    def __exit__(self, kind: object, *_: object) -> None:
        with self.file:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
        temporary = Path(self.file.name)
        if kind is None:
            temporary.chmod(0o644)
            temporary.replace(self.path)
        else:
            temporary.unlink(missing_ok=True)


def _publish(path: Path, content: bytes) -> None:
    with _temporary(path) as file:
        file.write(content)


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
