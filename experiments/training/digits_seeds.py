"""Evaluate the embedded networks of every training seed under the demo's protocol (about 15 seconds a network).

    python experiments/training/train_digits.py --out digits
    python experiments/training/digits_seeds.py digits --out digits_runs --csv results/digits_seeds.csv

The demo shows seed 0. This table shows how much the results depend on the seed.
"""

import re
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from evalkit.analysis.load import load_runs
from evalkit.analysis.summary import PAPER_METRICS, summarise
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.launch.run import run_job


def main(
    checkpoints: Annotated[Path, typer.Argument(help="Folder that train_digits.py wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    csv: Annotated[Path, typer.Option(help="The table.")],
) -> None:
    """Run each checkpoint and write one table for all."""
    tables = []
    for file in sorted(checkpoints.glob("*_seed*.safetensors")):
        name = re.fullmatch(r"(\w+)_seed(\d+)", file.stem)
        if name is None:
            continue
        net, seed = name.groups()
        folder = out / file.stem
        (job,) = compose_jobs([f"model={net}", f"model.weights={file}", "protocol.top_percent=[20,30,50]", f"out={folder}"])
        run_job(job)
        summary = summarise(load_runs([folder])[0])
        chosen = summary[summary.metric.isin(PAPER_METRICS)]
        tables.append(chosen.assign(seed=int(seed))[["model", "seed", "top_percent", "score", "metric", "method", "value", "low", "high"]])
        print(f"{file.stem} done", flush=True)
    pd.concat(tables).to_csv(csv, index=False, float_format="%.4g")


if __name__ == "__main__":
    run_script(main)
