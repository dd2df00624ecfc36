"""The files that `evalkit verdict` writes."""

from collections.abc import Callable
from pathlib import Path

from evalkit.analysis.verdict import Verdict
from evalkit.output.verdict_markdown import verdict_markdown
from evalkit.output.verdict_tables import csv_table

FIGURES = "figures"


def write_verdict(verdict: Verdict, out: Path, plot: Callable[[Verdict, Path], dict[int, list[tuple[str, str]]]] | None) -> list[str]:
    """Write verdict.csv, with `plot` figures, and verdict.md, which shows them; make the folder if needed. Return what was written."""
    out.mkdir(parents=True, exist_ok=True)
    csv_table(verdict).to_csv(out / "verdict.csv", index=False, float_format="%.6g")
    drawn = plot(verdict, out / FIGURES) if plot is not None else {}
    shown = {number: [(caption, f"{FIGURES}/{name}") for caption, name in of] for number, of in drawn.items()}
    (out / "verdict.md").write_text(verdict_markdown(verdict, shown), encoding="utf-8")
    return ["verdict.md", "verdict.csv", *([f"{FIGURES}/verdict-*"] if any(drawn.values()) else [])]
