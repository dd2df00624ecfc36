"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides, such as model=vgg16 'method=[grad_cam,ablation_cam]'.")]
ConfFolder = Annotated[Path | None, typer.Option("--conf", help="A folder of further yaml files with the layout of conf/.")]


def own_folder(runs: list[str]) -> Path:
    """Return the default output folder for runs: the folder of a single local run, else results/tables."""
    return Path(runs[0]) if len(runs) == 1 and "://" not in runs[0] else Path("results/tables")
