"""Does a class impression show the class to another network too, or only to its own? Tamboli 2020, section II.B."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from claim_rows import Claim, Row
from coco_objects import CONF
from torch import Tensor

from evalkit.config.compose import compose_jobs
from evalkit.photos.figures.impression import impression_of
from evalkit.photos.impression import Ascent
from evalkit.photos.session import PhotoSession, open_photo_session

MAKER = ("mobilenet_v2_half", "mobilenet_v2")
JUDGES = (("squeezenet1_0_227", "squeezenet1_0"), ("mobilenet_v3_small_half", "mobilenet_v3_small"))
"""Networks in experiments/conf/model, and their weights."""
CLASSES, STEPS, SEED = 24, 100, 0
CHANCE = 50

CLAIM = Claim(
    "The generated image looks like an actual object and not just random noise.",
    "Tamboli, section II.B",
    "",
    f"{CLASSES} classes of ImageNet, drawn with seed {SEED}",
    seeds=str(SEED),
    how=f"Impressions by MobileNetV2, {STEPS} steps each, as evalkit figure impression makes them. Measured: the share of other classes "
    f"to which a network gives a lower score, {CHANCE} % by chance. n counts classes.",
)


def measure(data: Path, _: Path) -> list[Row]:
    """Return the rows of the network that made the impressions, and of the others, before (noise) and after."""
    maker = opened(data, *MAKER)
    networks = [maker, *(opened(data, *judge) for judge in JUDGES)]
    outputs = maker.model.classes.outputs
    classes = sorted(np.random.default_rng(SEED).choice(outputs, min(CLASSES, outputs), replace=False).tolist())
    made = [impression_of(maker, target, Ascent(steps=STEPS, seed=SEED)) for target in classes]
    rows = []
    for network in networks:
        claim = replace(CLAIM, network=network.config.model.name)
        before = [lower(network, one.start, target) for one, target in zip(made, classes, strict=True)]
        after = [lower(network, one.image, target) for one, target in zip(made, classes, strict=True)]
        tested = "" if network is maker else f"> {CHANCE}"
        rows += [
            claim.level("classes with a lower score, noise, %", before),
            claim.level("classes with a lower score, impression, %", after, expects=tested),
            claim.level("the class is the first of all, impression, %", [100.0 * (share == 100) for share in after]),
        ]
    return rows


def lower(session: PhotoSession, image: Tensor, target: int) -> float:
    """Return the share of other classes with a lower score than `target`, in %, for an image (1,C,H,W) in [0,1]; ties count half."""
    logits = session.model.net(session.image(image[0].cpu()))[0]
    own = logits[target]
    below = (logits < own).sum() + 0.5 * ((logits == own).sum() - 1)
    return float(100 * below / (len(logits) - 1))


def opened(data: Path, name: str, weights: str) -> PhotoSession:
    """Load a network of experiments/conf/model with its weights."""
    (job,) = compose_jobs([f"model={name}", f"model.weights={data}/weights/{weights}_imagenet.safetensors", "method=[grad_cam]"], conf=CONF)
    return open_photo_session(job.config)
