"""What rehearsal.py reads from run folders: what a kill left, whether each row is there once, equal scores of repeats, time by stage."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.runs.folder import RunFolder, Shard

FLOAT_NOISE = 1e-4
"""Largest difference of a confidence that rounding explains where no pixel at the threshold has a nearly equal neighbour."""
NEAR_TIE = 1e-5
"""Gap of two pixels at the threshold, as a share of the map's largest value, below which rounding may swap them."""
SCORES = ("prob_full", "prob_masked")


def after_a_kill(folder: RunFolder, killed: float) -> dict[str, Any]:
    """Return what two workers left that were killed at the time `killed`: images kept, and seconds of work that were not."""
    left = folder.images_left(maps=True)
    lost = []
    for claim in sorted((folder.path / "claims").iterdir()):
        number = claim.name.removeprefix("shard-")
        parts = list((folder.path / "partial" / "rows").glob(f"shard-{number}-*"))
        lost.append(round(killed - max(file.stat().st_mtime for file in (claim, *parts)), 1))
    kept = folder.images - sum(left.values())
    finished = len(folder.shards) - len(left)
    in_shards = sum(min(folder.shard_size, folder.images - shard * folder.shard_size) for shard in folder.shards if shard not in left)
    return {
        "shards_finished": finished,
        "images_kept": kept,
        "of_them_in_parts": kept - in_shards,
        "claims_left": len(lost),
        "seconds_of_work_lost_by_worker": lost,
    }


def contents(folder: RunFolder, methods: Sequence[str], thresholds: Sequence[float], photographs: int) -> dict[str, Any]:
    """Read every shard in turn: completeness of the rows, equality of the photographs' repeats, seconds by stage and method."""
    cells = len(methods) * len(thresholds)
    seen = np.zeros(folder.images, int)
    complete, rows = True, 0
    seconds, stages, of_methods, status = 0.0, Counter[str](), Counter[str](), Counter[str]()
    repeats = Repeats(photographs, cells)
    for shard in folder.finished():
        order = np.lexsort([_codes(shard, "top_percent", thresholds), _codes(shard, "method", methods), shard.rows["index"].to_numpy()])
        index = shard.rows["index"].to_numpy()[order]
        cell = (_codes(shard, "method", methods) * len(thresholds) + _codes(shard, "top_percent", thresholds))[order]
        complete &= len(index) % cells == 0 and bool((cell == np.tile(np.arange(cells), len(index) // cells)).all())
        complete &= bool((index.reshape(-1, cells) == index[::cells, None]).all()) and len(shard.maps) * len(thresholds) == len(index)
        np.add.at(seen, index[::cells], 1)
        rows += len(index)
        repeats.add(index[::cells], {name: shard.rows[name].to_numpy()[order].reshape(-1, cells) for name in (*SCORES, "rank_gap")})
        status.update(shard.rows["status"].to_pylist())
        seconds += shard.description["seconds"]
        stages.update(shard.description["seconds_per_stage"])
        of_methods.update(shard.description["seconds_per_method"])
    total = sum(stages.values())
    return {
        "shards": -(-folder.images // folder.shard_size),
        "rows": rows,
        "status": dict(status),
        "complete": bool(complete and (seen == 1).all()),
        "seconds_of_shards": round(seconds, 1),
        "seconds_of_stages": round(total, 1),
        "share_of_stages": {name: round(spent / total, 4) for name, spent in stages.most_common()},
        "share_of_maps_by_method": {name: round(spent / total, 4) for name, spent in of_methods.most_common()},
        "repeats": repeats.figures(),
    }


def _codes(shard: Shard, column: str, values: Sequence[Any]) -> np.ndarray:
    """Return the place of each row's value among `values`; an unknown value is one more than the last."""
    known = {value: place for place, value in enumerate(values)}
    return np.array([known.get(value, len(values)) for value in shard.rows[column].to_pylist()])


class Repeats:
    """The scores of each photograph where it was seen first, compared with those of all its repeats."""

    def __init__(self, photographs: int, cells: int) -> None:
        self._first = {name: np.full((photographs, cells), np.nan) for name in SCORES}
        self._near_tie = np.zeros((photographs, cells), bool)
        self.compared = self.near_ties = 0
        self.largest = self.largest_of_near_ties = 0.0

    def add(self, index: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """Add the images of a shard: `index` (n,), and columns (n, methods x thresholds)."""
        photograph = index % len(self._near_tie)
        new, places = np.unique(photograph, return_index=True)
        fresh = np.isnan(self._first["prob_full"][new, 0])
        for name in SCORES:
            self._first[name][new[fresh]] = columns[name][places[fresh]]
        self._near_tie[new] |= columns["rank_gap"][places] < NEAR_TIE
        near = self._near_tie[photograph] | (columns["rank_gap"] < NEAR_TIE)
        apart = np.max([np.abs(columns[name] - self._first[name][photograph]) for name in SCORES], axis=0)
        self.compared += apart.size
        self.near_ties += int(near.sum())
        self.largest = max(self.largest, float(apart[~near].max(initial=0)))
        self.largest_of_near_ties = max(self.largest_of_near_ties, float(apart[near].max(initial=0)))

    def figures(self) -> dict[str, Any]:
        """Return the largest differences of a confidence, apart from near ties and in them."""
        return {
            "rows": self.compared,
            "largest_difference": self.largest,
            "near_ties": self.near_ties,
            "largest_difference_of_near_ties": self.largest_of_near_ties,
        }


def compare(subset: RunFolder, whole: RunFolder) -> dict[str, Any]:
    """Compare the scores of a run on the first images with those of the run on all, row by row."""
    theirs = {shard.number: shard.rows for shard in whole.finished() if shard.number * whole.shard_size < subset.images}
    rows = {}
    for table in theirs.values():
        for row in table.select(["index", "image_id", "method", "top_percent", *SCORES, "rank_gap"]).to_pylist():
            rows[row["index"], row["image_id"], row["method"], row["top_percent"]] = row
    compared, largest, near_ties, of_near_ties = 0, 0.0, 0, 0.0
    for shard in subset.finished():
        for row in shard.rows.to_pylist():
            other = rows[row["index"], row["image_id"], row["method"], row["top_percent"]]
            apart = max(abs(row[name] - other[name]) for name in SCORES)
            compared += 1
            if min(row["rank_gap"], other["rank_gap"]) < NEAR_TIE:
                near_ties, of_near_ties = near_ties + 1, max(of_near_ties, apart)
            else:
                largest = max(largest, apart)
    of_rows = {"rows": compared, "largest_difference": largest}
    return of_rows | {"near_ties": near_ties, "largest_difference_of_near_ties": of_near_ties}


def files(path: Path) -> dict[str, Any]:
    """Count the files of a finished run folder and their bytes, and name those that do not belong there."""
    found = [file for file in path.rglob("*") if file.is_file()]
    tables = [path / name / f"{file.stem}.parquet" for name in ("rows", "maps") for file in (path / "rows").glob("shard-*.parquet")]
    left = set(found) - {*tables, path / "run.yaml", path / "provenance.json"}
    size = {name: sum(file.stat().st_size for file in (path / name).iterdir()) for name in ("rows", "maps")}
    return {
        "files": len(found),
        "bytes": sum(file.stat().st_size for file in found),
        "bytes_by_folder": size,
        "left_over": sorted(str(file.relative_to(path)) for file in left),
    }
