"""The audit of protocol points and metrics in words: a page (Markdown), lines for the terminal, and audit.csv."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from evalkit.analysis.audit import BLIND, CONTROL, LEVEL, audit, point_of, verdicts
from evalkit.analysis.cautions import cautions
from evalkit.analysis.load import Run
from evalkit.control_names import control_of
from evalkit.output.map_tables import MEASURE_LABELS
from evalkit.output.markdown import inert, pipes
from evalkit.output.tables import LABELS, UNDEFINED, describe_point, scored_of, title

METHOD = (
    "A control version adds no information about the network to a method's map. A protocol point with a metric passes if no control "
    "version is significantly better than its method: one-sided sign-flip tests of the mean paired difference at "
    f"{100 * LEVEL:g} %, corrected by Holm within one family, which is all control versions of all methods at that point, for that "
    "score and metric. So each verdict is wrong about a sound metric in at most "
    f"{100 * LEVEL:g} % of runs; over several verdicts such errors add up. A pass says that nothing was found with this many images and "
    "these controls, not that the metric is sound. Intervals are 95 %, not corrected."
)
BLIND_METHOD = (
    "The same tests of maps that do not look at the network against each method; Holm's family is all of these at one point, score "
    "and metric."
)
NAMES = {**MEASURE_LABELS, **LABELS, "area": "Area", "srg": "Symmetric relevance gain"}
OF_MAPS = "of the maps"
"""Names the place of a measure that no protocol point changes."""


@dataclass(frozen=True)
class Audited:
    """A run with its tests and verdicts."""

    run: Run
    tests: pd.DataFrame
    verdicts: pd.DataFrame
    blind: pd.DataFrame
    """Verdicts on maps that do not look at the network; empty where the run has none."""


def audit_run(run: Run) -> Audited:
    """Audit a run. Raises UserError where it has no control versions."""
    tests = audit(run)
    return Audited(run, tests, verdicts(tests), verdicts(tests, BLIND))


def write_audit(audited: Sequence[Audited], folder: Path) -> None:
    """Write audit.md and audit.csv, which holds every test; make the folder if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.md").write_text(markdown(audited), encoding="utf-8")
    pd.concat([one.tests for one in audited], ignore_index=True).to_csv(folder / "audit.csv", index=False, float_format="%.6g")


def markdown(audited: Sequence[Audited]) -> str:
    """Return the page: verdicts, what fails by how much, what passes, and maps that do not look at the network."""
    parts = ["# Audit of protocol points and metrics", METHOD]
    for one in audited:
        parts += [f"## {title(one.run)}", *(f"> **{caution}**" for caution in cautions(one.run)), headline(one), pipes(verdict_cells(one))]
        parts.append("### By control\n\n" + pipes(control_cells(one)))
        failing = [f"- {sentence(row)}" for row in one.verdicts.itertuples() if row.fails]
        parts += ["### What fails\n\n" + "\n".join(failing)] if failing else []
        if not one.verdicts.fails.all():
            nearest = pipes(test_cells(one.verdicts[~one.verdicts.fails]))
            parts.append(f"### What passes, with the control version of the smallest p\n\n{nearest}")
        if not one.blind.empty:
            beaten = one.blind[one.blind.fails]
            found = "None of them is significantly better than a method." if beaten.empty else pipes(test_cells(beaten))
            parts.append(f"### Where a map that does not look at the network beats a method\n\n{BLIND_METHOD}\n\n{found}")
    return inert("\n\n".join(parts)) + "\n"


def headline(one: Audited) -> str:
    """Return how many verdicts fail, which controls make them fail, and of how many images, in one paragraph."""
    failing = one.verdicts[one.verdicts.fails]
    number, methods = len(one.verdicts), one.tests[one.tests.kind == CONTROL].method.unique()
    words = (
        f"{len(failing)} of {number} combinations of protocol point, score and metric fail"
        if len(failing)
        else f"None of {number} combinations of protocol point, score and metric fails"
    )
    points = {point_of(row) for row in one.verdicts.itertuples()} - {None}
    failed = {point_of(row) for row in failing.itertuples()} - {None}
    where = f"; {len(failed)} of {len(points)} protocol points fail in at least one metric" if points else ""
    names = ", ".join(dict.fromkeys(control_of(name) for name in one.tests[one.tests.kind == CONTROL].control))
    return f"{words}{where}. {scored_of(one.run)}; methods: {', '.join(methods)}; controls: {names}."


