"""Test whether FastAblationCAM's maps are shifted sideways against Grad-CAM's, and what would shift them (its README, "Results").

    PYTHONPATH=DATA/weights OMP_NUM_THREADS=1 python experiments/findings/lateral_shift.py DATA OUT      (5 minutes on one busy CPU core)

DATA holds imagenet_val_acuity/, imagenette224/ and weights/. OUT receives lateral_shift.csv: how far spatial_ablation's map of the last
layer lies to the right of and below Grad-CAM's, in pixels of the network's input, by two measures: the difference of the centres of mass,
and the shift at which the two maps correlate most. Negative drops are set to zero first, since Grad-CAM ends in a ReLU. Beside evalkit's
own map the same drops as other programs might place them: `VARIANTS`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from evalkit import protocol
from evalkit.analysis import significance, stats
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError, did_you_mean
from evalkit.evaluation.session import open_session
from evalkit.methods import grad_cam, spatial_ablation
from evalkit.methods.local import windows
from evalkit.probe import Probe

CONF = Path(__file__).parents[1] / "conf"
BATCH = 10


@dataclass(frozen=True)
class Network:
    """A network in experiments/conf/model, its weights and its images."""

    config: str
    weights: str
    data: str


NETWORKS = {
    "mobilenet_v2": Network("mobilenet_v2_half", "mobilenet_v2_imagenet", "imagenet_val_acuity"),
    "mobilenet_v3_small": Network("mobilenet_v3_small_half", "mobilenet_v3_small_imagenet", "imagenet_val_acuity"),
    "squeezenet1_0": Network("squeezenet1_0_227", "squeezenet1_0_imagenet", "imagenet_val_acuity"),
    "squeezevgg10": Network("squeezevgg10", "squeezevgg10_imagenette", "imagenette224"),
}

Size = tuple[int, int]


def in_first_cell(probe: Probe, size: Size) -> Tensor:
    """Windows of 2 x 2 cells, each drop at its window's first cell; the last row and column stay empty."""
    height, width = probe.activations.shape[2:]
    drops = probe.region_drops(windows(height, width, 2, 1)).view(-1, height - 1, width - 1)
    return protocol.upsample(F.pad(drops.relu(), (0, 1, 0, 1)), size)


