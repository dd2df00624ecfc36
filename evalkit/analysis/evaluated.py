"""A run with everything that is derived of its rows, so that tables, figures and pages derive nothing again."""

from dataclasses import dataclass

import pandas as pd

from evalkit.analysis.load import Run
from evalkit.analysis.map_summary import summarise_maps
from evalkit.analysis.summary import compare, summarise


@dataclass(frozen=True)
class Evaluated:
    """One run and its numbers."""

    run: Run
    summary: pd.DataFrame
    """`summarise`: every metric with its interval."""
    comparisons: pd.DataFrame
    """`compare`: every paired test."""
    measures: pd.DataFrame
    """`summarise_maps`: what was measured of the maps."""


def evaluate_run(run: Run) -> Evaluated:
    """Derive all numbers of a run. Raises UserError where no image could be scored."""
    return Evaluated(run, summarise(run), compare(run), summarise_maps(run))
