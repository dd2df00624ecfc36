"""evalkit list models | methods | data | layers."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from evalkit.cli.options import ConfFolder
from evalkit.errors import UserError, did_you_mean


def list_things(
    what: Annotated[str, typer.Argument(help="models, methods, controls, data or layers")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="For layers: the model, then overrides.", metavar="[MODEL] [OVERRIDES]...")
    ] = None,
    conf: ConfFolder = None,
) -> None:
    """List what can be chosen: models, methods, controls, data, or the layers of a model.

    evalkit list layers resnet50
    """
    from evalkit.output import listing

    kinds = {"models": listing.models, "methods": listing.methods, "controls": listing.controls, "data": listing.data}
    if what == "layers":
        if not overrides:
            raise UserError("list layers needs a model: evalkit list layers resnet50")
        table = layers(overrides[0].removeprefix("model="), overrides[1:], conf)
    elif what in kinds:
        _refuse_names(what, overrides or [], conf)
        table = kinds[what](conf)
    else:
        raise UserError(f"cannot list '{what}'{did_you_mean(what, [*kinds, 'layers'])}")
    Console(emoji=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160).print(table)


def _refuse_names(what: str, names: list[str], conf: Path | None) -> None:
    """Raise UserError where a name follows, since all entries of a kind are listed."""
    from evalkit.config.choices import choices

    if names:
        hint = did_you_mean(names[0], choices(what if what == "data" else what.removesuffix("s"), conf))
        near = hint if "did you mean" in hint and f"'{names[0]}'" not in hint else ""
        layers_of = " (evalkit list layers MODEL lists the layers of one)" if what == "models" else ""
        raise UserError(f"list {what} lists all of them: leave out '{names[0]}'{near}{layers_of}")


def layers(model: str, overrides: list[str], conf: Path | None) -> Table:
    """Return the layers of a model as a table; the configured or proposed ones are marked with their tiers of Ablation-CAM."""
    from evalkit.config.compose import compose_jobs
    from evalkit.models import zoo
    from evalkit.models.copies import eval_copy
    from evalkit.models.failing import cannot_process
    from evalkit.models.layers import explainable
    from evalkit.models.proposal import NoLayer
    from evalkit.output import listing
    from evalkit.probe import Probe

    if model == "custom" and not any(override.startswith("model.layer=") for override in overrides):
        overrides = [*overrides, "model.layer=auto"]  # the list is there to choose one
    overrides = [f"model={model}", *overrides, "model.weights=null", "data=digits"]
    caption, about = "", {}
    try:
        job = compose_jobs(overrides, conf=conf)[0]
        config, caption = job.config.model, job.proposal
    except NoLayer as reason:
        config, caption = compose_jobs([*overrides, "model.layer=''"], conf=conf)[0].config.model, str(reason)
    module = eval_copy(zoo.build(config)[0])
    size = zoo.input_size(config)
    images = zoo.images_for(module, config, size)
    try:
        found = list(explainable(module, images, zoo.readout(config)))
        for layer in filter(None, config.layers):
            tier = Probe(zoo.cut(module, config, layer), images).tier
            about[layer] = f"Ablation-CAM there: tier {tier.number}, {tier.reason}"
    except UserError:
        raise
    except Exception as reason:  # a user's forward may raise anything
        raise cannot_process(module, config.factory, config.channels, size, reason) from reason
    return listing.layers(f"layers of {model} for images of {size[0]} x {size[1]}, in the order of the data", caption, found, about)
