"""evalkit plan."""

from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from evalkit.cli.console import note
from evalkit.cli.options import expanded, own_folder


def plan(
    pilot: Annotated[str, typer.Argument(help="A finished run on some of the images; also s3://bucket/folder.")],
    power: Annotated[float, typer.Option(help="Probability with which a true difference is to be found.")] = 0.8,
    level: Annotated[float, typer.Option(help="Level of the tests.")] = 0.05,
    correct: Annotated[str, typer.Option(help="Correction for the number of comparisons: holm, bh or none.")] = "holm",
    out: Annotated[Path | None, typer.Option(callback=expanded, help="Folder for plan.csv; default the run folder itself.")] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="Plan from an unfinished run.")] = False,
) -> None:
    """Say how many images each comparison of a pilot run needs, how wide intervals will be, and how long that takes; write plan.csv.

    evalkit plan results/pilot --power 0.8
    """
    import pandas as pd

    from evalkit.analysis.load import load_runs
    from evalkit.analysis.plan import plan as plan_run
    from evalkit.analysis.significance import Correction
    from evalkit.files import publish, writable_folder
    from evalkit.output.plan import print_plan

    runs = load_runs(pilot, allow_incomplete=allow_incomplete)
    folder = out or own_folder([pilot])
    tables = [plan_run(run, power, level, cast(Correction, correct)) for run in runs]
    writable_folder(folder, "--out")
    publish(folder / "plan.csv", pd.concat(tables).to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
    for run, table in zip(runs, tables, strict=True):
        print_plan(Console(emoji=False), run, table, power, level, cast(Correction, correct))
    note(f"written: {folder}/plan.csv")
