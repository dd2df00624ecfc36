"""The words of an audit: a verdict in a sentence, and the names of places and metrics."""

import math
from collections.abc import Sequence
from typing import Any

from evalkit.analysis.audit import FAILS, PASSES, point_of
from evalkit.output.map_tables import MEASURE_LABELS
from evalkit.output.tables import LABELS, describe_point, p_value

NAMES = {**MEASURE_LABELS, **LABELS, "area": "Area", "srg": "Symmetric relevance gain"}
OF_MAPS = "of the maps"
"""Names the place of a measure that no protocol point changes."""
FAITHFULNESS = ("adcc", "single_deletion")
"""Measures of maps that ask the network what it loses, as protocol points do."""


def sentence(row: Any) -> tuple[str, str]:
    """Return a verdict that fails as a clause, and the sentence after it: the worst control, by how much it is better, and both p."""
    several = f"; {row.better} of {row.tests} control versions are better than their methods" if row.better > 1 else ""
    return (
        f"{place(row)}, {label(row)} FAILS",
        f"{row.control} is better than {row.method} by {amount(row)} (p {_is(row.p_corrected)} corrected for {_tests(row.tests)}, "
        f"{_is(row.p)} uncorrected; n = {row.n:,}){several}.{_holds_zero(row)}",
    )


def _holds_zero(row: Any) -> str:
    """Return why an interval beside a significant p holds 0, or nothing where it does not."""
    if not row.low <= 0 <= row.high:
        return ""
    return (
        f" The interval holds 0 all the same: it is of the mean, and one image has {100 * row.largest:.0f} % of all differences' size; "
        "the test asks whether their signs are random."
    )


def short(row: Any) -> str:
    """Return a verdict for a table's cell."""
    return f"FAILS ({row.better} of {row.tests})" if row.verdict == FAILS else "pass" if row.verdict == PASSES else row.verdict


def undecided(rows: Sequence[Any]) -> str:
    """Return why some verdicts of one place are none: no choice of so few differences' signs is significant among so many tests."""
    number, most, tests = (max(getattr(row, name) for row in rows) for name in ("n", "most", "tests"))
    differ = "" if all(row.most == row.n for row in rows) else f", at most {most:,} images that differ"
    return f"cannot fail with n = {number:,}{differ} and {_tests(tests)}: no verdict in {', '.join(map(label, rows))}"


def describes_maps(row: Any) -> bool:
    """Return whether a metric describes the maps alone, without asking what the network loses."""
    return place(row) == OF_MAPS and row.metric not in FAITHFULNESS


def amount(row: Any) -> str:
    """Return an improvement with its unit and interval; positive where the control is better."""
    size = abs(row.improvement)
    decimals = 2 if size >= 0.1 or size == 0 else min(6, 1 - math.floor(math.log10(size)))  # two digits that are not 0
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


def _tests(number: int) -> str:
    return "1 test" if number == 1 else f"{number} tests"


def _unit(row: Any) -> str:
    in_points = NAMES[row.metric].endswith(" %") or (row.metric in ("score_change", "area", "srg") and row.score == "confidence")
    return " points" if in_points else ""


def _is(p: float) -> str:
    text = p_value(p)
    return f"= {text}" if text[0].isdigit() else text
