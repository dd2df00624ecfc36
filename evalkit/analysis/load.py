"""Loading of finished runs, merging of those that differ only in their methods, and selection of protocol points."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd

from evalkit.analysis.rows import Part, Rows, read_part
from evalkit.analysis.shard_facts import DEGENERATE, ERROR, NO_TARGET, item_keys
from evalkit.control_names import versions
from evalkit.errors import UserError, printable, shards_in_words
from evalkit.files import Place, listed, place
from evalkit.layer_names import layers_in_words
from evalkit.point import Fill, Point, Select
from evalkit.runs.folder import RunFolder
from evalkit.runs.identity import Identity

CONTROLS = ("random", "constant", "centre", "edges", "fake_cam")
NEARLY_CERTAIN = 0.9999
WRITTEN = (
    "tables.md", "tables.tex", "summary.csv", "comparisons.csv", "maps.csv", "verdict.md", "verdict.csv", "audit.md", "audit.csv",
    "plan.csv", "report.html", "leaderboard.html", "verified.json",
    "export.parquet", "export-maps.parquet", "export.csv", "export-maps.csv",
)  # fmt: skip
FOLDERS = ("figures", "export-hf")
"""Folders that are written there too."""
ITEM = ["index", "target"]
POINT = ["select", "top_percent", "fill"]


@dataclass(frozen=True)
class Run:
    """The rows of one run folder with their provenance."""

    path: Place
    provenance: dict[str, Any]
    table: Rows
    """The rows as arrays."""
    shards: list[dict[str, Any]]
    folders: tuple[RunFolder, ...]
    """The folders of the rows: several if runs were merged."""
    tag: str = ""
    """The folder's name if several of the loaded runs would have the same title, else empty."""

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.provenance["identity"]["model"]["name"])

    @property
    def methods(self) -> list[str]:
        """The methods in the order of the configuration, then their control versions, network-independent controls last."""
        return _ordered(self.provenance["identity"]["method"])

    @property
    def raw(self) -> bool:
        """Whether scores are the network's outputs themselves, without confidences (model.output=raw)."""
        return bool(self.provenance["identity"]["model"].get("output") == "raw")

    @property
    def points(self) -> list[Point]:
        """The protocol points in the order of the rows."""
        return self.table.points

    @property
    def rows(self) -> pd.DataFrame:
        """All rows (`evaluation.columns.ROWS`) as one table, read anew: hundreds of bytes of memory for each."""
        return self.table.frame()

    @property
    def scored(self) -> pd.DataFrame:
        """The rows of the items (image and explained class) that every method could be scored on, read anew as `rows`."""
        rows = self.rows
        keys = item_keys(rows["index"].to_numpy(), rows.target.fillna(NO_TARGET).to_numpy().astype(np.int64))
        return rows[np.isin(keys, self.table.scored_items.index)]

    @property
    def maps(self) -> pd.DataFrame:
        """The measures of each map (`evaluation.columns.MAPS`) as one table, read anew."""
        return self.table.frame(maps=True)

    @property
    def items(self) -> pd.DataFrame:
        """The items that are scored, in the order of `summary.scores_of`: index, target, label and predicted."""
        found = self.table.scored_items[[*ITEM, "label", "predicted"]]
        return found.reset_index(drop=True)

    def counts(self) -> dict[str, Any]:
        """Return the numbers of scored and excluded images, the accuracy, and the other numbers of the caption."""
        return dict(self._counts)

    @cached_property
    def _counts(self) -> dict[str, Any]:
        table, items = self.table, self.table.items
        images = items["index"].nunique()
        read = items[items.read]
        highest = read.groupby("index").prob_full.max()
        labelled = read[read.label.notna()]["index"].nunique()
        correct = read[read.label == read.predicted]["index"].nunique()
        made = dict(zip(self.methods, ((table.status >= 0) & (table.status != ERROR)).sum(axis=0).tolist(), strict=True))
        scored = table.scored_items
        nonfinite = {
            method: int(items["index"][table.nonfinite[:, place]].nunique())
            for place, method in enumerate(table.methods)
            if table.nonfinite[:, place].any()
        }
        seconds = sum(float(shard["seconds"]) for shard in self.shards)
        return {
            "images": images,
            "labelled": labelled,
            "correct": correct,
            "scored": int(scored["index"].nunique()),
            "items": len(scored),
            "maps": sum(made.values()) // max(len(self.methods), 1),
            "maps_of": made,
            "unreadable": images - read["index"].nunique(),
            "nonfinite": int(items["index"][table.nonfinite.any(axis=1)].nunique()),
            "nonfinite_of": dict(sorted(nonfinite.items())),
            "left_out": sum(int(shard["left_out"]) for shard in self.shards),
            "degenerate": dict(zip(self.methods, (table.status == DEGENERATE).sum(axis=0).tolist(), strict=True)),
            "logit_not_positive": int(((scored.logit_full == 0) if self.raw else (scored.logit_full <= 0)).sum()),
            "nearly_certain_percent": float((highest > NEARLY_CERTAIN).mean() * 100),
            "top1_percent": 100 * correct / labelled if labelled and not self.raw else None,
            "images_per_second": images / seconds if seconds else float("nan"),
            "code_versions": len({shard["code"] for shard in self.shards}),
        }

    def seconds_per_map(self) -> dict[str, float]:
        """Return the seconds per map of each method, on the machines that computed them; nan where unknown."""
        maps = self.counts()["maps_of"]
        took = {m: sum(float(shard["seconds_per_method"].get(m, 0)) for shard in self.shards) for m in self.methods}
        return {m: took[m] / maps[m] if took[m] and maps[m] else float("nan") for m in self.methods}


