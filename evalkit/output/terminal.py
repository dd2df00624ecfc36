"""Tables for the terminal."""

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.load import at_point
from evalkit.analysis.metrics import lower_is_better
from evalkit.analysis.summary import PAPER_METRICS, scores_in
from evalkit.output import map_tables
from evalkit.output.tables import LABELS, PAIRED, caption, comparison_table, describe_point, interval, main_points, published_label, title
from evalkit.point import Point

LOCATED = ("pointing", "energy_inside", "best_iou")
"""Measures of the maps that are printed; the others are only in the files."""


def print_tables(console: Console, evaluated: Sequence[Evaluated]) -> None:
    """Print the six metrics, methods as rows, so that 80 columns suffice, and the measures against boxes."""
    for one in evaluated:
        run = one.run
        for point in main_points(run):
            console.print(f"\n{title(run)}; {describe_point(point)}", style="bold", markup=False, highlight=False)
            for caution in one.cautions:
                console.print(caution, style="bold yellow", markup=False, highlight=False)
            for score in scores_in(run):
                console.print(_score_table(one, point, score))
            console.print("\n".join(caption(run)), markup=False, highlight=False)
            tests = comparison_table(one, point)
            if tests:
                table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, title=PAIRED, title_justify="left", title_style="italic")
                for name in tests[0]:
                    table.add_column(name, no_wrap=name != "difference", overflow="fold")
                for before, (pair, *rest) in zip([[""], *tests[1:]], tests[1:], strict=False):
                    table.add_row(escape(pair) if pair != before[0] else "", *map(escape, rest))
                console.print(table)
        if not one.measures.empty and one.measures.metric.isin(LOCATED).any():
            console.print(f"\n{title(run)}; maps against boxes", style="bold", markup=False, highlight=False)
            console.print(_location_table(one))


def _location_table(evaluated: Evaluated) -> Table:
    run, measures = evaluated.run, evaluated.measures
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("maps", overflow="fold")
    for metric in LOCATED:
        table.add_column(f"{map_tables.MEASURE_LABELS[metric]} \N{UPWARDS ARROW}", justify="right")
    values = measures[measures.metric.isin(LOCATED)].set_index(["method", "metric"])
    for method in run.methods:
        rows = [values.loc[(method, metric)] if (method, metric) in values.index else None for metric in LOCATED]
        table.add_row(escape(method), *("" if row is None else interval(row.value, row.low, row.high) for row in rows))
    return table


def _score_table(evaluated: Evaluated, point: Point, score: str) -> Table:
    run, summary = evaluated.run, evaluated.summary
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column(score, overflow="fold")  # a name cut off may be that of another layer
    for metric in PAPER_METRICS:
        arrow = "\N{DOWNWARDS ARROW}" if lower_is_better(metric, point.select) else "\N{UPWARDS ARROW}"
        table.add_column(f"{LABELS[metric]} {arrow}", justify="right")
    scored = at_point(summary[summary.score == score], point)
    for method in run.methods:
        estimates = scored[scored.method == method].set_index("metric")
        row = []
        for metric in PAPER_METRICS:
            if metric not in estimates.index:
                row.append("")
                continue
            estimate = estimates.loc[metric]
            reference = f"\n({published_label(run, point)} {estimate.reference:.2f})" if pd.notna(estimate.reference) else ""
            row.append(interval(estimate.value, estimate.low, estimate.high) + reference)
        table.add_row(escape(method), *map(escape, row))
    return table
