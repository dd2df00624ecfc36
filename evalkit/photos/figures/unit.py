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
"""Colour map of gradients: purple below zero, orange above, which colour-blind readers can distinguish."""


def of(unit: int | None) -> Draw:
    """Return the function that draws one unit; None for the unit with the largest drop in each photograph."""
    return partial(draw, unit=unit)


def draw(session: PhotoSession, photos: Sequence[ExplainedPhoto], unit: int | None = None) -> Figure:
    """Draw a row for each photograph and class: the photograph, A_k, and dy/dA_k with y the class score, cell by cell.

    The paper (section 3) finds that the two share no spatial pattern if fully connected layers follow, and shows one unit.
    The figure gives that unit's correlation (Pearson, over the cells) and the median over all units that fire. If global
    average pooling follows, a unit has the same gradient in all cells, and no correlation. Raises UserError for a unit that
    the layer does not have.
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
    """Describe one unit's Pearson correlation of activations and gradients (K,h,w), and the median of all units that have one."""
    correlations = similarity(activations, gradients)["pearson"]
    if np.isnan(correlations[unit]):
        constant = "gradient" if gradients[unit].min() == gradients[unit].max() else "activation"
        return f"no r: {constant} constant"
    return f"r = {correlations[unit]:.2f} ({np.nanmedian(correlations):.2f})"


def _checked(unit: int, units: int, session: PhotoSession) -> int:
    if not 0 <= unit < units:
        raise UserError(f"--unit {unit}: layer '{session.config.model.layer}' has {units} units, from 0 to {units - 1}")
    return unit


def _cells(figure: Figure, ax: Axes, values: Tensor, colours: str, limits: tuple[float, float]) -> None:
    """Show a map (h,w) cell by cell, with a colour bar."""
    picture = ax.imshow(values.numpy(), cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    bar = figure.colorbar(picture, ax=ax, orientation="horizontal", fraction=0.05, pad=0.03, aspect=25)
    bar.outline.set_visible(False)
    bar.set_ticks(list(limits) if limits[0] < limits[1] else [limits[0]])
    bar.ax.xaxis.set_major_formatter("{x:.2g}")
