"""evalkit explain."""

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.console import show
from evalkit.cli.options import ConfFolder, expanded
from evalkit.cli.photo_arguments import ImageArguments, photo_command


def explain(
    arguments: ImageArguments,
    out: Annotated[Path, typer.Option(callback=expanded, help="Folder for the PNGs.")] = Path("explanations"),
    conf: ConfFolder = None,
) -> None:
    """Show what each method highlights on photographs: one PNG per image.

    evalkit explain dog.jpg model=resnet50 'method=[grad_cam,ablation_cam]' target=207
    """
    command = photo_command("explain", arguments, out, conf, methods="[ablation_cam,grad_cam]")
    from evalkit.photos.explain import explain_images

    for file in explain_images(command.config, command.files, command.out):
        show(str(file))
