"""Tables for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from evalkit.analysis.evaluated import Evaluated
from evalkit.analysis.load import Run, at_point
from evalkit.analysis.metrics import lower_is_better
from evalkit.analysis.summary import PAPER_METRICS, scores_in
from evalkit.layer_names import AT, by_layer, method_of
from evalkit.output import map_tables
from evalkit.output.fitted import Lines, fits, fitted
from evalkit.output.tables import LABELS, caption, comparison_table, describe_point, interval, main_points, paired, published_label, title
from evalkit.point import Point

OF_MAPS = {
    "maps against boxes": ("pointing", "energy_inside", "best_iou"),
    "maps by single deletion, and under noise": ("single_deletion", "max_sensitivity", "stability"),
    "maps beside those of random weights": ("randomised_output", "randomised_all"),
}
"""Measures of the maps that are printed, where a run has them; the others are only in the files."""
AREAS = ("area", "srg")
"""Summaries of the curves over thresholds."""
LAYER_LETTERS = 24
"""Letters of a layer's name on a line, so that a long one does not make the columns of values narrower."""


def print_tables(console: Console, evaluated: Sequence[Evaluated]) -> None:
    """Print the six metrics, methods as rows, so that 80 columns suffice, the areas under curves, and measures of the maps."""
    for one in evaluated:
        run = one.run
        for point in main_points(run):
            _heading(console, f"{title(run)}; {describe_point(point)}")
            for caution in one.cautions:
                console.print(caution, style="bold yellow", markup=False, highlight=False)
            if _of_layers(run):
                console.print()
            for score in scores_in(run):
                _print_methods(console, run, _score_lines(console, one, point, score))
                console.print("\n" if _of_layers(run) else "", end="")
            console.print("\n".join(caption(run)), markup=False, highlight=False)
            _print_tests(console, one, point)
        areas = list(_area_tables(one))
        if areas:
            _heading(console, f"{title(run)}; areas under the curves over thresholds, and their symmetric relevance gain (SRG)")
        for lines in areas:
            _print_methods(console, run, lines)
        for what, metrics in OF_MAPS.items():
            columns = _columns(one.measures, metrics)
            if columns:
                _heading(console, f"{title(run)}; {what}")
                _print_methods(console, run, _measure_lines(one, "maps", columns))
        for sentence in map_tables.explained(run):
            console.print(sentence, markup=False, highlight=False)


def _heading(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False, highlight=False)


def _of_layers(run: Run) -> bool:
    return any(by_layer(run.methods))


def _grouped(run: Run) -> Iterator[tuple[str, str]]:
    """Yield each line's first cell and method: of several layers a line without a method names the layer of those below it."""
    if not _of_layers(run):
        yield from ((method, method) for method in run.methods)
        return
    for layer, methods in by_layer(run.methods).items():
        yield (f"{AT}{layer}" if layer else "any layer"), ""
        yield from ((f" {method_of(method)}", method) for method in methods)


def _look(run: Run) -> dict[str, Any]:
    return {"padding": 0, "pad_edge": True, "show_edge": not _of_layers(run)}


def _print_methods(console: Console, run: Run, lines: Lines) -> None:
    """Print a table of methods; the names of layers are folded, since one that is cut off may be that of another layer."""
    most = max(LAYER_LETTERS, 1 + max(len(method_of(method)) for method in run.methods)) if _of_layers(run) else None
    console.print(fitted(console, lines, most=most, **_look(run)))


def _columns(measures: pd.DataFrame, metrics: Sequence[str]) -> dict[str, pd.Series]:
    """Return for each of some measures that a run has its label with an arrow, and which lines of the measures are its."""
    found = [] if measures.empty else [metric for metric in metrics if measures[measures.metric == metric].value.notna().any()]
    return {f"{map_tables.MEASURE_LABELS[metric]} {_arrow(metric, None)}": measures.metric == metric for metric in found}


def _arrow(metric: str, select: str | None) -> str:
    return "\N{DOWNWARDS ARROW}" if lower_is_better(metric, select) else "\N{UPWARDS ARROW}"


def _measure_lines(evaluated: Evaluated, first: str, columns: dict[str, pd.Series]) -> Lines:
    """Return a table of measures, for each column those rows that are chosen."""
    chosen = [evaluated.measures[rows].set_index("method") for rows in columns.values()]
    lines = [[first, *columns]]
    for label, method in _grouped(evaluated.run):
        rows = [values.loc[method] if method in values.index else None for values in chosen]
        lines.append([label, *("" if row is None else interval(row.value, row.low, row.high) for row in rows)])
    return lines


def _area_tables(evaluated: Evaluated) -> Iterator[Lines]:
    """Yield a table for each score and fill whose curves have an area or a gain."""
    measures = evaluated.measures
    if measures.empty:
        return
    for (score, fill), found in measures[measures.metric.isin(AREAS)].groupby(["score", "fill"], sort=False):
        at = (measures.score == score) & (measures.fill == fill)
        columns = {}
        for metric, select in found[["metric", "select"]].drop_duplicates().itertuples(index=False, name=None):
            of = measures["select"].isna() if metric == "srg" else measures["select"] == select
            columns[f"{map_tables.area_name(metric, select)} {_arrow(metric, select)}"] = at & (measures.metric == metric) & of
        yield _measure_lines(evaluated, f"{score}, {fill}", columns)


def _score_lines(console: Console, evaluated: Evaluated, point: Point, score: str) -> Lines:
    """Return the table of one score, of several layers with fewer decimals in the intervals where it would be too wide."""
    lines = _of_score(evaluated, point, score)
    if _of_layers(evaluated.run) and not fits(console, [line for line in lines if any(line[1:])], **_look(evaluated.run)):
        return _of_score(evaluated, point, score, decimals=1)
    return lines


def _of_score(evaluated: Evaluated, point: Point, score: str, decimals: int = 2) -> Lines:
    run, summary = evaluated.run, evaluated.summary
    lines = [[score]]
    for metric in PAPER_METRICS:
        lines[0].append(f"{LABELS[metric]} {_arrow(metric, point.select)}")
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
        lines.append([label, *row])
    return lines


def _print_tests(console: Console, evaluated: Evaluated, point: Point) -> None:
    """Print the paired tests; where the names are of layers, or the lines too long, each pair stands on a line above its values."""
    tests = comparison_table(evaluated, point)
    if not tests:
        return
    console.print(f"{paired(evaluated)}:", style="italic", markup=False, highlight=False)
    once = [[pair if pair != before[0] else "", *rest] for before, (pair, *rest) in zip([[""], *tests], tests, strict=False)]
    if not _of_layers(evaluated.run) and fits(console, once, left=len(once[0])):
        console.print(fitted(console, once, left=len(once[0])))
        return
    names, lines = tests[0][3:], tests[1:]
    said = [
        (pair, [metric, value, *(f"{name} {p}" if p.startswith("<") else f"{name} = {p}" for name, p in zip(names, ps, strict=True))])
        for pair, metric, value, *ps in lines
    ]
    header, every = [""] * (len(tests[0]) - 1), [line for _, line in said]
    for pair in dict.fromkeys(pair for pair, _ in said):
        _heading(console, pair)
        of_pair = [header, *(line for other, line in said if other == pair)]
        console.print(fitted(console, of_pair, [header, *every], left=len(header), box=None, show_header=False, pad_edge=True))
