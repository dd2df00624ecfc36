"""What somebody may alter in a run folder; files are written by evalkit's own functions, so that their checksums are right."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.runs.folder import RunFolder
from evalkit.runs.identity import Identity
from evalkit.runs.shards import parquet_bytes

Generator = np.random.Generator
SCORES = ["prob_full", "prob_masked", "logit_full", "logit_masked"]


@dataclass
class Folder:
    """A copy of a finished run, read into memory and written back with alterations."""

    path: Path
    rng: Generator
    images: set[int] = field(default_factory=set)
    """Positions of the images whose scores, maps or measures were altered."""

    @property
    def shards(self) -> list[int]:
        """The numbers of the shards."""
        return list(RunFolder(self.path).shards)

    @property
    def record(self) -> dict[str, Any]:
        """The record as it lies on the disk."""
        known: dict[str, Any] = json.loads((self.path / "provenance.json").read_text())
        return known

    def read(self, shard: int) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
        """Return rows, maps and description of a shard."""
        found = next(each for each in RunFolder(self.path).finished() if each.number == shard)
        return found.rows.to_pandas(), found.maps.to_pandas(), found.description

    def write(self, shard: int, rows: pd.DataFrame, maps: pd.DataFrame, about: dict[str, Any]) -> None:
        """Write a shard with right checksums."""
        own = {key: about[key] for key in ("identity", "shard")}
        for name, frame, schema, said in (("maps", maps, MAPS, own), ("rows", rows, ROWS, about)):
            table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
            self.file(shard, name).write_bytes(parquet_bytes(table, said))

    def file(self, shard: int, kind: str = "rows") -> Path:
        """Return the path of a shard's file."""
        return self.path / kind / f"shard-{shard:05d}.parquet"

    def publish(self, record: dict[str, Any]) -> None:
        """Write the record with a right checksum, and the hash of its identity into all shards."""
        identity = Identity(record["identity"]).hash
        shards = {shard: self.read(shard) for shard in self.shards}
        record = {key: value for key, value in record.items() if key != "checksum"} | {"identity_hash": identity}
        RunFolder(self.path)._publish(record)
        for shard, (rows, maps, about) in shards.items():
            self.write(shard, rows, maps, {**about, "identity": identity})

    def pick(self, frame: pd.DataFrame, column: str) -> Any:
        """Return a random value of a column."""
        return self.rng.choice(frame[column].unique())


