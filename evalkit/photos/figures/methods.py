"""Figure 3 of the paper: the maps of several methods side by side."""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from evalkit.photos.figures.layout import ACROSS, COLUMN, PAGE, ExplainedPhoto, beside, heat_over, note, panels, photograph, scale, title
from evalkit.photos.pictures import heat
from evalkit.photos.session import PhotoSession, remark
from evalkit.protocol import upsample

DEFAULT = "[grad_cam,guided_grad_cam,ablation_cam,guided_ablation_cam]"
"""The paper's four methods."""
CLIPPED = 0.995
"""Quantile of a pixel-space map shown at full brightness, as is all above it: otherwise a few pixels would leave the rest dark."""
CLIPPED_NOTE = f"Of maps in pixel space the brightest {1 - CLIPPED:.1%} of the pixels are shown alike."


def draw(session: PhotoSession, photos: Sequence[ExplainedPhoto]) -> Figure:
    """Draw a row for each photograph and class: the photograph, and the map of each method of the configuration.

    Maps of the layer's cells are drawn over the photograph in grey. Maps in pixel space (the guided ones: paper, end of
    section 4) are drawn alone, because the photograph is not recognisable behind single pixels.
    """
    names = list(session.methods)
    columns = min(1 + len(names), ACROSS)
    lines = -(-(1 + len(names)) // columns)
    width = COLUMN if columns <= 3 else PAGE
    figure, rows = panels(len(photos) * lines, columns, width, (width - 1.2) / columns + 0.35)
    in_pixels = False
    for i, photo in enumerate(photos):
        axes = [ax for row in rows[i * lines : (i + 1) * lines] for ax in row]
        image = photo.probe.images[0]
        photograph(axes[0], image)
        beside(axes[0], session, photo)
        for ax, name in zip(axes[1:], names, strict=False):
            low = session.low_map(name, photo.probe)
            ax.set_title(textwrap.fill(name + remark(low), 20, break_long_words=False) if i == 0 or remark(low) else "")
            in_pixels |= show_map(ax, image, low)
    title(figure, session, "What the methods highlight")
    scale(figure, [ax for row in rows for ax in row], "saliency, each map by itself")
    if in_pixels:
        note(figure, CLIPPED_NOTE)
    return figure


def show_map(ax: Axes, image: Tensor, low: Tensor) -> bool:
    """Draw a raw map (1,h,w) of an image (channels,H,W); return whether it is in pixel space."""
    size = (image.shape[1], image.shape[2])
    in_pixels = tuple(low.shape[1:]) == size
    if in_pixels:
        values = low[0].float().cpu()
        photograph(ax, heat(values.clamp(max=float(values.flatten().quantile(CLIPPED)))))
    else:
        heat_over(ax, image, upsample(low, size)[0])
    return in_pixels
