"""A run with all numbers derived from its rows, computed once for tables, figures and pages."""

from dataclasses import dataclass

import pandas as pd

from evalkit.analysis.cautions import cautions
from evalkit.analysis.load import Run
from evalkit.analysis.map_summary import summarise_maps
from evalkit.analysis.summary import compare, summarise


@dataclass(frozen=True)
class Evaluated:
    """One run and its numbers."""

    run: Run
    summary: pd.DataFrame
    """Every metric with its interval, from `summarise`."""
    comparisons: pd.DataFrame
    """Every paired test, from `compare`."""
    measures: pd.DataFrame
    """Measures of the maps, from `summarise_maps`."""
    cautions: list[str]
    """Sentences that stand before the tables, from `cautions`."""


def evaluate_run(run: Run) -> Evaluated:
    """Derive all numbers of a run. Raises UserError if no image could be scored."""
    return Evaluated(run, summarise(run), compare(run), summarise_maps(run), cautions(run))
