"""The files that `evalkit verdict` writes."""

from collections.abc import Callable
from pathlib import Path

from evalkit.analysis.verdict import Verdict
from evalkit.output.verdict_markdown import verdict_markdown
from evalkit.output.verdict_tables import csv_table


def write_verdict(verdict: Verdict, out: Path, plot: Callable[[Verdict, Path], None] | None) -> None:
    """Write verdict.md, verdict.csv and, with `plot`, figures; make the folder if needed."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdict.md").write_text(verdict_markdown(verdict), encoding="utf-8")
    csv_table(verdict).to_csv(out / "verdict.csv", index=False, float_format="%.6g")
    if plot is not None:
        plot(verdict, out / "figures")