def _ordered(methods: Iterable[str]) -> list[str]:
    chosen = list(methods)
    altered = versions(chosen)
    return sorted(chosen, key=lambda name: (altered.get(name, name) in CONTROLS, name in altered, chosen.index(name)))


def in_words(reasons: Mapping[str, int]) -> str:
    """Return the numbers of excluded images as text: `5 unreadable, 6 with non-finite maps or scores`."""
    return ", ".join(f"{number} {reason}" for reason, number in reasons.items())


def exclusions(run: Run) -> dict[str, int]:
    """Return the number of images that are not scored by reason, without zeros. Those that `images=correct` leaves out do not count."""
    counts = run.counts()
    lacking = counts["images"] - counts["scored"] - counts["unreadable"] - counts["nonfinite"]
    reasons = {
        "unreadable": counts["unreadable"],
        "with non-finite maps or scores": counts["nonfinite"],
        "without a label among the model's classes": counts["left_out"] if run.provenance["identity"]["images"] == "all" else 0,
        "that not every method has": lacking,
    }
    return {reason: number for reason, number in reasons.items() if number > 0}


def load_runs(paths: str | Place | Iterable[str | Place], *, allow_incomplete: bool = False) -> list[Run]:
    """Load a run folder or several, or folders of run folders (multirun), and merge runs that differ only in their methods.

    Raises UserError if a path is no run folder, or a run is not finished.
    """
    folders: list[Place] = []
    given = list(map(place, [paths] if isinstance(paths, str | Place) else paths))
    for path in [path for path in given if not _is_written(path)] or given:
        below = [record.parent for record in listed(path, "*/provenance.json")]
        if not below and path.is_dir() and not RunFolder(path).exists:
            raise UserError(f"no run folder was found in {path} or directly below it: one holds provenance.json, and evalkit run makes it")
        folders += [path] if RunFolder(path).exists or not below else below
    runs = []
    for path in {str(path.resolve()): path for path in folders}.values():
        folder = RunFolder(path)
        provenance, part = _printable(folder.provenance), read_part(folder)
        if part.missing and not allow_incomplete:
            raise UserError(
                f"{path} is not finished: {shards_in_words(part.missing)} missing; "
                "run the same command again, or render it as it is with --allow-incomplete"
            )
        provenance["missing_shards"] = part.missing
        names = {name for shard in part.shards for name in (*shard.selects, *shard.fills)}
        unknown = names - {*get_args(Select), *get_args(Fill)}
        if unknown:
            raise UserError(f"{path} holds protocol points that this version does not know: {', '.join(sorted(map(str, unknown)))}")
        runs.append(_run(path, provenance, [part], part.descriptions))
    return _tagged(_merged(runs))


