"""Test whether larger windows let FastAblationCAM explain inner layers (its README, "Results"), and how long early layers take.

    PYTHONPATH=DATA/weights OMP_NUM_THREADS=1 python experiments/findings/inner_layers.py DATA OUT      (20 minutes on one CPU core)

DATA holds imagenet_val_acuity/, imagenette224/ and weights/. OUT receives the rows of each network (NETWORK.parquet, written after every
image; the same command continues), inner_layers.csv, inner_layers_tables.md and inner_layers.png.

The README says: at inner layers the method "does not work", perhaps because skip connections compensate a single cell; a larger
window might change that; early layers "take forever to ablate". MobileNetV2 has skip connections, squeezevgg10 has none.
Maps of three inner layers, by window, are compared with the last layer's map of the same image (Spearman's correlation over the last
layer's cells, after the mean over each cell's pixels) and of other images, which is what a map has that says nothing about its image.
The average drop at 20 % is that of the paper (keep the top 20 %, black, confidence).

The stride is the smallest with at most as many positions as `Network.layers` says. A window of one cell may then skip cells, whose
values are interpolated; larger windows always cover all cells. What skipping alone changes is measured where no cell is skipped.
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import typer
from inner_layers_report import CENTRE, GRAD, SKIPPING, SPATIAL, draw, markdown, statistics
from torch import Tensor

from evalkit import protocol
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError, did_you_mean
from evalkit.evaluation.session import Session, open_session
from evalkit.methods import centre, grad_cam
from evalkit.models.split import SplitModel
from evalkit.probe import Probe
from evalkit.scores import confidence_and_logit

CONF = Path(__file__).parents[1] / "conf"
WINDOWS = (1, 3, 5, 7, 9)
TOP_PERCENT = 20.0
CHUNK = 16
"""Ablated variants that are processed together: so few that they stay in the processor's cache."""


@dataclass(frozen=True)
class Network:
    """A network, its images, and its inner layers: the most positions of a window of one cell, and of several."""

    config: str
    weights: str
    data: str
    layers: Mapping[str, tuple[int, int]]


NETWORKS = {
    "mobilenet_v2": Network(
        "mobilenet_v2_half",
        "mobilenet_v2_imagenet",
        "imagenet_val_acuity",
        {"features.6": (64, 25), "features.13": (64, 25), "features.15": (64, 64)},
    ),
    "squeezevgg10": Network(
        "squeezevgg10",
        "squeezevgg10_imagenette",
        "imagenette224",
        {"features.7": (64, 25), "features.10": (64, 25), "features.11": (169, 25)},
    ),
}


def places(length: int, window: int, stride: int) -> list[int]:
    """Return where windows start: every `stride` cells, and the last one ends at the border (as in `spatial_ablation`)."""
    return sorted({*range(0, length - window, stride), length - window})


def smallest_stride(shape: tuple[int, int], window: int, most: int) -> int:
    """Return the smallest stride with at most `most` positions; a window of several cells leaves no cell uncovered."""
    longest = max(shape) if window == 1 else window
    strides = range(1, longest + 1)
    fitting = (s for s in strides if len(places(shape[0], window, s)) * len(places(shape[1], window, s)) <= most)
    return next(fitting, longest)


def masks(starts: tuple[list[int], list[int]], window: int, shape: tuple[int, int]) -> Tensor:
    """Return the masks (V,h,w) of square windows that start in these rows and columns."""
    regions = torch.zeros(len(starts[0]) * len(starts[1]), *shape, dtype=torch.bool)
    for region, (y, x) in zip(regions, itertools.product(*starts), strict=True):
        region[y : y + window, x : x + window] = True
    return regions


def region_drops(probe: Probe, regions: Tensor) -> Tensor:
    """Return `Probe.region_drops` of one image (1,V), by channels-last variants in small chunks, which take half the time on a CPU."""
    drops = []
    with torch.no_grad():
        for chunk in regions.split(CHUNK):
            variants = torch.where(chunk[:, None], probe.activations.new_zeros(()), probe.activations)
            context = tuple(tensor.expand(len(chunk), *tensor.shape[1:]).clone() for tensor in probe.context)
            logits = probe.net.head(variants.contiguous(memory_format=torch.channels_last), context)
            drops.append(probe.scores - logits[:, probe.targets[0]])
    return torch.cat(drops)[None]


def filled(values: Tensor, rows: list[int], columns: list[int], shape: tuple[int, int]) -> Tensor:
    """Return maps (N,h,w) from the values (N,R,C) of the cells in these rows and columns, linear between them."""

    def weights(length: int, at: list[int]) -> Tensor:
        return torch.from_numpy(np.stack([np.interp(np.arange(length), at, unit) for unit in np.eye(len(at))], axis=1)).to(values)

    return weights(shape[0], rows) @ values @ weights(shape[1], columns).T


def windowed(probe: Probe, window: int, most: int) -> tuple[Tensor, dict[str, int]]:
    """Return spatial_ablation's map (1,h,w) of one image with the smallest affordable stride; also `window`, `stride`, `positions`.

    Where a window of one cell skips cells, these are interpolated linearly along rows and columns.
    """
    shape = (probe.activations.shape[2], probe.activations.shape[3])
    stride = smallest_stride(shape, window, most)
    starts = (places(shape[0], window, stride), places(shape[1], window, stride))
    regions = masks(starts, window, shape)
    drops = region_drops(probe, regions)
    if window == 1:
        heat = filled(drops.view(1, len(starts[0]), len(starts[1])), *starts, shape)
    else:
        covering = regions.to(drops.dtype)
        heat = torch.einsum("nv,vhw->nhw", drops, covering) / covering.sum(0)
    return heat, {"window": window, "stride": stride, "positions": len(regions)}


