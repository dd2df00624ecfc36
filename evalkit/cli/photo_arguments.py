"""Command lines of a network that begin with photographs, IMAGE... [OVERRIDES]..., or with none."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalkit.errors import UserError

if TYPE_CHECKING:
    from evalkit.config.schema import RunConfig

ImageArguments = Annotated[list[str], typer.Argument(help="Image files, then overrides.", metavar="IMAGE... [OVERRIDES]...")]


@dataclass(frozen=True)
class PhotoCommand:
    """The parsed command line: configuration, image files, output folder."""

    config: "RunConfig"
    files: list[Path]
    out: Path


def photo_command(command: str, arguments: list[str], out: Path, conf: Path | None, methods: str | None) -> PhotoCommand:
    """Separate image files from overrides, and compose the configuration, so that errors are reported before torch is imported.

    `methods` are the default methods, as in "[grad_cam]"; None for a command whose methods cannot be chosen.
    Raises UserError, which names `command`.
    """
    from evalkit.config.compose import compose_jobs
    from evalkit.files import local

    files = [local(a) for a in arguments if "=" not in a or Path(a).is_file()]
    overrides = [a for a in arguments if "=" in a and not Path(a).is_file()]
    if not files:
        raise UserError(f"{command} needs at least one image file")
    _check(command, overrides, without_methods=methods is None)
    if methods is not None and not any(o.startswith(("method=", "like=")) for o in overrides):
        overrides.append(f"method={methods}")
    folders = [o.removeprefix("out=") for o in overrides if o.startswith("out=")]

    def size(config: "RunConfig") -> tuple[int, int]:
        from evalkit.photos.session import photograph_size  # imports torch, which is not needed for a named layer

        return photograph_size(config, files[0])

    config = compose_jobs(overrides, conf=conf, size=size)[0].config
    if methods is None:
        config.model.only_layer(f"evalkit {command}")
    return PhotoCommand(config, files, local(folders[-1]) if folders else out)


def network_command(command: str, overrides: list[str], conf: Path | None, without: dict[str, str]) -> "RunConfig":
    """Compose the configuration of a command that needs a network and no photograph.

    `without` are keys that the command does not take, with what to do instead. Raises UserError, which names `command`.
    """
    from evalkit.config.compose import compose_jobs

    _check(command, overrides, without_methods=True)
    for key, instead in without.items():
        given = next((o for o in overrides if o.lstrip("+~").startswith(f"{key}=")), None)
        if given is not None:
            raise UserError(f"{command} does not take '{given}': {instead}")
    return compose_jobs([*overrides, *(["model.layer=''"] if "model.layer" in without else [])], conf=conf)[0].config


def _check(command: str, overrides: list[str], *, without_methods: bool) -> None:
    """Raise UserError unless the overrides name a model or a run, and no methods where none can be chosen."""
    if not any(o.startswith(("model=", "experiment=", "like=")) for o in overrides):
        raise UserError(f"{command} needs a model, as in model=resnet50 (evalkit list models shows them)")
    chosen = [o for o in overrides if o.lstrip("+~").startswith(("method=", "method."))]
    if without_methods and chosen:
        raise UserError(f"{command} draws no methods of your choice: leave out '{chosen[0]}'")
