"""The files that `evalkit tables` writes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from evalkit.analysis.evaluated import Evaluated
from evalkit.output.latex import latex
from evalkit.output.markdown import markdown

_RUN = ["run", "model"]
HEADERS = {
    "comparisons": [
        *_RUN, "first", "second", "select", "top_percent", "fill", "score", "metric", "test", "p", "p_holm", "difference", "low", "high",
    ],
    "maps": [*_RUN, "method", "select", "fill", "score", "metric", "lower_is_better", "n", "value", "low", "high"],
}  # fmt: skip
"""The columns of the files that may have no rows."""
Plot = Callable[[Sequence[Evaluated], Path], None]


def write_all(evaluated: Sequence[Evaluated], out: Path, plot: Plot | None) -> None:
    """Write tables.md, tables.tex, summary.csv, comparisons.csv, maps.csv and, with `plot`, figures; make the folder if needed."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {"summary": [one.summary for one in evaluated], "comparisons": [one.comparisons for one in evaluated]}
    for name, parts in {**tables, "maps": [one.measures for one in evaluated]}.items():
        table = pd.concat(parts, ignore_index=True)
        if table.empty:  # one method, or nothing measured: a header, so that the file is a table
            table = pd.DataFrame(columns=HEADERS[name])
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    (out / "tables.md").write_text(markdown(evaluated), encoding="utf-8")
    (out / "tables.tex").write_text(latex(evaluated), encoding="utf-8")
    if plot is not None:
        plot(evaluated, out / "figures")