def maps_of(probe: Probe, nets: Mapping[str, SplitModel], most: Mapping[str, tuple[int, int]]) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Yield each map (1,h,w) with what it is: the inner layers' by window and Grad-CAM's there, the last layer's, and the centre."""
    last = list(nets)[-1]
    yield {"layer": last, "method": CENTRE}, centre(probe)
    for layer, net in nets.items():
        at = probe.at(net)
        shape = at.activations.shape[1:]
        about = {"layer": layer, "channels": shape[0], "cells": shape[1] * shape[2]}
        yield {**about, "method": GRAD}, grad_cam(at)
        one, several = most.get(layer, (shape[1] * shape[2],) * 2)
        for window in (1,) if layer == last else (w for w in WINDOWS if w <= min(shape[1:])):
            start = time.perf_counter()
            heat, facts = windowed(at, window, one if window == 1 else several)
            yield {**about, "method": SPATIAL, **facts, "seconds": time.perf_counter() - start}, heat
            if window == 1 and facts["stride"] == 1 and layer != last:
                rows, columns = places(shape[1], 1, 2), places(shape[2], 1, 2)
                skipped = filled(heat[:, rows][:, :, columns], rows, columns, (shape[1], shape[2]))
                yield {**about, "method": SKIPPING, "window": 1, "stride": 2, "positions": len(rows) * len(columns)}, skipped


def image_rows(session: Session, most: Mapping[str, tuple[int, int]], position: int) -> list[dict[str, Any]]:
    """Return one image's rows: facts, the map in the last layer's cells, its largest value over the score in %, and the drop in %."""
    nets = dict(zip(session.config.model.layers, session.model.nets, strict=True))
    image = session.model.preprocess(session.source.load(position))[None].float() / 255
    probe = Probe(session.model.net, image, indices=torch.tensor([position]))
    grid = (probe.activations.shape[2], probe.activations.shape[3])
    size = (image.shape[2], image.shape[3])
    rows, kept = [], []
    for about, heat in maps_of(probe, nets, most):
        large = protocol.upsample(heat, size)
        kept.append(protocol.Ranking(large).top(TOP_PERCENT))
        coarse = F.adaptive_avg_pool2d(large, grid)[0]
        largest = 100 * float(heat.abs().amax() / probe.scores.abs()) if about["method"] == SPATIAL else np.nan
        rows.append({"index": position, **about, "map": coarse.flatten().double().tolist(), "height": grid[0], "largest": largest})
    masks = torch.cat(kept)
    with torch.no_grad():
        logits = session.model.net(protocol.perturb(image.expand(len(masks), -1, -1, -1), masks, torch.zeros_like(image[:, :, :1, :1])))
    full, _ = confidence_and_logit(probe.logits, probe.targets)
    masked, _ = confidence_and_logit(logits, probe.targets.expand(len(masks)))
    drops = 100 * (1 - masked / full).clamp(min=0)
    return [{**row, "drop": float(drop)} for row, drop in zip(rows, drops, strict=True)]


def opened(name: str, data: Path, images: int) -> Session:
    """Return the session of a network at its inner layers and the last one, and of a stratified sample of its images."""
    network = NETWORKS[name]
    overrides = [
        f"model={network.config}", f"model.weights={data}/weights/{network.weights}.safetensors",
        f"model.layer=[{','.join([*network.layers, 'features'])}]", "data=image_folder", f"data.root={data}/{network.data}",
        f"data.labels={data}/{network.data}/labels.csv", "method=[grad_cam]", f"sample={images}", "device=cpu",
    ]  # fmt: skip
    return open_session(compose_jobs(overrides, conf=CONF)[0].config)


def measured(name: str, session: Session, file: Path) -> pd.DataFrame:
    """Return the rows of a session's images; they are kept in a parquet file, and only missing images are computed."""
    table = pd.read_parquet(file) if file.exists() else pd.DataFrame({"index": []})
    for position in np.random.default_rng(0).permutation(session.positions).tolist():  # a stopped run then has a random part
        if position in set(table["index"]):
            continue
        rows = pd.DataFrame(image_rows(session, NETWORKS[name].layers, position)).assign(network=name)
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        table.to_parquet(file)
        print(f"{name}: {table['index'].nunique()} of {len(session.positions)} images", flush=True)
    return table[table["index"].isin(session.positions)]


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the image sets and weights.")],
    out: Annotated[Path, typer.Argument(help="Folder for the rows, the table and the figure.")],
    networks: Annotated[list[str], typer.Option("--network", help="Networks; all by default.")] = list(NETWORKS),  # noqa: B006 - typer copies it
    images: Annotated[int, typer.Option(min=2, help="Images of each network: a stratified sample.")] = 100,
) -> None:
    """Measure, then write inner_layers.csv, inner_layers_tables.md and inner_layers.png."""
    for name in networks:
        if name not in NETWORKS:
            raise UserError(f"no network '{name}'{did_you_mean(name, NETWORKS)}")
    out.mkdir(parents=True, exist_ok=True)
    table = pd.concat([measured(name, opened(name, data, images), out / f"{name}.parquet") for name in networks], ignore_index=True)
    found = statistics(table)
    found.to_csv(out / "inner_layers.csv", index=False, float_format="%.4g")
    (out / "inner_layers_tables.md").write_text(markdown(found), encoding="utf-8")
    draw(found).savefig(out / "inner_layers.png", dpi=150)


if __name__ == "__main__":
    run_script(main)
