"""The Markdown of claims.py: all verdicts in one table, then a section with the rows of each claim."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from claim_rows import CANNOT_BE_TOLD, COLUMNS, DOES_NOT_HOLD, HOLDS, together

RULE = (
    "A row that tests a claim says what the claim expects of its value. The row **holds** if the whole 95 % interval is where it is "
    "expected, **does not hold** if the whole interval is on the other side, and **cannot be told** otherwise. A claim holds if all of its "
    "tested rows do, and does not hold if one of them does not; the table above shows the first row that decides. Rows without an "
    "expectation describe. Intervals and p are those of a bootstrap that draws images, and differences are paired, except where the text "
    "says otherwise."
)
LIMITS = (
    "**What this does not show.** What the documents' own networks do: their weights and images are not here, and each section names the "
    "network and the images that stand for them. p values are not corrected for the number of comparisons. A claim that cannot be told may "
    "hold on more images."
)
MADE = (
    "`{command}` measures all claims, `--claim NAME` one of them. `claims.csv` has all rows. Images and weights are not part of this "
    "repository. Two cores of a shared machine, CPU, one thread for each claim."
)
COMMAND = "python experiments/findings/claims.py DATA OUT"
LONG = 40
"""Rows of a claim above which the page shows only those that test it."""
TEXT = ("claim", "source", "network", "data", "measure", "expects", "verdict", "seeds", "how", "module")
"""The columns that hold text, which may be empty."""


def read(file: Path) -> pd.DataFrame:
    """Return the rows of claims.csv; columns that an earlier version did not write are empty."""
    table = pd.read_csv(file, dtype=dict.fromkeys(TEXT, str))
    table = table.reindex(columns=[*COLUMNS, "module"])
    return table.assign(**{name: table[name].astype(object).fillna("") for name in TEXT})


def markdown(table: pd.DataFrame) -> str:
    """Return the tables of all rows (columns: `claim_rows.COLUMNS` and module)."""
    by_claim = list(table.groupby(["claim", "source"], sort=False))
    head = ["the claim", "source", "main number", "verdict"]
    overview = _pipes(head, [[claim, source, _main(rows), _verdict(rows)] for (claim, source), rows in by_claim])
    parts = ["# Claims of the documents, tested", overview, RULE, LIMITS]
    for (claim, source), rows in by_claim:
        parts += [f"## {claim.rstrip('.')}", f"{source}. {_said(rows)}", *_sections(rows)]
    return "\n\n".join([*parts, "## How it was made", MADE.format(command=COMMAND)]) + "\n"


def _main(rows: pd.DataFrame) -> str:
    """Return the first row with the verdict of the whole claim; where no row tests it, the first one."""
    row = rows[rows.verdict == together([one for one in rows.verdict if one])].iloc[0]
    measure, value, *_ = _line(row)
    return f"{measure}: {value} ({row.network}, n = {row.n})"


def _said(rows: pd.DataFrame) -> str:
    modules = ", ".join(f"`--claim {name}`" for name in rows.module.unique())
    return f"Verdict: **{_verdict(rows)}** (measured by {modules})."


def _verdict(rows: pd.DataFrame) -> str:
    """Return the verdict of a claim and, where its rows disagree, how many say what."""
    given = [one for one in rows.verdict if one]
    counted = Counter(given)
    whole = together(given)
    if len(counted) < 2:
        return whole or "described only"
    each = ", ".join(f"{says} on {counted[says]}" for says in (HOLDS, CANNOT_BE_TOLD, DOES_NOT_HOLD) if says in counted)
    return f"{whole} ({each} of {len(given)} rows)"


def _sections(rows: pd.DataFrame) -> list[str]:
    """Return a table for each network and set of images, with how it was measured."""
    parts: list[str] = []
    how = ""
    shown = rows if len(rows) <= LONG else rows[rows.expects != ""]
    for (network, data, seeds), part in shown.groupby(["network", "data", "seeds"], sort=False):
        if part.how.iloc[0] and part.how.iloc[0] != how:
            how = part.how.iloc[0]
            parts.append(how)
        drawn = f"; seeds {seeds}" if seeds else ""
        parts.append(f"{network} on {data}{drawn}:")
        parts.append(_pipes(["measure", "value", "p", "images", "n", "expected", "verdict"], [_line(row) for _, row in part.iterrows()]))
    if len(shown) < len(rows):
        parts.append(f"{len(rows) - len(shown)} more rows describe this, in `claims.csv`.")
    return parts


def _line(row: "pd.Series[object]") -> list[str]:
    value, low, high = (_number(float(str(row[name]))) for name in ("value", "low", "high"))
    interval = "" if pd.isna(row["low"]) else f" [{low}, {high}]"
    p = "" if pd.isna(row["p"]) else "< 0.001" if float(str(row["p"])) < 0.001 else f"{float(str(row['p'])):.3f}"
    return [str(row["measure"]), value + interval, p, str(row["images"]), str(row["n"]), str(row["expects"]), str(row["verdict"])]


def _number(value: float) -> str:
    """Return a number with three significant digits, but all digits before the point."""
    if np.isnan(value):
        return "undefined"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def _pipes(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)
