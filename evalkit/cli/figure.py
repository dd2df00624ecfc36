"""evalkit figure: the figures of the Ablation-CAM paper, for any model and photograph."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalkit.cli.console import show
from evalkit.cli.options import ConfFolder, expanded
from evalkit.cli.photo_arguments import ImageArguments, photo_command

if TYPE_CHECKING:
    from evalkit.photos.figures.layout import Draw

figure_app = typer.Typer(no_args_is_help=True, help="Figures of the Ablation-CAM paper, for any model and photograph: PNG, PDF and SVG.")

Out = Annotated[Path, typer.Option(callback=expanded, help="Folder for the files.")]
FOLDER = Path("figures")


@figure_app.command()
def units(arguments: ImageArguments, out: Out = FOLDER, conf: ConfFolder = None) -> None:
    """Figure 1: the drop of the class score when a unit is ablated, for every unit of the layer.

    evalkit figure units leopard.jpg whale.jpg model=vgg16
    """
    from evalkit.photos.figures import units

    _write("units", units.draw, arguments, out, conf)


@figure_app.command()
def unit(
    arguments: ImageArguments,
    out: Out = FOLDER,
    conf: ConfFolder = None,
    number: Annotated[int | None, typer.Option("--unit", min=0, help="Number of the unit; default the one with the largest drop.")] = None,
) -> None:
    """Figure 2: one unit's activation map beside the gradients of the class score at the same cells.

    evalkit figure unit dog.jpg model=vgg16 --unit 437
    """
    from evalkit.photos.figures import unit

    _write("unit", unit.of(number), arguments, out, conf)


@figure_app.command()
def methods(arguments: ImageArguments, out: Out = FOLDER, conf: ConfFolder = None) -> None:
    """Figure 3: Grad-CAM, guided Grad-CAM, Ablation-CAM and guided Ablation-CAM side by side, or the methods of method=[...].

    evalkit figure methods person.jpg goose.jpg model=vgg16
    """
    from evalkit.photos.figures import methods

    _write("methods", methods.draw, arguments, out, conf, drawn=methods.DEFAULT)


@figure_app.command()
def saturation(arguments: ImageArguments, out: Out = FOLDER, conf: ConfFolder = None) -> None:
    """Figure 4: maps of confident decisions from the class score, and from the output after its sigmoid or softmax.

    Shows the two classes with the highest scores of each photograph, unless target=... names some; most informative for a
    model trained for several labels (model.output=sigmoid).

    evalkit figure saturation canvas.png model=two_digits
    """
    from evalkit.photos.figures import saturation

    _write("saturation", saturation.draw, arguments, out, conf, classes=saturation.two_classes)


@figure_app.command()
def explanation(arguments: ImageArguments, out: Out = FOLDER, conf: ConfFolder = None) -> None:
    """Figure 5: photograph, map and explanation map, which keeps the top 20 % of the pixels unless protocol.* is set.

    evalkit figure explanation leopard.jpg model=vgg16 protocol.top_percent=30
    """
    from evalkit.photos.figures import explanation

    _write("explanation", explanation.draw, arguments, out, conf, drawn=explanation.DEFAULT)


def _write(
    name: str, draw: "Draw", arguments: list[str], out: Path, conf: Path | None, *, drawn: str | None = None, **options: Any
) -> None:
    """Draw and write a figure; `drawn` are its default methods, None for a figure whose methods cannot be chosen."""
    from evalkit.photos.figures.layout import write

    command = photo_command(f"figure {name}", arguments, out, conf, methods=drawn)
    for file in write(name, draw, command.config, command.files, command.out, **options):
        show(str(file))
