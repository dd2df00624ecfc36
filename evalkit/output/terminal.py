"""Tables for the terminal."""

from collections.abc import Iterator, Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.load import Run, at_point
from evalkit.analysis.metrics import lower_is_better
from evalkit.analysis.summary import PAPER_METRICS, scores_in
from evalkit.layer_names import AT, by_layer, method_of
from evalkit.output import map_tables
from evalkit.output.tables import LABELS, caption, comparison_table, describe_point, interval, main_points, paired, published_label, title
from evalkit.point import Point

LOCATED = ("pointing", "energy_inside", "best_iou")
"""Measures of the maps that are printed; the others are only in the files."""
LAYER_LETTERS = 24
"""Letters of a layer's name on a line, so that a long one does not make the columns of values narrower."""


def print_tables(console: Console, evaluated: Sequence[Evaluated]) -> None:
    """Print the six metrics, methods as rows, so that 80 columns suffice, and the measures against boxes."""
    for one in evaluated:
        run = one.run
        for point in main_points(run):
            console.print(f"\n{title(run)}; {describe_point(point)}", style="bold", markup=False, highlight=False)
            for caution in one.cautions:
                console.print(caution, style="bold yellow", markup=False, highlight=False)
            if _of_layers(run):
                console.print()
            for score in scores_in(run):
                console.print(*_fitting(console, one, point, score), sep="\n")
            console.print("\n".join(caption(run)), markup=False, highlight=False)
            _print_tests(console, one, point)
        if not one.measures.empty and one.measures.metric.isin(LOCATED).any():
            console.print(f"\n{title(run)}; maps against boxes", style="bold", markup=False, highlight=False)
            console.print(_location_table(one))


def _of_layers(run: Run) -> bool:
    return any(by_layer(run.methods))


def _grouped(run: Run) -> Iterator[tuple[str, str]]:
    """Yield each line's first cell and method: of several layers a line without a method names the layer of those below it."""
    if not _of_layers(run):
        yield from ((escape(method), method) for method in run.methods)
        return
    for layer, methods in by_layer(run.methods).items():
        yield (f"[bold]{escape(AT + layer)}[/]" if layer else "[bold]any layer[/]"), ""
        yield from ((f" {escape(method_of(method))}", method) for method in methods)


def _table(run: Run, first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=not _of_layers(run))
    width = max(LAYER_LETTERS, 1 + max(len(method_of(method)) for method in run.methods)) if _of_layers(run) else None
    table.add_column(first, overflow="fold", max_width=width)  # a name cut off may be that of another layer
    return table


def _location_table(evaluated: Evaluated) -> Table:
    run, measures = evaluated.run, evaluated.measures
    table = _table(run, "maps")
    for metric in LOCATED:
        table.add_column(f"{map_tables.MEASURE_LABELS[metric]} \N{UPWARDS ARROW}", justify="right")
    values = measures[measures.metric.isin(LOCATED)].set_index(["method", "metric"])
    for label, method in _grouped(run):
        rows = [values.loc[(method, metric)] if (method, metric) in values.index else None for metric in LOCATED]
        table.add_row(label, *("" if row is None else interval(row.value, row.low, row.high) for row in rows))
    return table


def _fitting(console: Console, evaluated: Evaluated, point: Point, score: str) -> list[Table | str]:
    """Return the table of one score, of several layers with fewer decimals in the intervals where it would be too wide."""
    table = _score_table(evaluated, point, score)
    if not _of_layers(evaluated.run):
        return [table]
    fits = console.measure(table, options=console.options.update(width=1000)).maximum <= console.width
    return [table if fits else _score_table(evaluated, point, score, decimals=1), ""]


def _score_table(evaluated: Evaluated, point: Point, score: str, decimals: int = 2) -> Table:
    run, summary = evaluated.run, evaluated.summary
    table = _table(run, score)
    for metric in PAPER_METRICS:
        arrow = "\N{DOWNWARDS ARROW}" if lower_is_better(metric, point.select) else "\N{UPWARDS ARROW}"
        table.add_column(f"{LABELS[metric]} {arrow}", justify="right")
    scored = at_point(summary[summary.score == score], point)
    for label, method in _grouped(run):
        estimates = scored[scored.method == method].set_index("metric")
        row = []
        for metric in PAPER_METRICS:
            if metric not in estimates.index:
                row.append("")
                continue
            estimate = estimates.loc[metric]
            reference = f"\n({published_label(run, point)} {estimate.reference:.2f})" if pd.notna(estimate.reference) else ""
            row.append(interval(estimate.value, estimate.low, estimate.high, decimals) + reference)
        table.add_row(label, *map(escape, row))
    return table


def _print_tests(console: Console, evaluated: Evaluated, point: Point) -> None:
    """Print the paired tests; where the names are of layers, or the lines too long, each pair stands on a line above its values."""
    tests = comparison_table(evaluated, point)
    if not tests:
        return
    console.print(f"{paired(evaluated)}:", style="italic", markup=False, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in tests[0]:
        table.add_column(name, no_wrap=True)
    for before, (pair, *rest) in zip([[""], *tests[1:]], tests[1:], strict=False):
        table.add_row(escape(pair) if pair != before[0] else "", *map(escape, rest))
    if not _of_layers(evaluated.run) and console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
        console.print(table)
        return
    for pair in dict.fromkeys(line[0] for line in tests[1:]):
        console.print(f"\n{pair}", style="bold", markup=False, highlight=False)
        table = Table(box=None, padding=(0, 1), show_header=False)
        for i in range(1, len(tests[0])):
            table.add_column(min_width=max(len(line[i]) for line in tests), overflow="fold")
        for _, metric, value, *ps in (line for line in tests[1:] if line[0] == pair):
            said = (f"{name} {p}" if p.startswith("<") else f"{name} = {p}" for name, p in zip(tests[0][3:], ps, strict=True))
            table.add_row(metric, *map(escape, (value, *said)))
        console.print(table)
