"""The files that `evalkit tables` writes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from evalkit.analysis.evaluated import Evaluated
from evalkit.output.latex import latex
from evalkit.output.markdown import markdown

Plot = Callable[[Sequence[Evaluated], Path], None]


def write_all(evaluated: Sequence[Evaluated], out: Path, plot: Plot | None) -> None:
    """Write tables.md, tables.tex, summary.csv, comparisons.csv, maps.csv and, with `plot`, figures; make the folder if needed."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {"summary": [one.summary for one in evaluated], "comparisons": [one.comparisons for one in evaluated]}
    for name, parts in {**tables, "maps": [one.measures for one in evaluated]}.items():
        pd.concat(parts, ignore_index=True).to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    (out / "tables.md").write_text(markdown(evaluated), encoding="utf-8")
    (out / "tables.tex").write_text(latex(evaluated), encoding="utf-8")
    if plot is not None:
        plot(evaluated, out / "figures")
