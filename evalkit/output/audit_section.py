"""The audit as a section of the report, of the runs that have control versions."""

from collections.abc import Iterable
from typing import Any

from evalkit.analysis.load import Run
from evalkit.control_names import versions
from evalkit.output.audit_tables import INTERVALS, METHOD, audit_run, headline, parts, verdict_cells
from evalkit.output.tables import title, warnings_of


def audit_section(runs: Iterable[Run]) -> dict[str, Any]:
    """Return what the page audit.html shows; `runs` of it is empty where no run has control versions of its methods."""
    audited = [audit_run(run) for run in runs if versions(run.methods) and run.counts()["scored"]]
    return {
        "method": METHOD,
        "intervals": INTERVALS,
        "runs": [
            {
                "title": title(one.run),
                "warnings": warnings_of(one.run),
                "headline": headline(one),
                "verdicts": verdict_cells(one),
                "parts": parts(one),
            }
            for one in audited
        ],
    }
