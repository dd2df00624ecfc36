"""The summary of a run: one small parquet file with what the leaderboard shows of it, documented in docs/leaderboard.md."""

import datetime
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import PurePath
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from evalkit.analysis.evaluated import Evaluated, evaluate_run
from evalkit.analysis.load import CONTROLS, Run, load_runs
from evalkit.analysis.metrics import lower_is_better
from evalkit.analysis.top1 import random_weights
from evalkit.control_names import versions
from evalkit.errors import UserError, printable, shards_in_words
from evalkit.files import WEIGHTS_SUFFIXES, Place, listed, place
from evalkit.layer_names import layers_in_words, method_of
from evalkit.output.leaderboard_facts import joined
from evalkit.output.tables import stopped
from evalkit.runs.folder import RunFolder
from evalkit.runs.identity import Identity

FORMAT = 1
SCHEMA = pa.schema(
    [
        ("select", pa.string()),
        ("top_percent", pa.float64()),
        ("fill", pa.string()),
        ("score", pa.string()),
        ("metric", pa.string()),
        ("method", pa.string()),
        ("control", pa.bool_()),
        ("against", pa.string()),
        ("n", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("floor", pa.string()),
        ("gain", pa.float64()),
        ("gain_low", pa.float64()),
        ("gain_high", pa.float64()),
    ]
)
POINT = ("select", "top_percent", "fill")
OF_IMAGES = ("data", "target", "images", "sample", "limit", "seed", "until")
"""The facts of an identity that decide which images and classes are explained."""
OF_METHODS = ("method", "code", "protocol", "measures", "single_deletion", "stability", "randomisation")
"""The facts of an identity in which runs may differ whose methods are ranked together."""
WEB = re.compile(r"https?://[^\s]+")


class Summary(NamedTuple):
    """What the leaderboard shows of one run: the table `SCHEMA` and the facts of the run."""

    table: pa.Table
    facts: dict[str, Any]


def run_folders(paths: list[str | Place]) -> list[Place]:
    """Return the run folders that paths name, themselves or directly below, each once. Raises UserError where a path has none."""
    found: dict[str, Place] = {}
    for path in map(place, paths):
        below = [record.parent for record in listed(path, "*/provenance.json")]
        for folder in [path] if RunFolder(path).exists or not below else below:
            found[str(folder.resolve())] = folder
    return list(found.values())


def summarised(
    paths: str | Place | Sequence[str | Place], *, report: str | None = None, verified: Sequence[Mapping[str, Any]] = ()
) -> Summary:
    """Return the summary of one run: of a folder, or of several that differ only in their methods (`load_runs` merges them).

    `report` is the address of its report, `verified` the records of `evalkit verify`, one for each folder.

    Raises UserError: a run is not finished, the folders are not one run, the address is none of the web, a record is of other rows, or
    a folder has none while another has.
    """
    run = _one_run([paths] if isinstance(paths, str | Place) else paths)
    if report is not None and not WEB.fullmatch(report):
        raise UserError(f"--report {printable(report)} is no address of the web: give one that begins with https://")
    digests = {folder.digest(): folder.path for folder in run.folders}
    digest = next(iter(digests)) if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
    record = joined(verified, digests, digest) if verified else None
    evaluated = evaluate_run(run)
    facts = {**_facts(evaluated), "rows_digest": digest, "report": report, "verified": record}
    return Summary(pa.Table.from_pylist(_rows(evaluated), schema=SCHEMA), facts)


def _one_run(paths: Sequence[str | Place]) -> Run:
    """Load the finished run that folders make. Raises UserError: one is not finished, or they make several."""
    runs = load_runs(paths, allow_incomplete=True)
    for folder in (folder for run in runs if run.provenance["missing_shards"] for folder in run.folders):
        missing = len(folder.missing())
        if missing:
            raise UserError(
                f"{folder.path} is not finished ({shards_in_words(missing)} missing), and a leaderboard takes finished runs only: "
                f"run the same command again, or see what there is with `evalkit tables {folder.path} --allow-incomplete`"
            )
    if len(runs) != 1:
        several = " and ".join(str(folder.path) for run in runs for folder in run.folders)
        raise UserError(
            f"{several} are several runs, and a summary is of one: folders are taken together where only their methods differ and no "
            "method is in two of them; write a file for each run"
        )
    return runs[0]


def _facts(evaluated: Evaluated) -> dict[str, Any]:
    run, counts = evaluated.run, evaluated.run.counts()
    identity = run.provenance["identity"]
    return {
        "format": FORMAT,
        "model": {
            "name": run.name,
            "layer": layers_in_words(identity["model"]["layer"]),
            "weights": without_folder(str(run.provenance["weights"])),
            "weights_hash": str(identity["model"].get("weights_hash")),
            "random": random_weights(run),
        },
        "data": {"name": str(identity["data"].get("name")), "fingerprint": str(identity["data"]["fingerprint"])},
        "images": {
            "scored": counts["scored"],
            "items": counts["items"],
            "total": counts["images"],
            "sample": identity.get("sample"),
            "limit": identity.get("limit"),
            "chosen": str(identity.get("images")),
        },
        "target": json.dumps(identity["target"]) if isinstance(identity.get("target"), list) else str(identity.get("target")),
        "methods": {name: _settings(settings) for name, settings in identity["method"].items()},
        "images_hash": Identity({key: fact for key, fact in identity.items() if key in OF_IMAGES}).hash,
        "setting": Identity(_setting(identity)).hash,
        "identity": _identity(run),
        "code": sorted({str(shard.get("code")) for shard in run.shards}),
        "evalkit": _version(),
        "date": _date(run),
        "cautions": [*evaluated.cautions, *stopped(run)],
    }


def _identity(run: Run) -> str:
    """Return the hash of a run's identity; of merged runs another one than that of each, the same in every order of the folders."""
    records = [folder.provenance for folder in run.folders]
    hashes = sorted(str(record.get("identity_hash") or Identity(record["identity"]).hash) for record in records)
    return hashes[0] if len(hashes) == 1 else Identity({"merged": hashes}).hash


def _setting(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that two runs share whose methods are ranked together; user code of methods may differ, that of models not."""
    code = {key: digest for key, digest in identity.get("code", {}).items() if not key.startswith(("method.", "control."))}
    return {**{key: fact for key, fact in identity.items() if key not in OF_METHODS}, "code": code}


def _settings(settings: Any) -> str:
    """Return a method's function and parameters as text: `evalkit.methods.random, seed=0`."""
    if not isinstance(settings, Mapping):
        return ""
    others = (f"{key}={value}" for key, value in settings.items() if key != "_target_")
    return ", ".join([*([str(settings["_target_"])] if "_target_" in settings else []), *others])


def without_folder(weights: str) -> str:
    """Return where weights come from, with `weights/` for the folder of a file, which means nothing on other machines."""
    name = PurePath(weights.replace("\\", "/")).name
    is_file = weights.lower().endswith(WEIGHTS_SUFFIXES) and name != weights and not weights.startswith("embedded:")
    return f"weights/{name}" if is_file else weights


def _version() -> str:
    try:
        return metadata.version("evalkit")
    except metadata.PackageNotFoundError:
        return "unknown"


def _date(run: Run) -> str:
    """Return the day on which the last shard was written, in UTC, as its file says."""
    written = max(file.stat().st_mtime for folder in run.folders for file in listed(folder.path, "rows/shard-*.parquet"))
    return datetime.datetime.fromtimestamp(written, datetime.UTC).date().isoformat()


def is_control(method: str, methods: list[str]) -> bool:
    """Return whether a method is a control: a map that does not look at the network, or an altered version of another method's map."""
    return is_floor(method) or method in versions(methods)


def is_floor(method: str) -> bool:
    """Return whether a method is one of the maps that do not look at the network, which every other has to beat."""
    return method_of(method) in CONTROLS


def best(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the best of the controls among rows of one point, score and metric; None where none has a value."""
    controls = [row for row in rows if is_floor(row["method"]) and row["value"] is not None]
    lower = bool(controls) and lower_is_better(controls[0]["metric"], controls[0]["select"])
    return min(controls, key=lambda row: row["value"] if lower else -row["value"], default=None)


def _rows(evaluated: Evaluated) -> list[dict[str, Any]]:
    paired = _differences(evaluated.comparisons)
    methods = evaluated.run.methods
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in evaluated.summary.to_dict("records"):
        row = {name: _plain(record[name]) for name in SCHEMA.names if name in record}
        row["control"] = is_control(row["method"], methods)
        groups.setdefault((*(row[name] for name in POINT), row["score"], row["metric"]), []).append(row)
    for key, rows in groups.items():
        floor = best(rows)
        for row in rows:
            row["floor"] = None if floor is None else floor["method"]
            found = paired.get((*key, row["method"], row["floor"]))
            row["gain"], row["gain_low"], row["gain_high"] = found or (None, None, None)
    return [row for rows in groups.values() for row in rows]


def _differences(comparisons: pd.DataFrame) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Return the paired differences with their intervals in both orders of each pair, positive where the first is better."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for record in comparisons.to_dict("records"):
        row = {str(name): _plain(value) for name, value in record.items()}
        key = (*(row[name] for name in POINT), row["score"], row["metric"])
        ends: tuple[Any, ...] = (row["difference"], row["low"], row["high"])
        turned: tuple[Any, ...] = tuple(None if end is None else -end for end in (ends[0], ends[2], ends[1]))
        if lower_is_better(row["metric"], row["select"]):
            ends, turned = turned, ends
        found[*key, row["first"], row["second"]] = ends
        found[*key, row["second"], row["first"]] = turned
    return found


def _plain(value: Any) -> Any:
    """Return a cell of a frame as Python's own value, None where it is missing or not finite."""
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
