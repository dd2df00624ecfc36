"""Options shared by several commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evalkit.config.schema import RunConfig

Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides, such as model=vgg16 'method=[grad_cam,ablation_cam]'.")]


RunFolders = Annotated[list[str], typer.Argument(help="Run folders, or folders of run folders; also s3://bucket/folder.")]


def expanded(value: Path | list[Path] | None) -> Path | list[Path] | None:
    """Replace `~` in an option's path, or in all paths of an argument; a shell leaves it in `--out=~/tables`."""
    from evalkit.files import local

    return [local(path) for path in value] if isinstance(value, list) else local(value) if value is not None else None


ConfFolder = Annotated[
    Path | None, typer.Option("--conf", callback=expanded, help="A folder of further yaml files with the layout of conf/.")
]


def size_in_data(config: "RunConfig") -> tuple[int, int]:
    """Return height and width of the first image of the data set, at which a layer is proposed."""
    from evalkit.evaluation.session import data_size  # imports torch, which is not needed for a named layer

    return data_size(config)


def own_folder(runs: list[str]) -> Path:
    """Return the default output folder for runs: the folder of a single local run, else results/tables."""
    from evalkit.files import local

    return local(runs[0]) if len(runs) == 1 and "://" not in runs[0] else Path("results/tables")
