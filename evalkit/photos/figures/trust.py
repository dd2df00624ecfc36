"""Figure 6 of the paper: one method's maps of two networks for the same photograph and class."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evalkit.config.schema import RunConfig
from evalkit.errors import printable
from evalkit.photos.figures.layout import (
    COLUMN,
    Draw,
    ExplainedPhoto,
    about,
    heading,
    heat_over,
    note,
    panels,
    photograph,
    scale,
    shortened,
)
from evalkit.photos.figures.second import same_class
from evalkit.photos.session import PhotoSession, open_photographs, remark
from evalkit.probe import Probe

DEFAULT = "[ablation_cam]"


def beside(config: RunConfig, files: Sequence[Path]) -> Draw:
    """Return the function that draws a second network's maps of these files beside those of the first. Raises UserError."""
    second, pictures = open_photographs(config, files)
    return partial(draw, second=second, probe_of=lambda photo, target: second.probe(pictures[photo], target), files=len(files))


def draw(
    session: PhotoSession, photos: Sequence[ExplainedPhoto], *, second: PhotoSession, probe_of: Callable[[int, int], Probe], files: int
) -> Figure:
    """Draw a row for each photograph, class and method: the photograph, and the map of each network over the image as it sees it.

    Both networks explain the class that the first one explains (section 6.4 compares maps of one class); below each map are
    this network's scores of it, and the class that it predicts if that is another. `probe_of` probes the second network.
    Raises UserError for a class that the second network does not have.
    """
    rows_of = [(i, photo, method) for i, photo in enumerate(photos) for method in session.methods]
    figure, rows = panels(len(rows_of), 3, COLUMN, 1.75)
    each = len(photos) // files  # as many classes of every photograph
    for axes, (i, photo, method) in zip(rows, rows_of, strict=True):
        target = same_class(session.model.classes, second.model.classes, int(photo.probe.targets[0]), second.config.model.name)
        photograph(axes[0], photo.probe.images[0])
        axes[0].set_ylabel("\n".join(textwrap.wrap(f"{session.class_name(photo.probe)} · {method}", 22)), labelpad=3)
        axes[0].set_xlabel(shortened(printable(photo.name), 18), fontsize=5, color="0.35", labelpad=2)
        for ax, network, probe in ((axes[1], session, photo.probe), (axes[2], second, probe_of(i // each, target))):
            _map(ax, network, probe, method)
            if axes is rows[0]:
                ax.set_title(shortened(printable(network.config.model.name), 20))
    heading(figure, "Which network is more reliable?", f"{about(session)}; {about(second)}")
    scale(figure, [ax for row in rows for ax in row], "saliency, each map by itself")
    note(figure, "Each network's map of the same class, over the image as this network sees it.")
    return figure


def _map(ax: Axes, session: PhotoSession, probe: Probe, method: str) -> None:
    heat = session.map(method, probe)
    heat_over(ax, probe.images[0], heat[0])
    best = int(probe.logits[0].argmax())
    lines = [
        session.scores(probe),
        *([] if best == int(probe.targets[0]) else [f"predicts {shortened(printable(session.model.classes.name(best)), 16)}"]),
    ]
    ax.set_xlabel("\n".join([*lines, *filter(None, [remark(heat).strip()])]), labelpad=2, fontsize=5)
