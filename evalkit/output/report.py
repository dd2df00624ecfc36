"""The report: one HTML page of one or more runs."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.load import Run
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import verdict
from evalkit.errors import printable
from evalkit.files import publish
from evalkit.output import map_tables, plots
from evalkit.output.audit_section import audit_section
from evalkit.output.drawing import Drawer
from evalkit.output.pages import data_uri, page
from evalkit.output.tables import caption, cells, comparison_table, describe_point, main_points, paired, signs, title
from evalkit.output.verdict_section import verdict_section

MOST_EXCLUDED = 500
"""Largest number of excluded images that are listed."""
FIGURES = {
    "threshold": "Every metric against the share of the pixels",
    "drop": "Average drop of each method, with its interval",
    "distribution": "How the drop is spread over the images: the share of them whose drop is at most so large",
    "wins": "How often the row's method beats the column's",
}
"""Captions, by a word in the figure's name."""
WHY = {"error": "unreadable", "nonfinite": "map or score not finite"}


class Page:
    """The report of runs: its numbers are computed and its figures begun at once, and the galleries are added at the end."""

    def __init__(self, evaluated: Sequence[Evaluated], drawer: Drawer) -> None:
        runs = [one.run for one in evaluated]

        def address(figure: Figure) -> _Address:
            return _Address(drawer.draw(figure, ("svg",)))

        self._sections = [_section(one, address) for one in evaluated]
        self._verdict, self._audit = verdict_section(verdict(runs), address), audit_section(runs)

    def write(self, galleries: Sequence[Mapping[str, Any]], notes: Sequence[Sequence[str]], out: Path) -> None:
        """Write the report as one HTML file, with the gallery of each run (as report.js reads it) and notes on its gaps.

        Raises UserError if the file cannot be written.
        """
        sections = [{**section, "notes": its_notes} for section, its_notes in zip(self._sections, notes, strict=True)]
        html = page("report", {"galleries": list(galleries)}, sections=sections, verdict=self._verdict, audit=self._audit)
        publish(out, html.encode())


class _Address:
    """A figure as a data URI, once it is drawn: in an image, scripts and links in the SVG have no effect on the page."""

    def __init__(self, drawing: "Future[dict[str, bytes]]") -> None:
        self._drawing = drawing

    def __str__(self) -> str:
        return data_uri(self._drawing.result()["svg"], "image/svg+xml")


def _section(evaluated: Evaluated, address: Callable[[Figure], _Address]) -> dict[str, Any]:
    run = evaluated.run
    main, tested = main_points(run), paired(evaluated)
    tables = [
        {"point": describe_point(point), "cells": cells(evaluated, point), "tests": comparison_table(evaluated, point), "paired": tested}
        for point in (*main, *(point for point in run.points if point not in main))
    ]
    return {
        "title": title(run),
        "cautions": evaluated.cautions,
        "caption": caption(run),
        "main": tables[: len(main)],
        "others": tables[len(main) :],
        "figures": [{"name": _caption(name), "address": address(figure)} for name, figure in plots.figures(evaluated)],
        "protocols": map_tables.protocol_cells(evaluated),
        "agreement": map_tables.same_maps(run),
        "measures": map_tables.measure_cells(evaluated),
        "localisation": map_tables.notes(evaluated.run),
        "speed": _speed(run),
        "excluded": _excluded(run),
        "counts": run.counts(),
        "provenance": json.dumps(run.provenance, indent=2, ensure_ascii=False),
        "point": describe_point(main[0]),
        "score": main_score(run),
        "rule": signs(run) if run.raw else "",
    }


def _caption(name: str) -> str:
    """Return the caption of a figure by its name in `plots.figures`: what it shows, and for which points."""
    of, word = next((name[: name.index(word)].strip("-").replace("-", ", "), word) for word in FIGURES if word in name.split("-"))
    return FIGURES[word] + (f" ({of.replace('_', ' ')} fill)" if of else "")


def _speed(run: Run) -> list[list[str]]:
    """Return a table of the time per map and stage; work that methods share counts for the first of them."""
    stages: dict[str, float] = {}
    for shard in run.shards:
        for stage, seconds in shard.get("seconds_per_stage", {}).items():
            stages[stage] = stages.get(stage, 0) + float(seconds)
    total = sum(stages.values())
    lines = [[f"map: {method}", f"{seconds:.3g} s"] for method, seconds in run.seconds_per_map().items() if pd.notna(seconds)]
    lines += [[f"stage: {stage}", f"{100 * seconds / total:.1f} % of the time"] for stage, seconds in stages.items() if total]
    devices = sorted({f"{shard.get('device')}, batches of {shard.get('batch_size')}" for shard in run.shards})
    return [["", "time"], *lines, ["computed on", "; ".join(map(printable, devices))]]


def _excluded(run: Run) -> dict[str, Any]:
    """Return the images that are excluded from all numbers, with the reasons."""
    first, table = run.table.excluded, run.table
    failed: dict[int, dict[str, None]] = {}
    for item, method in np.argwhere(table.nonfinite):
        failed.setdefault(int(table.items["index"].iloc[item]), {})[table.methods[method]] = None
    lines = [["image", "why"]]
    for row in first.head(MOST_EXCLUDED).itertuples():
        reason = row.error if isinstance(row.error, str) else ", ".join(failed.get(row.index, []))
        lines.append([printable(str(row.image_id)), f"{WHY[row.status]}: {printable(reason)}" if reason else WHY[row.status]])
    return {"lines": lines, "count": len(first)}
