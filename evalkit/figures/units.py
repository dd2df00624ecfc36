"""Figure 1 of the paper: by how much the class score drops when a unit is ablated, unit by unit."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from evalkit.figures.layout import COLUMN, PAGE, Subject, in_full, photograph, title
from evalkit.photo_session import PhotoSession

ROOM = 9
NAMED = 5
"""Units that are named: those whose ablation costs most."""
ACROSS = 3
"""Panels side by side on a page."""
STEMS, LARGEST = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart; the second prints lighter."""


def draw(session: PhotoSession, subjects: Sequence[Subject]) -> Figure:
    """One panel a photograph and class: y - y^k over the units k of the target layer, all K of them, and the photograph.

    y is the class score (logit), y^k the score when unit k is zero (paper, section 4, eq. 3 before its division); a unit
    whose ablation raises the score has a negative drop.
    """
    across = min(len(subjects), ACROSS)
    down = -(-len(subjects) // ACROSS)
    width = COLUMN if across == 1 else PAGE
    figure, axes = plt.subplots(
        2 * down, across, figsize=(width, 0.45 + 2.6 * down), squeeze=False, height_ratios=[1, 1.1] * down, layout="constrained"
    )
    for ax in axes.flat:
        ax.set_visible(False)
    for i, subject in enumerate(subjects):
        row, column = divmod(i, ACROSS)
        above, below = axes[2 * row : 2 * row + 2, column]
        probe, drops = subject.probe, subject.probe.drops[0].double().cpu()
        above.set_visible(True)
        photograph(above, probe.images[0])
        confidence, score = session.confidence(probe)
        above.set_title(f"{session.class_name(probe)}\nconfidence {in_full(confidence)}, score y = {score:.2f}")
        below.set_visible(True)
        order = drops.argsort(descending=True, stable=True)[:NAMED]
        units = torch.arange(len(drops))
        below.vlines(units, 0, drops, color=STEMS, linewidth=min(1.0, 120 / len(drops) + 0.25))
        below.plot(order, drops[order], "o", color=LARGEST, markersize=2.5)
        below.axhline(0, color="0.3", linewidth=0.5)
        named = ", ".join(f"{int(k)} ({float(drops[k]):+.2g})" for k in order)
        below.set_title(textwrap.fill(f"largest: {named}", 44), fontsize=6, color="0.2")
        below.set_xlabel(f"unit k of {len(drops)}, {int((drops > 0).sum())} with a positive drop")
        if column == 0:
            below.set_ylabel("drop y - yᵏ")
    title(figure, session, "Drop of the class score when one unit is ablated")
    return figure