def without_the_rest(probe: Probe, size: Size) -> Tensor:
    """Windows of 2 x 2 cells side by side, an odd last row and column left out, and the map stretched over the whole image."""
    height, width = (length // 2 * 2 for length in probe.activations.shape[2:])
    regions = torch.zeros(height * width // 4, *probe.activations.shape[2:], dtype=torch.bool)
    regions[:, :height, :width] = windows(height, width, 2, 2)
    return protocol.upsample(probe.region_drops(regions).view(-1, height // 2, width // 2).relu(), size)


def corners_aligned(probe: Probe, size: Size) -> Tensor:
    """Upsample so that the outer cells' centres come to the image's corners."""
    return F.interpolate(spatial_ablation(probe)[:, None].relu(), size=size, mode="bilinear", align_corners=True)[:, 0]


VARIANTS: dict[str, Callable[[Probe, Size], Tensor]] = {
    "evalkit": lambda probe, size: protocol.upsample(spatial_ablation(probe).relu(), size),
    "evalkit, window 2": lambda probe, size: protocol.upsample(spatial_ablation(probe, window=2).relu(), size),
    "not cut at zero": lambda probe, size: protocol.soft_mask(protocol.upsample(spatial_ablation(probe), size)),
    "corners aligned": corners_aligned,
    "window 2, in its first cell": in_first_cell,
    "window 2 side by side, rest left out": without_the_rest,
}
"""Maps (N,H,W) of the same drops, as different programs place them; "not cut at zero" scales both maps to [0,1] as the README does."""


def centre_of_mass(maps: Tensor) -> Tensor:
    """Return (x, y) of maps (N,H,W) without negative values in pixels, (N,2); nan where all is zero."""
    mass = maps.double()
    total = mass.sum((1, 2))
    x = (mass.sum(1) * torch.arange(maps.shape[2])).sum(1) / total
    y = (mass.sum(2) * torch.arange(maps.shape[1])).sum(1) / total
    return torch.stack([x, y], 1)


def best_shift(maps: Tensor, others: Tensor) -> Tensor:
    """Return by how many pixels (x, y) to the right and down maps (N,H,W) lie of `others`, at the highest cross-correlation, (N,2).

    The maps' means are subtracted first. nan where a map is constant.
    """
    height, width = maps.shape[1:]
    first, second = ((m.double() - m.double().mean((1, 2), keepdim=True)) for m in (maps, others))
    size = (2 * height, 2 * width)
    product = torch.fft.irfft2(torch.fft.rfft2(first, s=size) * torch.fft.rfft2(second, s=size).conj(), s=size)
    at = product.flatten(1).argmax(1)
    y, x = at // size[1], at % size[1]
    shift = torch.stack([torch.where(x < width, x, x - size[1]), torch.where(y < height, y, y - size[0])], 1).double()
    constant = (first.abs().amax((1, 2)) == 0) | (second.abs().amax((1, 2)) == 0)
    return torch.where(constant[:, None], torch.nan, shift)


def displacements(name: str, data: Path, images: int) -> Iterator[pd.DataFrame]:
    """Yield for batches of a network's images one row for each image and variant; `cell` is the size of a cell in pixels."""
    network = NETWORKS[name]
    overrides = [
        f"model={network.config}", f"model.weights={data}/weights/{network.weights}.safetensors", "data=image_folder",
        f"data.root={data}/{network.data}", f"data.labels={data}/{network.data}/labels.csv", "method=[grad_cam]", f"sample={images}",
        "device=cpu",
    ]  # fmt: skip
    session = open_session(compose_jobs(overrides, conf=CONF)[0].config)
    for start in range(0, len(session.positions), BATCH):
        at = session.positions[start : start + BATCH]
        pictures = torch.stack([session.model.preprocess(session.source.load(position)) for position in at]).float() / 255
        probe, size = Probe(session.model.net, pictures), (pictures.shape[2], pictures.shape[3])
        grad = protocol.upsample(grad_cam(probe), size)
        for variant, placed in VARIANTS.items():
            heat = placed(probe, size)
            reference = protocol.soft_mask(grad) if variant == "not cut at zero" else grad
            mass = centre_of_mass(heat) - centre_of_mass(reference)
            peak = best_shift(heat, reference)
            yield pd.DataFrame(
                {
                    "network": name, "variant": variant, "index": at, "cell": size[1] / probe.activations.shape[3],
                    "mass, right": mass[:, 0], "mass, down": mass[:, 1], "mass, distance": mass.norm(dim=1),
                    "correlation, right": peak[:, 0], "correlation, down": peak[:, 1], "correlation, distance": peak.norm(dim=1),
                }
            )  # fmt: skip


def statistics(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each measure with its interval over images, and p of no displacement (nan for a distance)."""
    rows = []
    for (network, variant), part in table.groupby(["network", "variant"], sort=False):
        measures = [name for name in part if name.startswith(("mass", "correlation"))]
        for measure, interval in stats.bootstrap({name: part[name].to_numpy()[None] for name in measures}).items():
            p = float("nan") if "distance" in measure else significance.sign_flip(part[measure].to_numpy(float)[None])[0]
            numbers = {"value": interval.value[0], "low": interval.low[0], "high": interval.high[0], "p": p}
            n = int(np.isfinite(part[measure]).sum())
            rows.append({"network": network, "variant": variant, "cell": part.cell.iloc[0], "measure": measure, "n": n, **numbers})
    return pd.DataFrame(rows)


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the image sets and weights.")],
    out: Annotated[Path, typer.Argument(help="Folder for the table.")],
    networks: Annotated[list[str], typer.Option("--network", help="Networks; all by default.")] = list(NETWORKS),  # noqa: B006 - typer copies it
    images: Annotated[int, typer.Option(min=2, help="Images of each network: a stratified sample.")] = 100,
) -> None:
    """Measure, then write lateral_shift.csv."""
    parts = []
    for name in networks:
        if name not in NETWORKS:
            raise UserError(f"no network '{name}'{did_you_mean(name, NETWORKS)}")
        parts += list(displacements(name, data, images))
        print(f"{name}: measured", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    statistics(pd.concat(parts, ignore_index=True)).to_csv(out / "lateral_shift.csv", index=False, float_format="%.3g")


if __name__ == "__main__":
    run_script(main)
