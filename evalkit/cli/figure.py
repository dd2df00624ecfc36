"""evalkit figure: the figures of the Ablation-CAM paper, and pictures of what a network has learnt."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalkit.cli.console import show
from evalkit.cli.options import ConfFolder, Overrides, expanded
from evalkit.cli.photo_arguments import ImageArguments, network_command, photo_command
from evalkit.errors import UserError

if TYPE_CHECKING:
    from evalkit.photos.figures.layout import Draw

figure_app = typer.Typer(no_args_is_help=True, help="Figures for a paper, for any model and photograph: PNG, PDF and SVG.")

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


@figure_app.command()
def trust(
    arguments: ImageArguments,
    out: Out = FOLDER,
    conf: ConfFolder = None,
    second: Annotated[
        list[str] | None, typer.Option(help="An override of the second network, as model=alexnet; may be repeated.", metavar="OVERRIDE")
    ] = None,
) -> None:
    """Figure 6: one method's maps of two networks side by side, for the class that the first one predicts or target=... names.

    evalkit figure trust dog.jpg model=vgg16 --second model=alexnet
    """
    if not second:
        raise UserError("figure trust compares two networks: name the second one, as in --second model=alexnet")
    chosen = next((o for o in second if o.lstrip("+~").startswith(("method", "target"))), None)
    if chosen is not None:
        raise UserError(
            f"--second takes no '{chosen}': both networks explain one class by the same methods, which the first one's overrides name"
        )
    from evalkit.photos.figures import trust
    from evalkit.photos.figures.layout import write

    first = photo_command("figure trust", arguments, out, conf, methods=trust.DEFAULT)
    other = photo_command("figure trust --second", [*map(str, first.files), *second], out, conf, methods=trust.DEFAULT)
    config = other.config.model_copy(update={"method": first.config.method})
    for file in write("trust", trust.beside(config, first.files), first.config, first.files, first.out):
        show(str(file))


@figure_app.command()
def categories(arguments: ImageArguments, out: Out = FOLDER, conf: ConfFolder = None) -> None:
    """Figure 7: each method's map of two categories of a photograph, by default of guided Grad-CAM and guided Ablation-CAM.

    Shows the two classes with the highest scores, unless target=[...] names others.

    evalkit figure categories drive.jpg model=vgg16 'target=[sports car,seat belt]'
    """
    from evalkit.photos.figures import categories

    _write("categories", categories.draw, arguments, out, conf, drawn=categories.DEFAULT, classes=categories.categories)


@figure_app.command()
def activations(
    arguments: ImageArguments,
    out: Out = FOLDER,
    conf: ConfFolder = None,
    by: Annotated[str, typer.Option(help="Order of the channels: number, drop (of the class score by ablation) or mean.")] = "number",
) -> None:
    """All channels of a layer for a photograph, a small map each, on as many pages as they need.

    evalkit figure activations dog.jpg model=vgg16 --by drop
    """
    command = photo_command("figure activations", arguments, out, conf, methods=None)
    from evalkit.photos.figures import activations

    for file in activations.write(command.config, command.files, command.out, by):
        show(str(file))


@figure_app.command()
def filters(
    overrides: Overrides = None,
    out: Out = FOLDER,
    conf: ConfFolder = None,
    layer: Annotated[str | None, typer.Option(help="Name of the convolution; default the first one that the image passes.")] = None,
    common: Annotated[bool, typer.Option("--common-scale", help="One scale for all filters, not one for each.")] = False,
) -> None:
    """The filters of a convolution, by default of the first one: in colour where it reads RGB, else channel by channel in grey.

    evalkit figure filters model=alexnet
    """
    config = network_command(
        "figure filters", overrides or [], conf, {"model.layer": "leave it out; --layer names another convolution than the first"}
    )
    from evalkit.photos.figures import filters

    for file in filters.write(config, layer, out, common=common):
        show(str(file))


@figure_app.command()
def impression(
    arguments: Annotated[list[str], typer.Argument(help="Classes by name or index, then overrides.", metavar="CLASS... [OVERRIDES]...")],
    out: Out = FOLDER,
    conf: ConfFolder = None,
    second: Annotated[
        list[str] | None, typer.Option(help="An override of a second network that judges the images, as model=resnet50; may be repeated.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps of gradient ascent.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise and of the random transformations.")] = 0,
) -> None:
    """Images that the network takes for a class, made from noise by gradient ascent (Addepalli et al. 2020), without any photograph.

    An impression that only its own network recognises is noise that fools it: a second network tells.

    evalkit figure impression tabby espresso model=resnet50 --second model=vgg16
    """
    overrides = [argument for argument in arguments if "=" in argument]
    classes = [argument for argument in arguments if "=" not in argument]
    if not classes:
        raise UserError("figure impression needs a class by name or index, as in: evalkit figure impression tabby model=resnet50")
    instead = {"target": "name the classes in front of the overrides"}
    config = network_command("figure impression", overrides, conf, instead)
    judge = network_command("--second", second, conf, instead) if second else None
    from evalkit.photos.figures import impression
    from evalkit.photos.impression import Ascent

    config = config.model_copy(update={"target": classes})
    for file in impression.write(config, judge, Ascent(steps=steps, seed=seed), out):
        show(str(file))


def _write(
    name: str, draw: "Draw", arguments: list[str], out: Path, conf: Path | None, *, drawn: str | None = None, **options: Any
) -> None:
    """Draw and write a figure; `drawn` are its default methods, None for a figure whose methods cannot be chosen."""
    from evalkit.photos.figures.layout import write

    command = photo_command(f"figure {name}", arguments, out, conf, methods=drawn)
    for file in write(name, draw, command.config, command.files, command.out, **options):
        show(str(file))