def _shard(folder: Folder) -> tuple[int, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    shard = int(folder.rng.choice(folder.shards))
    return shard, *folder.read(shard)


def _change(folder: Folder, sizes: tuple[float, float], column: str) -> None:
    shard, rows, maps, about = _shard(folder)
    at = int(folder.rng.integers(len(rows)))
    least = rows[["logit_full", "logit_masked"]].abs().max(axis=None)
    size = float(folder.rng.uniform(*sizes)) * (least if column.startswith("logit") else 1)
    value = float(rows.loc[at, column])
    lower = column.startswith("prob") and (value + size > 1 or (value - size >= 0 and folder.rng.random() < 0.5))
    rows.loc[at, column] = value - size if lower else value + size
    folder.images = {int(rows.loc[at, "index"])}
    folder.write(shard, rows, maps, about)


def score_slightly(folder: Folder) -> None:
    """One logit is changed by 0.3 to 5 % of the largest one."""
    _change(folder, (0.003, 0.05), "logit_masked")


def score(folder: Folder) -> None:
    """One confidence is changed by 5 to 45 points."""
    _change(folder, (0.05, 0.45), "prob_masked")


def full_score(folder: Folder) -> None:
    """The score of an unmasked image is changed in all of its rows."""
    shard, rows, maps, about = _shard(folder)
    image = folder.pick(rows, "index")
    rows.loc[rows["index"] == image, "logit_full"] += float(folder.rng.uniform(0.1, 3))
    folder.images = {int(image)}
    folder.write(shard, rows, maps, about)


def full_score_of_one_row(folder: Folder) -> None:
    """The score of an unmasked image is changed in one row."""
    _change(folder, (0.003, 0.05), "logit_full")


def better_method(folder: Folder) -> None:
    """One method's masked confidences are raised in every shard, of a tenth of the images."""
    method = None
    for shard in folder.shards:
        rows, maps, about = folder.read(shard)
        method = method or folder.pick(rows, "method")
        indices = rows["index"].unique()
        images = folder.rng.choice(indices, max(1, len(indices) // 10), replace=False)
        chosen = rows["index"].isin(images) & (rows["method"] == method)
        rows.loc[chosen, "prob_masked"] += 0.3 * (1 - rows.loc[chosen, "prob_masked"])
        rows.loc[chosen, "logit_masked"] += 1.0
        folder.images |= set(map(int, images))
        folder.write(shard, rows, maps, about)


def row_dropped(folder: Folder) -> None:
    """One row is removed."""
    shard, rows, maps, about = _shard(folder)
    folder.write(shard, rows.drop(index=int(folder.rng.integers(len(rows)))), maps, about)


def image_dropped(folder: Folder) -> None:
    """All rows and maps of an image are removed, and the shard says that one more was left out."""
    shard, rows, maps, about = _shard(folder)
    image = folder.pick(rows, "index")
    folder.write(shard, rows[rows["index"] != image], maps[maps["index"] != image], {**about, "left_out": about["left_out"] + 1})


def rows_doubled(folder: Folder) -> None:
    """Rows of an image are there twice."""
    shard, rows, maps, about = _shard(folder)
    image = folder.pick(rows, "index")
    folder.write(shard, pd.concat([rows, rows[rows["index"] == image]]).sort_values("index", kind="stable"), maps, about)


def method_renamed(folder: Folder) -> None:
    """The rows of a method get another name."""
    shard, rows, maps, about = _shard(folder)
    method = folder.pick(rows, "method")
    for frame in (rows, maps):
        frame.loc[frame["method"] == method, "method"] = "mine"
    folder.write(shard, rows, maps, about)


def methods_swapped(folder: Folder) -> None:
    """Two methods change their names in a shard, in rows and maps."""
    shard, rows, maps, about = _shard(folder)
    first, second = folder.rng.choice(rows["method"].unique(), 2, replace=False)
    for frame in (rows, maps):
        frame["method"] = frame["method"].replace({first: second, second: first})
    folder.images = set(map(int, rows["index"]))
    folder.write(shard, rows, maps, about)


def images_exchanged(folder: Folder) -> None:
    """Two images exchange all of their scores."""
    shard, rows, maps, about = _shard(folder)
    first, second = folder.rng.choice(rows["index"].unique(), 2, replace=False)
    one, other = (rows.index[rows["index"] == image] for image in (first, second))
    rows.loc[one, SCORES], rows.loc[other, SCORES] = rows.loc[other, SCORES].to_numpy(), rows.loc[one, SCORES].to_numpy()
    folder.images = {int(first), int(second)}
    folder.write(shard, rows, maps, about)


def names_exchanged(folder: Folder) -> None:
    """Two images exchange their names, in rows and maps."""
    shard, rows, maps, about = _shard(folder)
    first, second = folder.rng.choice(rows["image_id"].unique(), 2, replace=False)
    for frame in (rows, maps):
        frame["image_id"] = frame["image_id"].replace({first: second, second: first})
    folder.write(shard, rows, maps, about)


def label_edited(folder: Folder) -> None:
    """The label of an image is changed, in rows and maps."""
    shard, rows, maps, about = _shard(folder)
    image = folder.pick(rows, "index")
    for frame in (rows, maps):
        frame.loc[frame["index"] == image, "label"] = (frame["label"] + 1) % 10
    folder.write(shard, rows, maps, about)


def class_edited(folder: Folder) -> None:
    """Another class is said to be predicted and explained, in rows and maps."""
    shard, rows, maps, about = _shard(folder)
    image = folder.pick(rows, "index")
    for frame in (rows, maps):
        chosen = frame["index"] == image
        frame.loc[chosen, ["target", "predicted"] if "predicted" in frame else ["target"]] = (
            int(frame.loc[chosen, "target"].iloc[0]) + 1
        ) % 10
    folder.images = {int(image)}
    folder.write(shard, rows, maps, about)


def points_swapped(folder: Folder) -> None:
    """Two protocol points exchange a method's scores of an image."""
    shard, rows, maps, about = _shard(folder)
    image, method = folder.pick(rows, "index"), folder.pick(rows, "method")
    one, other, *_ = rows.index[(rows["index"] == image) & (rows["method"] == method)]
    rows.loc[[one, other], SCORES] = rows.loc[[other, one], SCORES].to_numpy()
    apart = abs(rows.loc[one, "logit_masked"] - rows.loc[other, "logit_masked"])
    folder.images = {int(image)} if apart > 0.1 else set()
    folder.write(shard, rows, maps, about)


def kept_edited(folder: Folder) -> None:
    """A row says that another share of the pixels was kept."""
    _change(folder, (0.01, 0.3), "kept_fraction")


def gap_edited(folder: Folder) -> None:
    """A row says that a tie was near, or far."""
    _change(folder, (0.05, 0.5), "rank_gap")


def status_edited(folder: Folder) -> None:
    """A row says that its map is constant."""
    shard, rows, maps, about = _shard(folder)
    at = folder.rng.choice(rows.index[rows["status"] == "ok"])
    rows.loc[at, "status"] = "degenerate"
    folder.write(shard, rows, maps, about)


def measure_edited(folder: Folder) -> None:
    """A measure of a map is changed."""
    shard, rows, maps, about = _shard(folder)
    at = int(folder.rng.integers(len(maps)))
    maps.loc[at, "complexity"] *= 1 - folder.rng.uniform(0.05, 0.5)
    folder.images = {int(maps.loc[at, "index"])} if maps.loc[at, "complexity"] > 0.05 else set()
    folder.write(shard, rows, maps, about)


def map_edited(folder: Folder) -> None:
    """The values of a stored map change their places."""
    shard, rows, maps, about = _shard(folder)
    at = int(folder.rng.choice(maps.index[maps["maximum"] > maps["minimum"]]))
    maps.at[at, "map"] = folder.rng.permutation(maps.at[at, "map"])
    folder.images = {int(maps.loc[at, "index"])}
    folder.write(shard, rows, maps, about)


def maximum_edited(folder: Folder) -> None:
    """The table of maps says another maximum than the stored map has."""
    shard, rows, maps, about = _shard(folder)
    maps.loc[int(folder.rng.integers(len(maps))), "maximum"] += 0.5
    folder.write(shard, rows, maps, about)


def map_dropped(folder: Folder) -> None:
    """One row of the table of maps is removed."""
    shard, rows, maps, about = _shard(folder)
    folder.write(shard, rows, maps.drop(index=int(folder.rng.integers(len(maps)))), about)


def record_by_hand(folder: Folder) -> None:
    """The record says other weights, and its checksum is the old one."""
    record = folder.record
    record["identity"]["model"]["weights_hash"] = "0" * 16
    (folder.path / "provenance.json").write_text(json.dumps(record))


def record_edited(folder: Folder) -> None:
    """The record says other weights, data, settings or images; checksum and shards follow."""
    record = folder.record
    what = folder.rng.integers(6)
    if what == 0:
        record["identity"]["model"]["weights_hash"] = f"{folder.rng.integers(2**60):016x}"
    elif what == 1:
        record["identity"]["data"]["fingerprint"] = f"{folder.rng.integers(2**60):064x}"
    elif what == 2:
        record["identity"]["method"]["grad_cam"]["gradient"] = "softmax"
    elif what == 3:
        record["identity"]["seed"] = int(folder.rng.integers(1, 99))
    elif what == 4:
        record["class_names"][int(folder.rng.integers(10))] = "another"
    else:
        record["identity"]["code"] = {"model.factory": "0" * 12}
    folder.publish(record)


def shard_copied(folder: Folder) -> None:
    """The files of one shard lie over another's."""
    one, other = folder.rng.choice(folder.shards, 2, replace=False)
    for kind in ("rows", "maps"):
        shutil.copy(folder.file(one, kind), folder.file(other, kind))


def shard_copied_and_renumbered(folder: Folder) -> None:
    """The files of one shard lie over another's, and say its number."""
    one, other = map(int, folder.rng.choice(folder.shards, 2, replace=False))
    rows, maps, about = folder.read(one)
    folder.write(other, rows, maps, {**about, "shard": other})


def shard_removed(folder: Folder) -> None:
    """A shard is removed, or one bit of it changed."""
    file = folder.file(int(folder.rng.choice(folder.shards)), str(folder.rng.choice(["rows", "maps"])))
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.unlink() if folder.rng.random() < 0.5 else file.write_bytes(content)


def strict_metrics(folder: Folder) -> None:
    """One method's masked scores are raised within the tolerances, where a comparison of two scores then comes out otherwise."""
    method = None
    for shard in folder.shards:
        rows, maps, about = folder.read(shard)
        method = method or folder.pick(rows, "method")
        own = rows["method"] == method
        raised = np.minimum(1, rows["prob_masked"] + 0.9 * (1e-6 + 1e-3 * rows["prob_masked"])).where(own, rows["prob_masked"])
        for at in rows.index[own]:
            same = (rows["index"] == rows.loc[at, "index"]) & (rows["top_percent"] == rows.loc[at, "top_percent"]) & ~own
            others = np.array([rows.loc[at, "prob_full"], *rows.loc[same, "prob_masked"]])
            if (np.sign(rows.loc[at, "prob_masked"] - others) != np.sign(raised[at] - others)).any():
                folder.images.add(int(rows.loc[at, "index"]))
        chosen = own & rows["index"].isin(folder.images)
        rows.loc[chosen, "prob_masked"] = raised[chosen]
        rows.loc[chosen, "logit_masked"] += 0.9e-4 * rows.loc[chosen, ["logit_full", "logit_masked"]].abs().max(axis=1)
        folder.write(shard, rows, maps, about)


def constant_map_edited(folder: Folder) -> None:
    """The scores of a constant map are lowered, as if other pixels had been kept."""
    shard, rows, maps, about = _shard(folder)
    image = folder.pick(rows, "index")
    chosen = (rows["index"] == image) & (rows["method"] == "constant")
    rows.loc[chosen, "prob_masked"] *= float(folder.rng.uniform(0.3, 0.9))
    rows.loc[chosen, "logit_masked"] -= float(folder.rng.uniform(0.2, 2))
    folder.images = {int(image)}
    folder.write(shard, rows, maps, about)


def weights_named(folder: Folder) -> None:
    """The record calls the weights by another name; their hash and the checksum are right."""
    names = ("IMAGENET1K_V2", "random (seed 0)", "best.pt", "set by mynets.trained")
    folder.publish({**folder.record, "weights": str(folder.rng.choice(names))})


def file_added(folder: Folder) -> None:
    """A further shard, or a file of another name, lies beside the rows or maps."""
    kind, shard = str(folder.rng.choice(["rows", "maps"])), int(folder.rng.choice(folder.shards))
    names = (f"shard-{len(folder.shards):05d}.parquet", "more.parquet", f"shard-{shard:05d}.parquet.bak", "shard-0.parquet")
    shutil.copy(folder.file(shard, kind), folder.path / kind / str(folder.rng.choice(names)))


ALTERATIONS: tuple[Callable[[Folder], None], ...] = (
    score_slightly, score, full_score, full_score_of_one_row, better_method, row_dropped, image_dropped, rows_doubled, method_renamed,
    methods_swapped, images_exchanged, names_exchanged, label_edited, class_edited, points_swapped, kept_edited, gap_edited, status_edited,
    measure_edited, map_edited, maximum_edited, map_dropped, record_by_hand, record_edited, shard_copied, shard_copied_and_renumbered,
    shard_removed, strict_metrics, constant_map_edited, weights_named, file_added,
)  # fmt: skip
BY_RECOMPUTING = (
    score_slightly, score, full_score, better_method, methods_swapped, images_exchanged, class_edited, points_swapped, gap_edited,
    measure_edited, map_edited, strict_metrics, constant_map_edited,
)  # fmt: skip
"""Those that contradict nothing else in the folder: they are found where one of their images is recomputed."""
