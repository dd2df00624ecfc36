"""Figure 2 of the paper: one unit's activation map beside the gradients of the class score at the same cells."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from evalkit.errors import UserError
from evalkit.evaluation.sanity import similarity
from evalkit.photos.figures.layout import COLUMN, Draw, ExplainedPhoto, beside, note, panels, photograph, title
from evalkit.photos.pictures import COLOURS
from evalkit.photos.session import PhotoSession

DIVERGING = "PuOr_r"
"""Of gradients: purple below zero, orange above, told apart by colour-blind readers."""


def of(unit: int | None) -> Draw:
    """The figure of that unit, or of the one with the largest drop in each photograph."""
    return partial(draw, unit=unit)


def draw(session: PhotoSession, photos: Sequence[ExplainedPhoto], unit: int | None = None) -> Figure:
    """A row for each photograph and class: the photograph, A_k, and dy/dA_k with y the class score, cell by cell.

    The paper (section 3) finds that the two share no spatial pattern where fully connected layers follow, and shows one
    unit. Beside that unit's correlation (Pearson, over the cells) stands its median over all units that fire. Behind
    global average pooling a unit has the same gradient in all cells, and no correlation. Raises UserError for a unit
    that the layer does not have.
    """
    figure, rows = panels(len(photos), 3, COLUMN, 1.55)
    for axes, photo in zip(rows, photos, strict=True):
        probe = photo.probe
        drops = probe.drops[0]
        k = int(drops.argmax()) if unit is None else _checked(unit, len(drops), session)
        activations, gradients = probe.activations[0].float().cpu(), probe.gradients[0].float().cpu()
        photograph(axes[0], probe.images[0])
        beside(axes[0], session, photo)
        _cells(figure, axes[1], activations[k], COLOURS, (float(activations[k].min()), float(activations[k].max())))
        axes[1].set_title(f"A of unit {k}\ndrop {float(drops[k]):+.2g}")
        largest = float(gradients[k].abs().max()) or 1.0
        _cells(figure, axes[2], gradients[k], DIVERGING, (-largest, largest))
        axes[2].set_title(f"∂y/∂A of unit {k}\n{correlation(activations, gradients, k)}")
    title(figure, session, "Activation and gradient of one unit")
    note(figure, "r: correlation of both over the cells; in brackets: median of the units that fire")
    return figure


def correlation(activations: Tensor, gradients: Tensor, unit: int) -> str:
    """In words, of maps (K,h,w) and their gradients: one unit's Pearson correlation, and the median of all that have one."""
    found = similarity(activations, gradients)["pearson"]
    if np.isnan(found[unit]):
        constant = "gradient" if gradients[unit].min() == gradients[unit].max() else "activation"
        return f"no r: {constant} constant"
    return f"r = {found[unit]:.2f} ({np.nanmedian(found):.2f})"


def _checked(unit: int, units: int, session: PhotoSession) -> int:
    if not 0 <= unit < units:
        raise UserError(f"--unit {unit}: layer '{session.config.model.layer}' has {units} units, from 0 to {units - 1}")
    return unit


def _cells(figure: Figure, ax: Axes, values: Tensor, colours: str, limits: tuple[float, float]) -> None:
    """A map (h,w) cell by cell, with the bar of its values."""
    shown = ax.imshow(values.numpy(), cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    bar = figure.colorbar(shown, ax=ax, orientation="horizontal", fraction=0.05, pad=0.03, aspect=25)
    bar.outline.set_visible(False)
    bar.set_ticks(list(limits) if limits[0] < limits[1] else [limits[0]])
    bar.ax.xaxis.set_major_formatter("{x:.2g}")
