"""The leaderboard: one HTML page over any number of runs and of their summaries."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from evalkit.analysis.metrics import lower_is_better
from evalkit.errors import UserError, printable
from evalkit.files import Place, place, publish
from evalkit.output.leaderboard_check import read_summary
from evalkit.output.leaderboard_facts import is_drawn, share
from evalkit.output.leaderboard_pairs import same_rows
from evalkit.output.leaderboard_summary import POINT, Summary, run_folders, summarised
from evalkit.output.pages import page
from evalkit.output.tables import LABELS, describe_point
from evalkit.point import Point

ROW = ("method", "control", "against", "n", "value", "low", "high", "floor", "gain", "gain_low", "gain_high")
"""The columns of a row in the page's data, behind the numbers of its point, score and metric."""
SHORT = 6
"""Least number of characters of an identity that tell runs apart whose methods have the same name."""
NAMED = ", named shards"
"""Added to the badge of a record whose images were named by whoever verified, not drawn: of other images it says nothing."""
DIGITS = 6
"""Significant digits of numbers in the page's data, as in summary.csv."""


def write_leaderboard(paths: Sequence[str | Place], out: Path) -> int:
    """Write the page of `leaderboard_page` to a file; return the number of runs. Raises UserError as that, and if it cannot be written."""
    text, number = leaderboard_page(paths, out)
    publish(out, text.encode())
    return number


def leaderboard_page(paths: Sequence[str | Place], out: Path | None = None) -> tuple[str, int]:
    """Return the page of run folders, folders of run folders and summaries (*.parquet), and the number of its runs.

    A run that is named twice, as a folder and as its summary, stands there once, with report and verification of either. `out` is where
    the page will lie: a run folder's own report is linked as seen from there. Raises UserError: a path is neither, a run is not finished,
    a summary does not pass the check, or two are of one run and have other numbers.
    """
    known: dict[str, tuple[Place, Summary]] = {}
    entries: dict[str, dict[str, Any]] = {}
    for path in map(place, paths):
        is_summary = path.suffix == ".parquet" and not path.is_dir()
        for one in [path] if is_summary else run_folders([path]):
            summary = read_summary(one) if is_summary else summarised(one)
            link = summary.facts["report"] if is_summary else _beside(one, out)
            identity = summary.facts["identity"]
            first, before = known.setdefault(identity, (one, summary))
            if not same_rows(before, summary):
                raise UserError(f"{first} and {one} are of the same run (identity {identity}), and have other numbers: name one of the two")
            entries[identity] = _either(entries.get(identity), _entry(summary, link))
    runs = _labelled(list(entries.values()))
    return page("leaderboard", {"runs": runs, "metrics": LABELS, "row": ROW}, before=["bars"], runs=runs), len(runs)


def _beside(folder: Place, out: Path | None) -> str | None:
    """Return the address of a run folder's own report as seen from the page; None where it has none on this disk."""
    report = folder / "report.html"
    if out is None or not isinstance(folder, Path) or not report.is_file():
        return None
    return quote(os.path.relpath(str(report.resolve()), str(out.resolve().parent)))


def _either(first: dict[str, Any] | None, second: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of a run that was named twice: the report of either, and the verification with differences, else of most images."""
    if first is None:
        return second
    records = [one["verified"] for one in (first, second) if one["verified"]]
    found = min(records, key=lambda record: (record["badge"] is not None, -record["share"], record["says"]), default=None)
    return {**first, "report": first["report"] or second["report"], "verified": found}


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
    whole = record["images"] == record["of"]
    named = not whole and not is_drawn(record)
    part = "all" if whole else f"{100 * share(record):.2g} %"
    what = f"{part} of the images recomputed ({record['images']:,} of {record['of']:,}{', in named shards' if named else ''})"
    facts = {"share": share(record), "named": named}
    if record["differences"]:
        says = f"Not verified: on {record['date'][:10]} with {what}, {record['differences']:,} differences."
        return {**facts, "badge": None, "says": says}
    badge = f"verified, {record['date'][:10]}, {part}{NAMED if named else ''}"
    return {**facts, "badge": badge, "says": f"Verified on {record['date'][:10]}: {what}, no difference."}


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
    short = next(length for length in range(SHORT, 17) if len({run["identity"][:length] for run in runs}) == len(runs))
    return [{**run, "label": label, "data_label": of, "short": run["identity"][:short]} for run, label, of in labels]


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
