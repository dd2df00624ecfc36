"""Do gradients share the spatial pattern of the activations? Desai and Ramaswamy 2020, section 3 and figure 2.

"The backpropagated gradients fail to retain the spatial information", with fully connected layers; "this behaviour is absent" without.
Measured per image: Pearson's correlation of a unit's activations A_k and of dy/dA_k over the cells of the map, for the unit with
the largest drop and as a median over all units that fire, beside the correlation of a unit's activations with another unit's gradients.
"""

from pathlib import Path

import numpy as np
from claim_rows import Claim, Row
from sanity_checks import read_images

from evalkit.config.compose import compose_jobs
from evalkit.evaluation.sanity import similarity
from evalkit.evaluation.session import open_session
from evalkit.probe import Probe

CONF = Path(__file__).parents[1] / "conf"
SOURCE = "Desai and Ramaswamy 2020, section 3"
SENTENCE = "With fully connected layers the gradients do not have any spatial correlation to the activations; without these they have."
HOW = (
    "Pearson's correlation over the cells of a map, of all units whose activations and gradients vary. No correlation: within 0.1, a small "
    "effect by Cohen's convention. Behind pooling and one linear layer a unit's gradient is one constant, so there is none to measure."
)
NETWORKS = {
    "squeezevgg10": ("squeezevgg10_imagenette", "imagenette224"),
    "mobilenet_v2_half": ("mobilenet_v2_imagenet", "imagenette224"),
}
"""Networks in experiments/conf/model: one with fully connected layers, one with global average pooling; their weights and images."""


def measure(data: Path, _: Path) -> list[Row]:
    """Return the correlations of each network on all images of its set, and the share of units whose gradients are one constant."""
    rows = []
    for network, (weights, images) in NETWORKS.items():
        claim = Claim(SENTENCE, SOURCE, network, images, how=HOW)
        chosen = [f"model={network}", f"model.weights={data}/weights/{weights}.safetensors"]
        (job,) = compose_jobs([*chosen, "data=image_folder", f"data.root={data}/{images}/images"], conf=CONF)
        session = open_session(job.config)
        largest, median, others, constant = np.array(
            [of_image(Probe(session.model.net, image[None])) for image in read_images(session)[0]]
        ).T
        expected = "within 0.1" if np.isfinite(median).any() else ""
        rows += [
            claim.level("correlation of A_k and dy/dA_k, unit of the largest drop", largest, expects=expected),
            claim.level("the same, median of the units that fire", median, expects=expected),
            claim.level("the same, gradients of the next unit that fires", others),
            claim.level("units whose gradient is the same in all cells, %", constant),
        ]
    return rows


def of_image(probe: Probe) -> tuple[float, float, float, float]:
    """Return the four measures of one image; nan where no unit has both an activation and a gradient that vary."""
    activations, gradients = probe.activations[0], probe.gradients[0]
    fires = (activations.amax((1, 2)) > activations.amin((1, 2))).nonzero()[:, 0]
    flat = gradients.amax((1, 2)) - gradients.amin((1, 2)) <= 1e-6 * gradients.abs().amax()
    constant = 100 * flat[fires].double().mean().item()
    varies = fires[~flat[fires]]
    if len(varies) < 2:
        return float("nan"), float("nan"), float("nan"), constant
    own = similarity(activations[varies], gradients[varies])["pearson"]
    others = similarity(activations[varies], gradients[varies.roll(1)])["pearson"]
    first = int(probe.drops[0][varies].argmax())
    return float(own[first]), float(np.median(own)), float(np.median(others)), constant
