"""CAM's bias term: the accuracy with and without the bias of the last linear layer, on three networks with global average pooling."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from claim_rows import Claim, Row
from coco_objects import CONF
from torch import Tensor, nn

from evalkit.analysis import stats
from evalkit.config.compose import compose_jobs
from evalkit.evaluation.session import Session, open_session
from evalkit.pixels import in_unit_range

BATCH = 32
CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
MARGIN = 1
"""Percentage points of accuracy that count as little impact."""

CLAIM = Claim(
    "The bias of the softmax's input can be set to 0: it has little to no impact on the classification performance.",
    "Bisen and Bakshi, section 2",
    "",
    "",
    how="The last linear layer's bias is set to 0 and the accuracy compared on the same images, in percentage points; p of the "
    f"difference is McNemar's, exact. Little impact: a difference within {MARGIN} point.",
)
NETWORKS: dict[str, tuple[str, Callable[[Path], Sequence[str]]]] = {
    "mobilenet_v2": (
        "imagenet_val_acuity, all 600 images",
        lambda data: [
            "model=mobilenet_v2_half", f"model.weights={data}/weights/mobilenet_v2_imagenet.safetensors", "data=imagenet",
            f"data.root={data}/imagenet_val_acuity/images",
        ],
    ),
    "cifar_resnet20": (
        "cifar10_test, all 1000 images",
        lambda data: [
            "model=cifar_resnet20", f"model.weights={data}/weights/cifar_resnet20.safetensors", "data=image_folder",
            f"data.root={data}/cifar10_test/images", f"model.classes=[{CIFAR10}]",
        ],
    ),
    "digits_gap": ("digits, all 797 evaluation canvases", lambda _: ["model=digits_gap", "data=digits"]),
}  # fmt: skip


def measure(data: Path, out: Path) -> list[Row]:
    """Return the rows of all networks."""
    rows = []
    for network, (images, overrides) in NETWORKS.items():
        (job,) = compose_jobs([*overrides(data), "method=[grad_cam]", f"out={out}/bias-{network}"], conf=CONF)
        logits, labels, bias = outputs(open_session(job.config))
        rows += compared(replace(CLAIM, network=network, data=images), logits, labels, bias)
    return rows


def compared(claim: Claim, logits: Tensor, labels: Tensor, bias: Tensor) -> list[Row]:
    """Return the rows of one network: logits (n,C) with the bias (C,), labels (n,)."""
    with_bias, without = logits.argmax(1), (logits - bias).argmax(1)
    right, still = (with_bias == labels).numpy(), (without == labels).numpy()
    change = claim.difference("accuracy without the bias less with it, points", 100.0 * still, 100.0 * right, expects=f"within {MARGIN}")
    return [
        claim.level("top-1 with the bias, %", 100.0 * right),
        claim.level("top-1 without the bias, %", 100.0 * still),
        {**change, "p": stats.mcnemar(still, right)},
        claim.level("predictions that change, %", 100.0 * (with_bias != without).numpy()),
        claim.estimate(
            "largest bias over the standard deviation of an image's logits",
            *(float(bias.abs().max() / logits.std(1).mean()), np.nan, np.nan),
            images=len(labels),
        ),
    ]


def outputs(session: Session) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (n,C) and outputs of the labels (n,) of all images, and the last linear layer's bias (C,)."""
    net, logits = session.model.net, []
    labels = [session.model.classes.outputs_of(session.source.class_keys(position)[0])[0] for position in session.positions]
    for batch in images_of(session, BATCH):
        with torch.no_grad():
            logits.append(net(in_unit_range(batch, net.dtype)))
    last = [part for part in session.model.module.modules() if isinstance(part, nn.Linear)][-1]
    return torch.cat(logits).double(), torch.tensor(labels), last.bias.detach().double()


def images_of(session: Session, size: int) -> Iterator[Tensor]:
    """Yield the images of a session in batches (n,3,H,W), in the order of its positions."""
    for start in range(0, len(session.positions), size):
        yield torch.stack([session.model.preprocess(session.source.load(p)) for p in session.positions[start : start + size]])
