"""Figure 5 of the paper: photograph, map, and the explanation map that keeps the highlighted pixels."""

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from evalkit import protocol
from evalkit.photos.explain import in_words
from evalkit.photos.figures.layout import COLUMN, PAGE, ExplainedPhoto, beside, heat_over, note, panels, photograph, title
from evalkit.photos.session import PhotoSession, remark

DEFAULT = "[ablation_cam]"


def draw(session: PhotoSession, photos: Sequence[ExplainedPhoto]) -> Figure:
    """Draw a row for each photograph, class and method: photograph, map over it, and the image perturbed at each protocol point.

    The paper (section 6.1) keeps the top 20 % of the pixels and multiplies the rest by 0; the confidence and the score
    before and after are those of its metrics (eq. 5 and 6).
    """
    points = session.config.protocol.all_points()
    columns = 2 + len(points)
    width = COLUMN if columns == 3 else PAGE
    figure, rows = panels(len(photos) * len(session.methods), columns, width, (width - 0.5) / columns + 0.7)
    pairs = [(photo, method) for photo in photos for method in session.methods]
    for axes, (photo, method) in zip(rows, pairs, strict=True):
        image = photo.probe.images
        photograph(axes[0], image[0])
        beside(axes[0], session, photo)
        saliency = session.map(method, photo.probe)
        heat_over(axes[1], image[0], saliency[0])
        axes[1].set_title(textwrap.fill(method + remark(saliency), 20, break_long_words=False))
        fills = protocol.Fills(image, session.model.net.mean, session.model.net.std, photo.probe.indices)
        ranking = protocol.Ranking(saliency)
        for ax, point in zip(axes[2:], points, strict=True):
            mask, _ = protocol.kept(point, ranking)
            perturbed = protocol.perturb(image, mask, fills(point.fill, mask))
            photograph(ax, perturbed[0])
            ax.set_title(textwrap.fill(in_words(point), 16) if axes is rows[0] else "")
            ax.set_xlabel(session.scores(photo.probe, session.model.net(perturbed)), labelpad=2)
    title(figure, session, "Explanation maps")
    note(figure, "Each map runs from its least value (dark) to its greatest (bright).")
    return figure