def verdict_cells(one: Audited) -> list[list[str]]:
    """Return a table of places (points, areas, maps) against metrics: `pass`, or FAILS with the number of better control versions."""
    table = one.verdicts.assign(
        place=[place(row) for row in one.verdicts.itertuples()], label=[label(row) for row in one.verdicts.itertuples()]
    )
    columns = list(dict.fromkeys(table.label))
    lines = [["", *columns]]
    for name, rows in table.groupby("place", sort=False):
        of = {row.label: f"FAILS ({row.better} of {row.tests})" if row.fails else "pass" for row in rows.itertuples()}
        lines.append([str(name), *(of.get(column, "") for column in columns)])
    return lines


def control_cells(one: Audited) -> list[list[str]]:
    """Return a table of the controls: in how many verdicts each is better than each method, and where it is better than any."""
    tests = one.tests[one.tests.kind == CONTROL]
    tests = tests.assign(name=tests.control.map(control_of), place=[place(row) for row in tests.itertuples()])
    methods = list(dict.fromkeys(tests.method))
    lines = [["control", *(f"better than {method} in" for method in methods), "where"]]
    for name, rows in tests.groupby("name", sort=False):
        won = rows[rows.p_corrected <= LEVEL]
        counts = [f"{(won.method == method).sum()} of {len(one.verdicts)}" for method in methods]
        lines.append([str(name), *counts, "; ".join(dict.fromkeys(won.place)) or "nowhere"])
    return lines


def sentence(row: Any) -> str:
    """Return a verdict that fails in one sentence, which names the worst control, by how much it is better, and both p."""
    several = f"; {row.better} of {row.tests} control versions are better than their methods" if row.better > 1 else ""
    return (
        f"**{place(row)}, {label(row)} FAILS**: {row.control} is better than {row.method} by {amount(row)} "
        f"(p {_p(row.p_corrected)} corrected for {row.tests} tests, {_p(row.p)} uncorrected; n = {row.n:,}){several}."
    )


def test_cells(rows: pd.DataFrame) -> list[list[str]]:
    """Return a table of verdicts, each with the test that decides it."""
    header = ["where", "metric", "control", "less the method", "difference (positive: the control is better)", "p corrected", "p", "n"]
    return [
        header,
        *(
            [
                place(row),
                label(row),
                row.control,
                row.method,
                amount(row),
                *(_p(p).removeprefix("= ") for p in (row.p_corrected, row.p)),
                f"{row.n:,}",
            ]
            for row in rows.itertuples()
        ),
    ]


def amount(row: Any) -> str:
    """Return an improvement with its unit and interval; positive where the control is better."""
    decimals = 3 if abs(row.improvement) < 0.1 else 2
    bounds = f" [{row.low:z.{decimals}f}, {row.high:z.{decimals}f}]" if math.isfinite(row.low) else ""
    return f"{row.improvement:z.{decimals}f}{_unit(row)}{bounds}"


def place(row: Any) -> str:
    """Return where a metric is measured: a protocol point in words, a curve, or the maps themselves."""
    point = point_of(row)
    if point is not None:
        return describe_point(point)
    if row.metric == "area":
        return f"{'insertion' if row.select == 'keep_top' else 'deletion'}, {row.fill} fill"
    if row.metric == "srg":
        return f"both orders, {row.fill} fill"
    return OF_MAPS


def label(row: Any) -> str:
    """Return the name of a metric with its score."""
    name = NAMES[row.metric].removesuffix(" %")
    name = name if name.startswith("ADCC") else name[0].lower() + name[1:]
    return f"{name} in {row.score}" if isinstance(row.score, str) and row.metric != "adcc" else name


def _unit(row: Any) -> str:
    in_points = NAMES[row.metric].endswith(" %") or (row.metric in ("score_change", "area", "srg") and row.score == "confidence")
    return " points" if in_points else ""


def _p(p: float) -> str:
    return UNDEFINED if math.isnan(p) else "< 0.001" if p < 0.001 else f"= {p:.3f}"


def terminal_lines(one: Audited) -> list[str]:
    """Return the verdicts of a run for the terminal: the headline, a line for each place, the first failure of each, and blind maps."""
    lines = [title(one.run), *cautions(one.run), headline(one)]
    for where, rows in one.verdicts.assign(place=[place(row) for row in one.verdicts.itertuples()]).groupby("place", sort=False):
        failing = list(rows[rows.fails].itertuples())
        metrics = f" in {len(failing)} of {len(rows)}: {', '.join(map(label, failing))}"
        lines.append(f"  {where}: {f'FAILS{metrics}' if failing else f'passes in all {len(rows)} metrics'}")
        lines += [f"    {sentence(failing[0]).replace('**', '')}"] if failing else []
    blind = one.blind[one.blind.fails] if not one.blind.empty else one.blind
    beaten = sorted({(row.control, row.method) for row in blind.itertuples()})
    lines += [
        f"  {control}, which does not look at the network, beats {', '.join(method for _, method in pairs)} somewhere"
        for control, pairs in groupby(beaten, key=lambda pair: pair[0])
    ]
    return lines
