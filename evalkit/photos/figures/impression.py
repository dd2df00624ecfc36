"""Class impressions: what a network takes for a class, beside what a second network says of the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from evalkit.config.schema import RunConfig
from evalkit.errors import UserError, first_line, printable
from evalkit.files import writable_folder
from evalkit.models import zoo
from evalkit.models.failing import Failed
from evalkit.output.plots import save
from evalkit.photos.figures.layout import DPI, PAGE, note, panels, photograph, shortened, style, title
from evalkit.photos.figures.second import same_class
from evalkit.photos.figures.units import STEMS
from evalkit.photos.impression import Ascent, Impression, impress
from evalkit.photos.session import PhotoSession, in_full, open_photo_session
from evalkit.scores import confidence_and_logit


@dataclass(frozen=True)
class Impressed:
    """The impression of one class, `target` being its output in the network that it was made with."""

    target: int
    impression: Impression
    other: int | None
    """The same class's output in the second network; None without one."""


def write(config: RunConfig, second: RunConfig | None, settings: Ascent, out: Path) -> list[Path]:
    """Make an impression of each class of the configuration's target, and draw them; return the files.

    They are `<out>/<model>-impression.png`, .pdf and .svg. Raises UserError: a network cannot be loaded, it has no such class, the second
    network lacks the class, gradients do not reach the image, or the folder cannot be written.
    """
    session = open_photo_session(config)
    other = None if second is None else open_photo_session(second)
    targets = session.targets or []
    others = [
        None if other is None else same_class(session.model.classes, other.model.classes, t, other.config.model.name) for t in targets
    ]
    writable_folder(out, "--out")
    made = [Impressed(t, impression_of(session, t, settings), o) for t, o in zip(targets, others, strict=True)]
    with style():
        return save(draw(session, other, made, settings), out / f"{config.model.name.replace('/', '_')}-impression", DPI)


def impression_of(session: PhotoSession, target: int, settings: Ascent) -> Impression:
    """Make the impression of one class by gradient ascent through the whole, uncut network. Raises UserError where gradients stop."""
    net, model = session.model.net, session.config.model
    size = zoo.input_size(model)

    def score(images: Tensor) -> Tensor:
        return net.whole((images.to(net.dtype) - net.mean) / net.std)[:, target]

    try:
        made = impress(score, (model.channels, *size), settings, session.device)
    except RuntimeError as reason:
        if isinstance(reason, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"no gradient of {model.name}'s score reaches the image ({first_line(reason)}), as behind detach, torch.no_grad, numpy or "
            "quantised layers: an impression needs it"
        ) from reason
    if not made.climbed:
        raise UserError(
            f"the score of class '{printable(session.model.classes.name(target))}' of {model.name} has a gradient of 0 in every step, "
            "so there is nothing to climb: choose another --seed or class"
        )
    return made


def scores(session: PhotoSession, image: Tensor, target: int) -> tuple[float | None, float]:
    """Return confidence and logit of a class for an image (1,C,H,W) in [0,1], preprocessed as a picture of that size is.

    Raises UserError where the network cannot process it.
    """
    try:
        logits = session.model.net(session.image(image[0].cpu()))
    except Failed as failed:
        raise UserError(f"{session.config.model.name} cannot process the impression: {first_line(failed.__cause__ or failed)}") from failed
    confidence, logit = confidence_and_logit(logits, torch.tensor([target], device=logits.device), session.config.model.output)
    return None if confidence is None else float(confidence), float(logit)


def draw(session: PhotoSession, other: PhotoSession | None, made: Sequence[Impressed], settings: Ascent) -> Figure:
    """Draw a row for each class: the noise at the start, the impression, and the logit in the course of the ascent.

    Below the images are the class's confidence and score by the network itself and by the second one.
    """
    figure, rows = panels(len(made), 3, PAGE, 2.5)
    for axes, one in zip(rows, made, strict=True):
        name = printable(session.model.classes.name(one.target))
        for ax, image, what in ((axes[0], one.impression.start, "noise"), (axes[1], one.impression.image, f"after {settings.steps} steps")):
            photograph(ax, image[0])
            ax.set_title(what)
            ax.set_xlabel(_judged(session, other, image, one), labelpad=2, fontsize=6)
        axes[0].set_ylabel(shortened(name, 24))
        _course(axes[2], one.impression.logits, session)
    title(figure, session, f"Class impressions (seed {settings.seed})")
    note(
        figure,
        "Made by gradient ascent on the class's score, without any photograph. An impression that only its own network recognises is "
        "noise which fools that network, not a picture of the class." + ("" if other else " No second network was asked (--second)."),
    )
    return figure


def _judged(session: PhotoSession, other: PhotoSession | None, image: Tensor, one: Impressed) -> str:
    """Return what the network, and the second one, say of an image."""
    said = [(session, one.target)] + ([] if other is None or one.other is None else [(other, one.other)])
    lines = []
    for judge, target in said:
        confidence, logit = scores(judge, image, target)
        sure = "" if confidence is None else f"confidence {in_full(confidence)}, "
        lines.append(f"{shortened(printable(judge.config.model.name), 16)}: {sure}score {logit:.2f}")
    return "\n".join(lines)


def _course(ax: Axes, logits: Tensor, session: PhotoSession) -> None:
    ax.plot(logits.numpy(), color=STEMS, linewidth=0.8)
    ax.spines[["left", "bottom"]].set_visible(True)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.set_title(f"{session.score_word}, image transformed")
    ax.set_xlabel("step of the ascent", labelpad=2)