def _is_written(path: Place) -> bool:
    """Return whether this is what `evalkit tables` or `report` writes beside run folders, as a shell's `*` names it too."""
    return (path.name in WRITTEN and path.is_file()) or (path.name in FOLDERS and not listed(path, "*/provenance.json"))


def _printable(value: Any) -> Any:
    """Make all text of a record printable: a run folder may be untrusted, and the text is only displayed."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(inner) for key, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list) else value


def _tagged(runs: Sequence[Run]) -> list[Run]:
    def kind(run: Run) -> tuple[str, ...]:
        identity = run.provenance["identity"]
        return run.name, layers_in_words(identity["model"]["layer"]), identity["data"]["name"], run.provenance["weights"]

    counted = Counter(map(kind, runs))
    return [replace(run, tag=run.path.name) if counted[kind(run)] > 1 else run for run in runs]


def _merged(runs: Iterable[Run]) -> list[Run]:
    """Merge runs that differ only in their methods, so that their methods are compared image by image.

    Earlier versions recorded of a user's code only the file of the model's factory: a run with nothing else recorded is merged
    with others where these agree.
    """
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        facts = {key: fact for key, fact in run.provenance["identity"].items() if key != "method"}
        code = {name: digest for name, digest in facts.get("code", {}).items() if not name.startswith(("method.", "control."))}
        facts["code"] = {name: digest for name, digest in code.items() if name == "model.factory"}
        others = {name: digest for name, digest in code.items() if name not in facts["code"]}
        groups.setdefault(Identity(facts).hash, {}).setdefault(Identity(others).hash, []).append(run)
    nothing = Identity({}).hash
    parts: list[list[Run]] = []
    for group in groups.values():
        agree = len(group.keys() - {nothing}) < 2
        parts += [[run for part in group.values() for run in part]] if agree else group.values()
    return [run for part in parts for run in _join(part)]


def _join(group: list[Run]) -> list[Run]:
    """Return one run with the methods of all, or the group unchanged if a method occurs twice."""
    methods = [method for run in group for method in run.provenance["identity"]["method"]]
    if len(group) == 1 or len(set(methods)) < len(methods):
        return group
    first = group[0]
    merged = {name: settings for run in group for name, settings in run.provenance["identity"]["method"].items()}
    provenance = {
        **first.provenance,
        "identity": {**first.provenance["identity"], "method": merged},
        "missing_shards": sum(run.provenance["missing_shards"] for run in group),
    }
    others = [{**shard, "left_out": 0} for run in group[1:] for shard in run.shards]  # the images are the same: counted once
    parts = [part for run in group for part in run.table.parts]
    return [_run(first.path, provenance, parts, [*first.shards, *others])]


def _run(path: Place, provenance: dict[str, Any], parts: Sequence[Part], shards: list[dict[str, Any]]) -> Run:
    table = Rows(parts, _ordered(provenance["identity"]["method"]))
    return Run(path, provenance, table, shards, tuple(part.folder for part in parts))


def at_point(table: pd.DataFrame, point: Point) -> pd.DataFrame:
    """Return the part of rows, summaries or comparisons that belongs to one protocol point."""
    at_top = table.top_percent.isna() if point.top_percent is None else table.top_percent == point.top_percent
    return table[(table["select"] == point.select) & (table["fill"] == point.fill) & at_top]


def point_columns(point: Point) -> dict[str, Any]:
    """Return a point as values of the columns `POINT`; a missing threshold is nan."""
    return {"select": point.select, "top_percent": math.nan if point.top_percent is None else point.top_percent, "fill": point.fill}
