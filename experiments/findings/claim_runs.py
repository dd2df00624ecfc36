"""The runs that several claims share: two networks with real weights, methods and controls under three protocols."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from coco_objects import finished

from evalkit.analysis import metrics
from evalkit.analysis.load import Run, at_point
from evalkit.evaluation.session import Session
from evalkit.point import Point

KEEP, SOFT, REMOVE = Point("keep_top", 20.0, "black"), Point("soft", None, "black"), Point("remove_top", 25.0, "black")
METHODS = ("ablation_cam", "grad_cam", "grad_cam_pp", "ablation_cam_softmax", "ablated_input_cam", "random", "centre", "constant")
POINTS = (
    "protocol=published",
    "protocol.points=[{select: keep_top, top_percent: 20, fill: black}, {select: soft, fill: black}, "
    "{select: remove_top, top_percent: 25, fill: black}]",
)


@dataclass(frozen=True)
class Setting:
    """A network and its images: `data` in words, `overrides` those of the model and the images in a folder of data."""

    network: str
    data: str
    overrides: Callable[[Path], Sequence[str]]
    methods: tuple[str, ...] = METHODS


def _squeezevgg10(data: Path) -> Sequence[str]:
    return [
        "model=squeezevgg10", f"model.weights={data}/weights/squeezevgg10_imagenette.safetensors",
        "data=image_folder", f"data.root={data}/imagenette224/images", f"data.boxes={data}/imagenette224/boxes.csv",
    ]  # fmt: skip


def _mobilenet_v2(data: Path) -> Sequence[str]:
    return [
        "model=mobilenet_v2_half", f"model.weights={data}/weights/mobilenet_v2_imagenet.safetensors", "data=imagenet",
        f"data.root={data}/imagenet_val_acuity/images", f"data.boxes={data}/imagenet_val_acuity/boxes.csv", "sample=150",
    ]  # fmt: skip


SETTINGS = [
    Setting("squeezevgg10", "imagenette224, all 260 images", _squeezevgg10),
    Setting("mobilenet_v2", "imagenet_val_acuity, a seeded sample of 150 images", _mobilenet_v2, ("cam", *METHODS)),
]


def shared_run(setting: Setting, data: Path, out: Path) -> tuple[Session, Run]:
    """Compute or resume the run of a network that explains the predicted classes and stores the maps."""
    overrides = [f"method=[{','.join(setting.methods)}]", *POINTS, "maps=store", "workers=0", "batch_size=16", "shard_size=20"]
    return finished([*setting.overrides(data), *overrides, f"out={out}/shared-{setting.network}"])


def drops(run: Run, point: Point, score: str) -> pd.DataFrame:
    """Return the drops in percent of the explained class's score, a row for each image, a column for each method."""
    rows = at_point(run.scored, point)
    column = {"confidence": "prob", "activation": "logit"}[score]
    drop = metrics.relative_drop(rows[f"{column}_full"].to_numpy(), rows[f"{column}_masked"].to_numpy())
    return rows.assign(drop=drop).pivot(index="index", columns="method", values="drop")
