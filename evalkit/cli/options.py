"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Optional

import typer

Overrides = Annotated[Optional[list[str]], typer.Argument(help="Hydra overrides, such as model=vgg16 'method=[grad_cam,ablation_cam]'.")]  # noqa: UP045
ConfFolder = Annotated[Optional[Path], typer.Option("--conf", help="A folder of further yaml files, laid out as conf/ is.")]  # noqa: UP045


def own_folder(runs: list[str]) -> Path:
    """Return the folder for what is made of runs where the command line names none: the run's own, or results/tables for several."""
    return Path(runs[0]) if len(runs) == 1 and "://" not in runs[0] else Path("results/tables")
