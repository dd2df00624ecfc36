"""Tables to the terminal and to files: markdown, CSV; LaTeX by `evalkit.latex`."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalkit import map_tables
from evalkit.latex import latex
from evalkit.map_summary import summarise_maps
from evalkit.runs import Point, Run, at_point
from evalkit.storage import writable_folder
from evalkit.summary import PAPER_METRICS, compare, lower_is_better, summarise, win_matrix
from evalkit.tables import LABELS, PAIRED, caption, cells, cited_as, comparison_table, describe_point, interval, main_points, title

LOCATED = ("pointing", "energy_inside", "best_iou")


def print_tables(console: Console, runs: Sequence[Run], summary: pd.DataFrame, comparisons: pd.DataFrame, measures: pd.DataFrame) -> None:
    """The six metrics to the terminal, methods as rows, so that 80 columns suffice, and what boxes tell; all others are in the files."""
    for run in runs:
        for point in main_points(run):
            console.print(f"\n{title(run)}; {describe_point(point)}", style="bold", markup=False, highlight=False)
            for score in ("confidence", "activation"):
                console.print(_score_table(summary, run, point, score))
            console.print("\n".join(caption(run)), markup=False, highlight=False)
            tests = comparison_table(comparisons, run, point)
            if tests:
                table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, title=PAIRED, title_justify="left", title_style="italic")
                for name in tests[0]:
                    table.add_column(name, no_wrap=name != "difference")
                for before, (pair, *rest) in zip([[""], *tests[1:]], tests[1:], strict=False):
                    table.add_row(escape(pair) if pair != before[0] else "", *map(escape, rest))
                console.print(table)
        if not measures.empty and measures[measures.run == str(run.path)].metric.isin(LOCATED).any():
            console.print(f"\n{title(run)}; maps against boxes", style="bold", markup=False, highlight=False)
            console.print(_location_table(measures[measures.run == str(run.path)], run))


def _location_table(measures: pd.DataFrame, run: Run) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("maps")
    for metric in LOCATED:
        table.add_column(f"{map_tables.MEASURE_LABELS[metric]} \N{UPWARDS ARROW}", justify="right")
    values = measures[measures.metric.isin(LOCATED)].set_index(["method", "metric"])
    for method in run.methods:
        found = [values.loc[(method, metric)] if (method, metric) in values.index else None for metric in LOCATED]
        table.add_row(escape(method), *("" if row is None else interval(row.value, row.low, row.high) for row in found))
    return table


def _score_table(summary: pd.DataFrame, run: Run, point: Point, score: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column(score)
    for metric in PAPER_METRICS:
        arrow = "\N{DOWNWARDS ARROW}" if lower_is_better(metric, point[0]) else "\N{UPWARDS ARROW}"
        table.add_column(f"{LABELS[metric]} {arrow}", justify="right")
    here = at_point(summary[(summary.run == str(run.path)) & (summary.score == score)], point)
    for method in run.methods:
        mine = here[here.method == method].set_index("metric")
        row = []
        for metric in PAPER_METRICS:
            if metric not in mine.index:
                row.append("")
                continue
            found = mine.loc[metric]
            reference = f"\n({cited_as(run, point)} {found.reference:.2f})" if pd.notna(found.reference) else ""
            row.append(interval(found.value, found.low, found.high) + reference)
        table.add_row(escape(method), *map(escape, row))
    return table


def markdown(runs: Sequence[Run], summary: pd.DataFrame, comparisons: pd.DataFrame, measures: pd.DataFrame) -> str:
    """All protocol points of all runs, with win matrices and paired tests, and what was measured of the maps."""
    parts = []
    for run in runs:
        parts.append(f"## {title(run)}\n\n" + "\n".join(f"- {line}" for line in caption(run)))
        protocols, measured = map_tables.protocol_cells(summary, run), map_tables.measure_cells(measures, run)
        if protocols:
            parts.append(f"### {map_tables.SAME_MAPS}\n\n" + pipes(protocols))
        if measured:
            parts.append(f"### Maps\n\n{map_tables.LOCALISATION}\n\n" + pipes(measured))
        for point in run.points:
            parts.append(f"### {describe_point(point)}\n\n" + pipes(cells(summary, run, point)))
            tests = comparison_table(comparisons, run, point)
            if tests:
                parts.append(f"{PAIRED}:\n\n" + pipes(tests))
            if len(run.methods) > 2:
                for score in ("confidence", "activation"):
                    shares = win_matrix(run, point, score)
                    lines = [["row beats column", *run.methods]]
                    lines += [[method, *("" if math.isnan(v) else f"{v:.2f}" for v in shares.loc[method])] for method in run.methods]
                    parts.append(f"Win % in {score}:\n\n" + pipes(lines))
    return inert("\n\n".join(parts)) + "\n"


def write_all(
    runs: Sequence[Run], out: Path, plot: Callable[[Sequence[Run], pd.DataFrame, Path], None] | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """tables.md, tables.tex, summary.csv, comparisons.csv, maps.csv and, by `plot`, the figures; returns what the three CSVs hold."""
    writable_folder(out, "--out")
    summary = pd.concat([summarise(run) for run in runs], ignore_index=True)
    comparisons = pd.concat([compare(run) for run in runs], ignore_index=True)
    measures = pd.concat([summarise_maps(run) for run in runs], ignore_index=True)
    summary.to_csv(out / "summary.csv", index=False, float_format="%.6g")
    comparisons.to_csv(out / "comparisons.csv", index=False, float_format="%.6g")
    measures.to_csv(out / "maps.csv", index=False, float_format="%.6g")
    (out / "tables.md").write_text(markdown(runs, summary, comparisons, measures), encoding="utf-8")
    (out / "tables.tex").write_text(latex(runs, summary), encoding="utf-8")
    if plot is not None:
        plot(runs, summary, out / "figures")
    return summary, comparisons, measures


def inert(text: str) -> str:
    """Markdown in which names from a run folder become neither tags nor links or images; no text of ours does."""
    return re.sub(r"<(?=[A-Za-z/!?])|(?<=\])\(", r"\\\g<0>", text)


def pipes(lines: list[list[str]]) -> str:
    """A markdown table of a header and lines, the first column to the left."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [escaped[0], rule, *escaped[1:]])
