"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Optional

import typer

Overrides = Annotated[Optional[list[str]], typer.Argument(help="Hydra overrides, such as model=vgg16 'method=[grad_cam,ablation_cam]'.")]  # noqa: UP045
ConfFolder = Annotated[Optional[Path], typer.Option("--conf", help="A folder of further yaml files, laid out as conf/ is.")]  # noqa: UP045
