"""Figure 4 of the paper: maps of a confident decision from the class score, and from the output after its sigmoid or softmax.

The paper (section 5) expects Grad-CAM to lose its discrimination where a sigmoid is saturated, because gradients vanish
there. But a sigmoid multiplies the gradients of all cells by one factor, dy/dA = y (1 - y) dz/dA: the weights shrink, and
the map, which every figure scales to its own range, keeps its shape. Only where y rounds to 1 (in float32 above z = 16.6)
are all gradients 0 and the map empty, for all classes alike. Ablation-CAM's drops y - y^k of a saturated sigmoid do change
their proportions: a unit that lowers z by d has a drop of about exp(-z) (exp(d) - 1), so that the largest drops dominate
and those below zero hardly count.
`experiments/findings/saturation.py` measures all of this on a data set with two objects in each image.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from evalkit.data.decode import Picture
from evalkit.errors import UserError
from evalkit.evaluation.sanity import similarity
from evalkit.methods import ablation_cam, grad_cam
from evalkit.photos.figures.categories import two_best
from evalkit.photos.figures.layout import PAGE, ExplainedPhoto, beside, heat_over, note, panels, photograph, scale, title
from evalkit.photos.session import PhotoSession
from evalkit.probe import Probe
from evalkit.protocol import upsample

CAPTIONS = {
    "sigmoid": "The sigmoid multiplies all gradients by y (1 - y): Grad-CAM's map keeps its shape, and the loss of discrimination that "
    "the paper expects does not follow; in float32 the factor is 0 for scores above 16.6, and the map empty. Ablation-CAM's drops "
    "change their proportions.",
    "softmax": "The softmax's gradient and its drops mix in those of the other classes; where the confidence rounds to 1 in "
    "float32 the gradient is 0 and Grad-CAM's map empty.",
}


def two_classes(session: PhotoSession, picture: Picture) -> list[Probe]:
    """Return probes of the classes that the configuration names, or of the two with the highest scores.

    Raises UserError for model.output=raw.
    """
    if session.config.model.output == "raw":
        raise UserError("this figure compares a score with its softmax or sigmoid, and model.output=raw has neither")
    if session.targets is not None:
        return session.probes(picture)
    return two_best(session, picture)


def variants(probe: Probe, output: str) -> dict[str, Tensor]:
    """Compute raw maps (N,h,w) by name: each method from the class score, then from the normalised output ("sigmoid" or "softmax")."""
    return {
        "Grad-CAM, score": grad_cam(probe),
        f"Grad-CAM, {output}": grad_cam(probe, gradient=output),
        "Ablation-CAM, score": ablation_cam(probe),
        f"Ablation-CAM, {output}": ablation_cam(probe, drop=output),
    }


def draw(session: PhotoSession, photos: Sequence[ExplainedPhoto]) -> Figure:
    """Draw a row for each class: the photograph and, for both methods, the map from the score and from the normalised output.

    Below the second map of a method is its correlation r with the first (Pearson, over the cells), and for Grad-CAM the
    factor by which the normalisation changed the gradient's largest absolute value.
    """
    output = "softmax" if session.config.model.output == "softmax" else "sigmoid"
    figure, rows = panels(len(photos), 5, PAGE, 1.6)
    for i, (axes, photo) in enumerate(zip(rows, photos, strict=True)):
        probe = photo.probe
        image = probe.images[0]
        photograph(axes[0], image)
        beside(axes[0], session, photo)
        maps = variants(probe, output)
        size = (image.shape[1], image.shape[2])
        for ax, (name, low) in zip(axes[1:], maps.items(), strict=True):
            heat_over(ax, image, upsample(low.float(), size)[0])
            ax.set_title(name if i == 0 else "")
        plain, normalised = probe.gradients.abs().max(), probe.scored_gradients(output).abs().max()
        factor = float(normalised / plain) if plain > 0 else 0.0
        gradcam, ablation = list(maps.values())[:2], list(maps.values())[2:]
        axes[2].set_xlabel(f"gradient times {factor:.2g}\n{likeness(*gradcam)}", labelpad=2)
        axes[4].set_xlabel(likeness(*ablation), labelpad=2)
    title(figure, session, f"Maps from the class score and from its {output}")
    scale(figure, [ax for row in rows for ax in row], "saliency, each map by itself")
    note(figure, CAPTIONS[output])
    return figure


def likeness(plain: Tensor, normalised: Tensor) -> str:
    """Describe the correlation of two raw maps (1,h,w) of an image, or that the second is constant."""
    if normalised.amin() == normalised.amax():
        return "no map: constant"
    r = similarity(plain, normalised)["pearson"][0]
    return "r undefined" if np.isnan(r) else f"r = {r:.3f}"
