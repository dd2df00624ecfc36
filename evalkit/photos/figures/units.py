"""Figure 1 of the paper: the drop of the class score for the ablation of each unit."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from evalkit.photos.figures.layout import COLUMN, PAGE, ExplainedPhoto, height, photograph, title
from evalkit.photos.session import PhotoSession

NAMED = 5
"""Number of units that are named: those with the largest drops."""
BESIDE = 3
"""Largest number of panels side by side on a page."""
STEMS, LARGEST = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito's palette, which colour-blind readers can distinguish; vermilion prints lighter."""


def draw(session: PhotoSession, photos: Sequence[ExplainedPhoto]) -> Figure:
    """Draw a panel for each photograph and class: the photograph, and below it y - y^k over all K units k of the target layer.

    y is the class score (logit), y^k the score when unit k is zero (paper, section 4, eq. 3 before its division); a unit
    whose ablation raises the score has a negative drop.
    """
    across = min(len(photos), BESIDE)
    down = -(-len(photos) // BESIDE)
    size = (COLUMN if across == 1 else PAGE, height(down, 2.6))
    figure, axes = plt.subplots(2 * down, across, figsize=size, squeeze=False, height_ratios=[1, 1.1] * down, layout="constrained")
    above, below = axes[0::2].flat, axes[1::2].flat
    for ax in (*above[len(photos) :], *below[len(photos) :]):
        ax.axis("off")
    for upper, lower, photo in zip(above, below, photos, strict=False):
        photograph(upper, photo.probe.images[0])
        upper.set_title(f"{session.class_name(photo.probe)}\n{session.scores(photo.probe, between=', ', y='y = ')}")
        _stems(lower, photo.probe.drops[0].double().cpu())
    for ax in axes[1::2, 0]:
        ax.set_ylabel("drop y - yᵏ")
    title(figure, session, f"Drop of the {session.score_word} when one unit is ablated")
    return figure


def _stems(ax: Axes, drops: Tensor) -> None:
    """Plot drops (K,) over the units' indices."""
    ax.vlines(range(len(drops)), 0, drops, color=STEMS, linewidth=min(1.0, 120 / len(drops) + 0.25))
    order = drops.argsort(descending=True, stable=True)[:NAMED]
    ax.plot(order, drops[order], "o", color=LARGEST, markersize=2.5)
    ax.axhline(0, color="0.3", linewidth=0.5)
    named = ", ".join(f"{int(k)}\u00a0({float(drops[k]):+.2g})" for k in order)
    ax.set_title(textwrap.fill(f"largest: {named}", 44), fontsize=6, color="0.2")
    ax.set_xlabel(f"unit k of {len(drops)}, {int((drops > 0).sum())} with a positive drop")
