"""Compute images of a finished run again with other kernels and batches, and record how far its numbers move.

    python experiments/correctness/verify_noise.py RUN... --sample 8 --allow archs --out results/verify_noise.csv

oneDNN is switched off, so that torch's own convolutions and products round in another order, and batches hold three images.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from evalkit.cli.script import run_script
from evalkit.runs.folder import RunFolder
from evalkit.verify.outcome import Outcome
from evalkit.verify.reopen import reopened
from evalkit.verify.sample import drawn
from evalkit.verify.tolerances import tolerance
from evalkit.verify.verify import open_run, verify
from evalkit.verify.words import headline


def deviations(run: RunFolder, images: int, allow: list[str]) -> Outcome:
    """Verify a run with oneDNN switched off."""
    opened = open_run(reopened(run, ["batch_size=3", "device=cpu"], allow))
    with torch.backends.mkldnn.flags(enabled=False):
        return verify(run, opened, drawn(run.images, min(images, run.images), seed=0))


def main(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs.")],
    out: Annotated[Path, typer.Option(help="The table.")] = Path("results/verify_noise.csv"),
    sample: Annotated[int, typer.Option(min=1, help="Images of each run.")] = 8,
    allow: Annotated[list[str] | None, typer.Option(help="Modules of the runs' own code.")] = None,
) -> None:
    """Measure every run, and write the table."""
    rows = []
    for path in runs:
        run = RunFolder(path)
        outcome = deviations(run, sample, allow or [])
        found = outcome.comparison
        print(headline(outcome), flush=True)
        for column, largest in found.largest.items():
            of = {"network": run.provenance["identity"]["model"]["name"], "images": outcome.recomputed, "rows": found.rows}
            ties = {"near_ties": found.near_ties, "swapped": found.swapped, "largest_when_swapped": found.largest_swapped.get(column)}
            allowed = tolerance(column)
            rows.append(
                {
                    **of,
                    **ties,
                    "column": column,
                    "largest": largest,
                    "share_of_tolerance": found.shares[column],
                    "absolute": allowed.absolute,
                    "relative": allowed.relative,
                }
            )
        pd.DataFrame(rows).to_csv(out, index=False, float_format="%.3g", lineterminator="\n")


if __name__ == "__main__":
    run_script(main)
