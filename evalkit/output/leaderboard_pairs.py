"""Two summaries beside each other: whether they are of one run, and whether methods of one name have the same numbers."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from evalkit.errors import printable
from evalkit.output.leaderboard_summary import POINT, Summary

OF_OTHERS = ("win", "best_of_all")
"""Metrics whose values depend on the run's other methods."""
COUNTED = ("increase",)
"""Metrics that count images, which one score that is rounded otherwise can change."""
NUMBERS = ("value", "low", "high")


def of_one_run(first: Summary, second: Summary) -> bool:
    """Return whether two summaries say that they are of the same run."""
    return bool(first.facts["identity"] == second.facts["identity"])


def same_rows(first: Summary, second: Summary) -> bool:
    """Return whether two summaries of one run are also of the same rows, and have the same numbers to six digits."""
    return first.facts["rows_digest"] == second.facts["rows_digest"] and not (
        differing(first, second, exact=True) or differing(second, first, exact=True)
    )


def in_one_column(first: Summary, second: Summary) -> bool:
    """Return whether the methods of two summaries stand in one column: the same setting, with as many images scored."""
    column, other = ((one.facts["setting"], one.facts["images"]["scored"]) for one in (first, second))
    return column == other


def differing(first: Summary, second: Summary, *, exact: bool = False) -> str | None:
    """Return the first method of one name whose numbers differ, in words; None where there is none.

    Other machines round otherwise: without `exact`, values and ends of intervals may differ by 2 % and 0.1, and by two images where
    images are counted. Metrics that depend on the other methods of a run are compared with `exact` only.
    """
    others = dict(_keyed(second))
    for key, row in _keyed(first):
        other = others.get(key)
        if other is None:
            if exact:
                return in_words(row)
            continue
        if not exact and row["metric"] in OF_OTHERS:
            continue
        allowed = 200 / max(row["n"], 1) if row["metric"] in COUNTED else 0.1
        relative, absolute = (1e-6, 1e-9) if exact else (0.02, allowed)
        for name in NUMBERS:
            if not _near(row[name], other[name], relative, absolute):
                return f"{in_words(row)}: {name} {_number(row[name])} and {_number(other[name])}"
    return None


def _keyed(summary: Summary) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for row in summary.table.to_pylist():
        yield tuple(row[name] for name in (*POINT, "score", "metric", "method")), row


def _near(one: float | None, other: float | None, relative: float, absolute: float) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=relative, abs_tol=absolute)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def in_words(row: Mapping[str, Any]) -> str:
    """Return what a row is of: `grad_cam, keep_top 20 % black, average_drop of the confidence`."""
    top = "" if row["top_percent"] is None else f" {row['top_percent']:g} %"
    return printable(f"{row['method']}, {row['select']}{top} {row['fill']}, {row['metric']} of the {row['score']}")
