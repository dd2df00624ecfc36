"""An audit's headline and tables, in the order in which a page shows them."""

from dataclasses import dataclass, field

import pandas as pd

from evalkit.analysis.audit import BLIND, CONTROL, FAILS, LEVEL, NO_VERDICT, PASSES, audit, point_of, verdicts
from evalkit.analysis.load import Run
from evalkit.analysis.significance import fewest_images
from evalkit.analysis.stats import ENOUGH
from evalkit.control_names import control_of
from evalkit.output.audit_words import amount, describes_maps, label, place, sentence, short
from evalkit.output.tables import p_value, scored_of

METHOD = (
    "A control version adds no information about the network to a method's map. A protocol point with a metric passes if no control "
    "version is significantly better than its method: one-sided sign-flip tests of the mean paired difference at "
    f"{100 * LEVEL:g} %, corrected by Holm within one family, which is all control versions of all methods at that point, for that "
    "score and metric. So each verdict is wrong about a sound metric in at most "
    f"{100 * LEVEL:g} % of runs; over several verdicts such errors add up. A pass says that nothing was found with this many images and "
    "these controls, not that the metric is sound. With k images that differ, the smallest p is 2^-k times the number of tests; where "
    f"that is above {100 * LEVEL:g} %, the combination cannot fail and has no verdict."
)
INTERVALS = (
    f"Intervals are 95 %, two-sided, of the mean difference, not corrected. Of fewer than {ENOUGH} images they are studentised and wide: "
    "in simulations (results/small_samples.md) they cover 97 to 99.7 % of differences with heavy tails. So one may hold 0 beside a "
    "significant p, where few images carry the mean: the test asks whether the differences' signs are random."
)
OF_MAPS_METHOD = (
    "These measures describe maps, and do not ask what the network loses. A smoothed map changes less under noise, a dilated one is "
    "simple or covers the box: that is expected, and no error of the measure. But it needs no information about the network, so it is "
    "a reason not to rank methods by the measure."
)
BLIND_METHOD = (
    "The same tests of maps that do not look at the network against each method; Holm's family is all of these at one point, score "
    "and metric."
)


@dataclass(frozen=True)
class Audited:
    """A run with its tests and verdicts."""

    run: Run
    tests: pd.DataFrame
    verdicts: pd.DataFrame
    blind: pd.DataFrame
    """Verdicts on maps that do not look at the network; empty where the run has none."""


@dataclass(frozen=True)
class Part:
    """A part of the page: a heading, and below it a paragraph, sentences (each with an opening clause) and a table, which may be empty."""

    heading: str
    paragraph: str = ""
    sentences: list[tuple[str, str]] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)


def audit_run(run: Run) -> Audited:
    """Audit a run. Raises UserError where it has no control versions."""
    tests = audit(run)
    return Audited(run, tests, verdicts(tests), verdicts(tests, BLIND))


def headline(one: Audited) -> str:
    """Return how many verdicts fail, which controls make them fail, and of how many images, in one paragraph."""
    failing, undecided = (one.verdicts[one.verdicts.verdict == kind] for kind in (FAILS, NO_VERDICT))
    number, methods = len(one.verdicts), one.tests[one.tests.kind == CONTROL].method.unique()
    words = (
        f"{len(failing)} of {number} combinations of protocol point, score and metric fail"
        if len(failing)
        else f"None of {number} combinations of protocol point, score and metric fails"
    )
    if len(undecided):
        words += (
            f", {number - len(failing) - len(undecided)} pass, and {len(undecided)} cannot fail and have no verdict (too few images differ)"
        )
    points = {point_of(row) for row in one.verdicts.itertuples()} - {None}
    failed = {point_of(row) for row in failing.itertuples()} - {None}
    where = f"; {len(failed)} of {len(points)} protocol points fail in at least one metric" if points else ""
    names = ", ".join(dict.fromkeys(control_of(name) for name in one.tests[one.tests.kind == CONTROL].control))
    return f"{words}{where}. {scored_of(one.run)}; methods: {', '.join(methods)}; controls: {names}."


def parts(one: Audited) -> list[Part]:
    """Return the page's parts: by control, what fails by how much, what passes, what cannot fail, and maps that ignore the network."""
    failing = [*one.verdicts[one.verdicts.verdict == FAILS].itertuples()]
    of_maps, asking = ([sentence(row) for row in failing if describes_maps(row) == alone] for alone in (True, False))
    found = [
        Part("By control", cells=control_cells(one)),
        Part("What fails", sentences=asking),
        Part("What fails among measures of the maps alone", OF_MAPS_METHOD, of_maps),
        Part("What passes, with the control version of the smallest p", cells=test_cells(one.verdicts[one.verdicts.verdict == PASSES])),
        Part("What cannot fail, and has no verdict", cells=undecided_cells(one)),
    ]
    found = [part for part in found if part.sentences or len(part.cells) > 1]
    if one.blind.empty:
        return found
    cells = test_cells(one.blind[one.blind.verdict == FAILS])
    heading = "Where a map that does not look at the network beats a method"
    if len(cells) > 1:
        return [*found, Part(heading, BLIND_METHOD, cells=cells)]
    return [*found, Part(heading, f"{BLIND_METHOD} None of them is significantly better than a method.")]


def verdict_cells(one: Audited) -> list[list[str]]:
    """Return a table of places (points, areas, maps) against metrics: `pass`, `no verdict`, or FAILS and by how many versions."""
    table = one.verdicts.assign(
        place=[place(row) for row in one.verdicts.itertuples()], label=[label(row) for row in one.verdicts.itertuples()]
    )
    columns = list(dict.fromkeys(table.label))
    lines = [["", *columns]]
    for name, rows in table.groupby("place", sort=False):
        of = {row.label: short(row) for row in rows.itertuples()}
        lines.append([str(name), *(of.get(column, "") for column in columns)])
    return lines


def control_cells(one: Audited) -> list[list[str]]:
    """Return a table of the controls: in how many verdicts each is better than each method, and where it is better than any."""
    tests = one.tests[one.tests.kind == CONTROL]
    tests = tests.assign(name=tests.control.map(control_of), place=[place(row) for row in tests.itertuples()])
    methods = list(dict.fromkeys(tests.method))
    decided = (one.verdicts.verdict != NO_VERDICT).sum()
    lines = [["control", *(f"better than {method} in" for method in methods), "where"]]
    for name, rows in tests.groupby("name", sort=False):
        won = rows[rows.p_corrected <= LEVEL]
        counts = [f"{(won.method == method).sum()} of {decided}" for method in methods]
        lines.append([str(name), *counts, "; ".join(dict.fromkeys(won.place)) or "nowhere"])
    return lines


def undecided_cells(one: Audited) -> list[list[str]]:
    """Return a table of what cannot fail, with the images that differ and those that would be needed."""
    lines = [["where", "metric", "images that differ, at most", "n", "tests", "images that must differ"]]
    for row in one.verdicts[one.verdicts.verdict == NO_VERDICT].itertuples():
        counts = f"{row.most:,}", f"{row.n:,}", f"{row.tests}", f"{fewest_images(row.tests, LEVEL, sides=1)}"
        lines.append([place(row), label(row), *counts])
    return lines


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
                *map(p_value, (row.p_corrected, row.p)),
                f"{row.n:,}",
            ]
            for row in rows.itertuples()
        ),
    ]
