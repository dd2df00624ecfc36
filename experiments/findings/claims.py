"""Test the claims of the documents that no other experiment tests; one module for each claim.

    OMP_NUM_THREADS=1 python experiments/findings/claims.py DATA OUT

DATA holds the image sets and weights/ that each module names. OUT receives
the runs, claims.csv (columns: claim_rows.COLUMNS) and claims.md.
A claim that was measured before is kept in claims.csv when --claim names others.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import claim_gradients
import pandas as pd
import typer
from claim_rows import COLUMNS, Row

from evalkit.cli.script import run_script
from evalkit.errors import UserError, did_you_mean

MODULES: dict[str, Callable[[Path, Path], list[Row]]] = {
    "gradients": claim_gradients.measure,
}
"""Claims by name: functions of DATA and OUT that return rows."""


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the image sets and weights.")],
    out: Annotated[Path, typer.Argument(help="Folder for the runs and the table.")],
    chosen: Annotated[list[str], typer.Option("--claim", help="Claims to measure; all by default.")] = list(MODULES),  # noqa: B006 - typer copies it
) -> None:
    """Measure the chosen claims, and write claims.csv and claims.md."""
    for name in chosen:
        if name not in MODULES:
            raise UserError(f"no claim '{name}'{did_you_mean(name, MODULES)}")
    out.mkdir(parents=True, exist_ok=True)
    file = out / "claims.csv"
    for name in chosen:
        rows = pd.DataFrame(MODULES[name](data, out)).reindex(columns=COLUMNS).assign(module=name)
        before = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=rows.columns)
        kept = before[before.module != name]
        table = pd.concat([kept, rows], ignore_index=True) if len(kept) else rows
        table.to_csv(file, index=False, float_format="%.4g")
        print(f"{name}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    run_script(main)
