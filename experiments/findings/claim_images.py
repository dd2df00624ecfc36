"""Images, labels and boxes in memory, and the network that explains them, for the claims of claims.py that change pictures or networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalkit import methods, protocol
from evalkit.analysis import metrics
from evalkit.config.compose import compose_jobs
from evalkit.data.boxes import Box, to_input
from evalkit.evaluation.localisation import region
from evalkit.evaluation.session import open_session
from evalkit.models.split import SplitModel
from evalkit.pixels import in_unit_range
from evalkit.probe import Probe
from evalkit.scores import confidence_and_logit

CONF = Path(__file__).parents[1] / "conf"
BATCH = 10
KEPT_PERCENT = 20.0
NETWORKS = {
    "squeezevgg10": ("squeezevgg10", "squeezevgg10_imagenette", "imagenette224"),
    "mobilenet_v2": ("mobilenet_v2_half", "mobilenet_v2_imagenet", "imagenet_val_acuity"),
    "cifar_vgg6": ("cifar_vgg6", "cifar_vgg6_fc", "cifar10_test"),
    "cifar_resnet20": ("cifar_resnet20", "cifar_resnet20", "cifar10_test"),
}
"""Networks: their files in experiments/conf/model and in weights/, and the image set of their claims."""


@dataclass(frozen=True)
class Pictures:
    """n images with one label each, in the order of the image set."""

    net: SplitModel
    images: Tensor
    """(n,3,H,W), uint8."""
    labels: Tensor
    """The output of each image's class (n,)."""
    boxes: Sequence[Sequence[Box]]
    """Boxes in pixels of the network's input; none for an image that has none."""
    positions: Tensor
    """Places in the image set (n,)."""

    @property
    def regions(self) -> Tensor:
        """The union of each image's boxes (n,H,W), bool."""
        return torch.stack([region(boxes, *self.images.shape[2:]) for boxes in self.boxes])

    def batch(self, rows: Tensor) -> Tensor:
        """Return the images of some rows, in [0,1] and the network's precision."""
        return in_unit_range(self.images[rows], self.net.dtype)

    def at(self, rows: Tensor) -> "Pictures":
        """Return the images of some rows."""
        return Pictures(self.net, self.images[rows], self.labels[rows], [self.boxes[i] for i in rows.tolist()], self.positions[rows])


def overrides(network: str, data: Path) -> list[str]:
    """Return the overrides that name a network, its weights and its image set; DATA/weights must be on PYTHONPATH."""
    conf, weights, images = NETWORKS[network]
    boxes = data / images / "boxes.csv"
    return [
        f"model={conf}", f"model.weights={data}/weights/{weights}.safetensors", "data=image_folder", f"data.root={data}/{images}",
        *([f"data.boxes={boxes}"] if boxes.exists() else []), "device=cpu", "out=unused",
    ]  # fmt: skip


def read(given: Sequence[str]) -> Pictures:
    """Open the network and read all images that have a label among its classes; nothing is written."""
    (job,) = compose_jobs(given, conf=CONF)
    session = open_session(job.config)
    images, labels, boxes, positions = [], [], [], []
    for position in session.positions:
        outputs = [output for key in session.source.class_keys(position) for output in session.model.classes.outputs_of(key)]
        if outputs:
            images.append(session.model.preprocess(session.source.load(position)))
            labels.append(outputs[0])
            placed = (to_input(box, session.model.preprocess) for box in session.source.boxes(position))
            boxes.append([box for box in placed if box is not None])
            positions.append(position)
    return Pictures(session.model.net, torch.stack(images), torch.tensor(labels), boxes, torch.tensor(positions))


def logits_of(net: SplitModel, images: Tensor) -> Tensor:
    """Return the logits (n,C) of images (n,3,H,W), uint8 or in [0,1]."""
    return torch.cat([net(in_unit_range(part, net.dtype)) for part in images.split(BATCH)])


def explained(net: SplitModel, images: Tensor, targets: Tensor, names: Sequence[str], indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits (n,C), and the maps (n,h,w) of methods by their names; `indices` (n,) seeds the random control."""
    logits: list[Tensor] = []
    maps: dict[str, list[Tensor]] = {name: [] for name in names}
    for rows in torch.arange(len(images)).split(BATCH):
        probe = Probe(net, images[rows], targets[rows], indices[rows])
        logits.append(probe.logits)
        for name in names:
            maps[name].append(getattr(methods, name)(probe).detach())
    return torch.cat(logits), {name: torch.cat(parts) for name, parts in maps.items()}


def average_drops(net: SplitModel, images: Tensor, targets: Tensor, logits: Tensor, maps: Tensor) -> np.ndarray:
    """Return the drop in confidence (n,), in percent, with the top 20 % of the pixels kept on black (Ablation-CAM paper, eq. 5).

    `logits` (n,C) are those of the images as they are.
    """
    drops = []
    for rows in torch.arange(len(images)).split(BATCH):
        part = in_unit_range(images[rows], net.dtype)
        top = protocol.Ranking(protocol.upsample(maps[rows], (part.shape[2], part.shape[3]))).top(KEPT_PERCENT)
        masked = protocol.perturb(part, top, protocol.filling(part, "black", net.mean))
        full, kept = (confidence_and_logit(seen, targets[rows])[0] for seen in (logits[rows], net(masked)))
        assert full is not None and kept is not None
        drops.append(metrics.relative_drop(full.numpy(), kept.numpy()))
    return np.concatenate(drops)
