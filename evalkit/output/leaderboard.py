"""The leaderboard: one HTML page over any number of runs and of their summaries."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from evalkit.analysis.metrics import lower_is_better
from evalkit.errors import printable
from evalkit.files import Place, place, publish
from evalkit.output.leaderboard_check import read_summary
from evalkit.output.leaderboard_summary import POINT, Summary, run_folders, summarised
from evalkit.output.pages import page
from evalkit.output.tables import LABELS, describe_point
from evalkit.point import Point

ROW = ("method", "control", "against", "n", "value", "low", "high", "floor", "gain", "gain_low", "gain_high")
"""The columns of a row in the page's data, behind the numbers of its point, score and metric."""
DIGITS = 6
"""Significant digits of numbers in the page's data, as in summary.csv."""


def write_leaderboard(paths: Sequence[str | Place], out: Path) -> int:
    """Write the page of `leaderboard_page` to a file; return the number of runs. Raises UserError as that, and if it cannot be written."""
    text, number = leaderboard_page(paths, out)
    publish(out, text.encode())
    return number


def leaderboard_page(paths: Sequence[str | Place], out: Path | None = None) -> tuple[str, int]:
    """Return the page of run folders, folders of run folders and summaries (*.parquet), and the number of its runs.

    A run that is named twice, as a folder and as its summary, stands there once. `out` is where the page will lie: a run folder's own
    report is linked as seen from there. Raises UserError: a path is neither, a run is not finished, or a summary does not pass the check.
    """
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for path in map(place, paths):
        is_summary = path.suffix == ".parquet" and not path.is_dir()
        for one in [path] if is_summary else run_folders([path]):
            summary = read_summary(one) if is_summary else summarised(one)
            link = summary.facts["report"] if is_summary else _beside(one, out)
            entries.setdefault((summary.facts["identity"], summary.facts["rows_digest"]), _entry(summary, link))
    runs = _labelled(list(entries.values()))
    return page("leaderboard", {"runs": runs, "metrics": LABELS, "row": ROW}, before=["bars"], runs=runs), len(runs)


def _beside(folder: Place, out: Path | None) -> str | None:
    """Return the address of a run folder's own report as seen from the page; None where it has none on this disk."""
    report = folder / "report.html"
    if out is None or not isinstance(folder, Path) or not report.is_file():
        return None
    return quote(os.path.relpath(str(report.resolve()), str(out.resolve().parent)))


def _entry(summary: Summary, report: str | None) -> dict[str, Any]:
    """Return a run as leaderboard.js reads it."""
    facts, rows = summary.facts, summary.table.to_pylist()
    points = list(dict.fromkeys(Point(*(row[name] for name in POINT)) for row in rows))
    metrics = list(dict.fromkeys((row["score"], row["metric"]) for row in rows))
    numbers = {point: number for number, point in enumerate(points)}
    kinds = {kind: number for number, kind in enumerate(metrics)}
    return {
        **{key: facts[key] for key in ("model", "data", "images", "target", "methods", "setting", "identity", "code", "evalkit", "date")},
        "images_hash": facts["images_hash"],
        "rows_digest": facts["rows_digest"],
        "cautions": facts["cautions"],
        "report": report,
        "verified": _verified(facts),
        "points": [{"key": _key(point), "name": describe_point(point)} for point in points],
        "kinds": [
            {"score": score, "metric": metric, "lower": [lower_is_better(metric, point.select) for point in points]}
            for score, metric in metrics
        ],
        "rows": [
            [numbers[Point(*(row[name] for name in POINT))], kinds[row["score"], row["metric"]], *(_short(row[name]) for name in ROW)]
            for row in rows
        ],
    }


def _key(point: Point) -> str:
    return "-".join([point.select, *([f"{point.top_percent:g}"] if point.top_percent is not None else []), point.fill])


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else printable(value) if isinstance(value, str) else value


def _verified(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the page says of a record of `evalkit verify`: a badge where it is of these rows and found no difference."""
    record = facts["verified"]
    if record is None or record["rows_digest"] != facts["rows_digest"]:
        return None
    share = "all" if record["images"] == record["of"] else f"{100 * record['images'] / record['of']:.2g} %"
    what = f"{share} of the images recomputed ({record['images']:,} of {record['of']:,})"
    if record["differences"]:
        return {"badge": None, "says": f"Not verified: on {record['date'][:10]} with {what}, {record['differences']:,} differences."}
    return {"badge": f"verified, {record['date'][:10]}, {share}", "says": f"Verified on {record['date'][:10]}: {what}, no difference."}


def _labelled(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each run the names of its network and of its images, longer where two settings would have the same."""
    models = [_names(run["model"]["name"], f"at {run['model']['layer']}", run["model"]["weights"], run["setting"][:6]) for run in runs]
    data = [
        _names(
            run["data"]["name"],
            f"{run['images']['total']:,} images",
            f"fingerprint {run['data']['fingerprint'][:8]}",
            run["images_hash"][:6],
        )
        for run in runs
    ]
    settings, images = ([run[key] for run in runs] for key in ("setting", "images_hash"))
    labels = zip(runs, _shortest(models, settings, images, 1), _shortest(data, images, [""] * len(runs), 2), strict=True)
    return [{**run, "label": label, "data_label": of} for run, label, of in labels]


def _names(*parts: str) -> list[str]:
    """Return the names of growing length that the parts give."""
    return [", ".join(map(printable, parts[: number + 1])) for number in range(len(parts))]


def _shortest(names: list[list[str]], keys: list[str], groups: list[str], least: int) -> list[str]:
    """Return of each list of names the first of at least `least` parts that, within its group, only things with its key have."""
    owners: dict[tuple[str, str], set[str]] = {}
    for own, key, group in zip(names, keys, groups, strict=True):
        for name in own:
            owners.setdefault((group, name), set()).add(key)
    return [
        next((name for name in own[least - 1 :] if len(owners[group, name]) == 1), own[-1])
        for own, group in zip(names, groups, strict=True)
    ]
