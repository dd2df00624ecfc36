"""Test the claims of the documents that no other experiment tests; one module for each claim.

    OMP_NUM_THREADS=1 PYTHONPATH=DATA/weights python experiments/findings/claims.py DATA OUT [--claim NAME]

DATA holds the image sets and weights/ that each module names. OUT receives the runs, claims.csv (columns: claim_rows.COLUMNS and the
module's name) and claims.md, which is written from claims.csv. A claim that was measured before is kept in claims.csv when --claim
names others; --claim none measures nothing and writes claims.md again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import claim_absent
import claim_adversarial
import claim_bias
import claim_cost
import claim_discrimination
import claim_gradients
import claim_impressions
import claim_instances
import claim_occluded
import claim_protocols
import claim_regions
import claim_units
import claim_variants
import pandas as pd
import typer
from claim_report import markdown, read
from claim_rows import COLUMNS, Row

from evalkit.cli.script import run_script
from evalkit.errors import UserError, did_you_mean

MODULES: dict[str, Callable[[Path, Path], list[Row]]] = {
    "gradients": claim_gradients.measure,
    "instances": claim_instances.measure,
    "regions": claim_regions.measure,
    "protocols": claim_protocols.measure,
    "discrimination": claim_discrimination.measure,
    "bias": claim_bias.measure,
    "softmax": claim_variants.softmax,
    "ablated_input": claim_variants.ablated_input,
    "cost": claim_cost.measure,
    "impressions": claim_impressions.measure,
    "occluded": claim_occluded.measure,
    "adversarial": claim_adversarial.measure,
    "units": claim_units.measure,
    "absent": claim_absent.measure,
}
"""Claims by name: functions of DATA and OUT that return rows."""


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the image sets and weights.")],
    out: Annotated[Path, typer.Argument(help="Folder for the runs and the table.")],
    chosen: Annotated[list[str], typer.Option("--claim", help="Claims to measure, or none; all by default.")] = list(MODULES),  # noqa: B006 - typer copies it
) -> None:
    """Measure the chosen claims, and write claims.csv and claims.md."""
    names = [name for name in chosen if name != "none"]
    for name in names:
        if name not in MODULES:
            raise UserError(f"no claim '{name}'{did_you_mean(name, MODULES)}")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        rows = MODULES[name](data, out)
        write(out, name, rows)
        print(f"{name}: {len(rows)} rows", flush=True)
    write(out)


def write(out: Path, name: str = "", rows: list[Row] | None = None) -> None:
    """Put the rows of a claim in the place of its earlier ones, in the order of MODULES, and write both files."""
    file = out / "claims.csv"
    new = pd.DataFrame(rows or [], columns=list(COLUMNS)).assign(module=name)
    before = read(file) if file.exists() else new.iloc[:0]
    table = pd.concat([part for part in (before[before.module != name], new) if len(part)] or [new], ignore_index=True)
    order = {module: position for position, module in enumerate(MODULES)}
    table = table.sort_values("module", key=lambda names: names.map(order), kind="stable")
    table.to_csv(file, index=False, float_format="%.4g")
    (out / "claims.md").write_text(markdown(read(file)), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
