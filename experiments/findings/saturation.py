"""Test whether maps stop discriminating classes where a sigmoid is saturated (Ablation-CAM paper, section 5).

    python experiments/findings/saturation.py --out results        (two minutes on one CPU core)

writes `saturation.md`, and the paper's figure 4 of the most confident canvas as `saturation.png`. The network for several
labels (`model=two_digits`) explains both digits of every evaluation canvas, each from the class score and from its sigmoid.
Then its last layer is multiplied by 2, 4 and 8, which keeps the decisions and the maps from the score and brings the
confidence close to 1. A map is right where more of it lies in the explained digit's box than in the other's; an empty map
counts as half, which is chance.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from saturation_report import ABLATION, ABLATION_FLOAT, ABLATION_SIGMOID, GRAD, GRAD_DOUBLE, GRAD_SIGMOID, plain_of, report
from torch import Tensor, nn

from evalkit import protocol
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.data.digits import SIZE, TwoDigits
from evalkit.evaluation import localisation
from evalkit.evaluation.sanity import similarity
from evalkit.methods import ablation_cam, grad_cam
from evalkit.models import zoo
from evalkit.models.settings import ModelConfig
from evalkit.models.split import SplitModel
from evalkit.photos.figures import saturation
from evalkit.photos.figures.layout import ExplainedPhoto, style
from evalkit.photos.session import open_photo_session
from evalkit.probe import Probe

FACTORS = (1, 2, 4, 8)
BATCH = 199


def ablation_in_float32(probe: Probe) -> Tensor:
    """Return Ablation-CAM of the sigmoid as plain float32 code computes it: y and y^k are rounded, then subtracted."""
    drops = probe.scores.sigmoid()[:, None] - (probe.scores[:, None] - probe.drops).sigmoid()
    return torch.einsum("nk,nkhw->nhw", drops, probe.activations).relu()


VARIANTS: dict[str, tuple[torch.dtype, Callable[[Probe], Tensor]]] = {
    GRAD: (torch.float32, grad_cam),
    GRAD_SIGMOID: (torch.float32, lambda probe: grad_cam(probe, gradient="sigmoid")),
    GRAD_DOUBLE: (torch.float64, lambda probe: grad_cam(probe, gradient="sigmoid")),
    ABLATION: (torch.float32, ablation_cam),
    ABLATION_SIGMOID: (torch.float32, lambda probe: ablation_cam(probe, drop="sigmoid")),
    ABLATION_FLOAT: (torch.float32, ablation_in_float32),
}


@dataclass(frozen=True)
class Items:
    """All digits of all canvases: n is twice the number of canvases."""

    images: Tensor
    """(n,3,64,64) in [0,1], each canvas twice."""
    targets: Tensor
    own: Tensor
    """Pixels (n,64,64) of the explained digit's box."""
    other: Tensor
    canvas: np.ndarray


def read_items(source: TwoDigits) -> Items:
    """Return all digits of a source, in the order of its canvases."""
    images, targets, own, other = [], [], [], []
    for position in range(len(source)):
        image = torch.from_numpy(np.array(source.load(position))).permute(2, 0, 1) / 255
        first, second = source.boxes(position)
        for box, other_box in ((first, second), (second, first)):
            images.append(image)
            targets.append(int(str(box.key)))
            own.append(localisation.region([box], SIZE, SIZE))
            other.append(localisation.region([other_box], SIZE, SIZE))
    return Items(torch.stack(images), torch.tensor(targets), torch.stack(own), torch.stack(other), np.repeat(np.arange(len(source)), 2))


def split(module: nn.Module, config: ModelConfig, factor: float, dtype: torch.dtype) -> SplitModel:
    """Return the network with its last layer multiplied by a factor."""
    scaled = copy.deepcopy(module).eval()
    with torch.no_grad():
        scaled.classifier[-1].weight *= factor
        scaled.classifier[-1].bias *= factor
    return SplitModel(scaled.to(dtype), config.only_layer("this script"), mean=config.mean, std=config.std)


def measure(items: Items, net: SplitModel, method: Callable[[Probe], Tensor]) -> dict[str, Tensor]:
    """Return for every item (n) its score, the energy of its map in either box, and the sigmoid's largest gradient over the score's."""
    values: dict[str, list[Tensor]] = {name: [] for name in ("score", "own", "other", "empty", "factor", "low")}
    for at in torch.arange(len(items.images)).split(BATCH):
        probe = Probe(net, items.images[at], items.targets[at])
        low = method(probe)
        maps = protocol.upsample(low, (SIZE, SIZE))
        sizes = [probe.scored_gradients(score).abs().amax((1, 2, 3)).double() for score in ("sigmoid", "score")]
        values["score"].append(probe.scores.double())
        values["own"].append(localisation.energy_inside(maps, items.own[at]).double())
        values["other"].append(localisation.energy_inside(maps, items.other[at]).double())
        values["empty"].append((low.amax((1, 2)) == low.amin((1, 2))).double())
        values["factor"].append(sizes[0] / sizes[1])
        values["low"].append(low.double())
    return {name: torch.cat(parts) for name, parts in values.items()}


def table(items: Items, module: nn.Module, config: ModelConfig) -> pd.DataFrame:
    """Return one row for each item, factor and variant."""
    parts = []
    for factor in FACTORS:
        nets = {dtype: split(module, config, factor, dtype) for dtype in (torch.float32, torch.float64)}
        measured = {name: measure(items, nets[dtype], method) for name, (dtype, method) in VARIANTS.items()}
        for name, values in measured.items():
            own, other = (values[side].nan_to_num(0) for side in ("own", "other"))
            parts.append(
                pd.DataFrame({key: values[key].numpy() for key in ("score", "empty", "factor")}).assign(
                    times=factor,
                    variant=name,
                    canvas=items.canvas,
                    target=items.targets.numpy(),
                    right=100 * ((own > other).double() + (own == other).double() / 2).numpy(),
                    share=100 * (own / (own + other)).numpy(),
                    likeness=similarity(measured[plain_of(name)]["low"], values["low"])["pearson"],
                )
            )
    return pd.concat(parts, ignore_index=True)


def draw_most_confident(source: TwoDigits, measured: pd.DataFrame, out: Path) -> None:
    """Draw the paper's figure of the canvas whose less certain digit has the highest score."""
    as_trained = measured[(measured.times == 1) & (measured.variant == GRAD)]
    position = int(as_trained.groupby("canvas").score.min().idxmax())
    session = open_photo_session(compose_jobs(["model=two_digits"])[0].config)
    probes = saturation.two_classes(session, source.load(position))
    with style():
        figure = saturation.draw(session, [ExplainedPhoto(source.image_id(position), probe) for probe in probes])
        figure.savefig(out, dpi=200)


def main(out: Annotated[Path, typer.Option(help="Folder for the report, the table and the figure.")]) -> None:
    """Measure, report, draw."""
    config = compose_jobs(["model=two_digits"])[0].config.model
    module, _ = zoo.build(config)
    source = TwoDigits()
    measured = table(read_items(source), module, config)
    out.mkdir(parents=True, exist_ok=True)
    (out / "saturation.md").write_text(report(measured))
    draw_most_confident(source, measured, out / "saturation.png")


if __name__ == "__main__":
    run_script(main)
