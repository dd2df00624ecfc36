"""Figure 7 of the paper: a photograph of two categories, and each method's map of each of them."""

import textwrap
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from evalkit.data.decode import Picture
from evalkit.errors import UserError
from evalkit.evaluation.sanity import similarity
from evalkit.photos.figures.layout import COLUMN, PAGE, ExplainedPhoto, beside, note, panels, photograph, scale, title
from evalkit.photos.figures.methods import CLIPPED_NOTE, show_map
from evalkit.photos.session import PhotoSession, remark
from evalkit.probe import Probe

DEFAULT = "[guided_grad_cam,guided_ablation_cam]"
"""The methods of section 6.5."""


def categories(session: PhotoSession, picture: Picture) -> list[Probe]:
    """Return probes of the classes that the configuration names, or of the two with the highest scores.

    Raises UserError for a single class.
    """
    probes = session.probes(picture) if session.targets is not None else two_best(session, picture)
    if len(probes) < 2:
        raise UserError("this figure compares categories: name two or more, as in 'target=[person,car]'")
    return probes


def two_best(session: PhotoSession, picture: Picture) -> list[Probe]:
    """Return probes of the two classes with the highest scores; of one if there is one."""
    best = session.probe(picture).logits[0].topk(min(2, session.model.classes.outputs)).indices
    return [session.probe(picture, int(target)) for target in best]


def draw(session: PhotoSession, photos: Sequence[ExplainedPhoto]) -> Figure:
    """Draw a row for each category: the photograph with its name, and each method's map of it.

    Section 6.5 asks people which of the categories a map shows. Below the map of each further category is its correlation r
    with the map of the same method for the first one (Pearson, over the cells, or pixels, of the maps): 1 where they show
    the same.
    """
    names = list(session.methods)
    width = COLUMN if len(names) <= 2 else PAGE
    figure, rows = panels(len(photos), 1 + len(names), width, (width - 0.9) / (1 + len(names)) + 0.5)
    first: dict[str, Tensor] = {}
    shown: set[int] = set()
    in_pixels = False
    for i, (axes, photo) in enumerate(zip(rows, photos, strict=True)):
        image, target = photo.probe.images[0], int(photo.probe.targets[0])
        if i and (target in shown or not torch.equal(image, photos[i - 1].probe.images[0])):  # the next photograph
            first, shown = {}, set()
        shown.add(target)
        photograph(axes[0], image)
        beside(axes[0], session, photo)
        for ax, name in zip(axes[1:], names, strict=True):
            low = session.low_map(name, photo.probe)
            ax.set_title(
                "\n".join([name.replace("guided_", "guided_\n"), *textwrap.wrap(remark(low), 20)]) if i == 0 or remark(low) else ""
            )
            in_pixels |= show_map(ax, image, low)
            if name in first:
                ax.set_xlabel(f"r = {float(similarity(first[name], low)['pearson'][0]):.2f}", labelpad=2)
            first.setdefault(name, low)
    title(figure, session, "Which of the categories is it?")
    scale(figure, [ax for row in rows for ax in row], "saliency, each map by itself")
    note(figure, "r: correlation with the map above of the photograph's first category. " + (CLIPPED_NOTE if in_pixels else ""))
    return figure
