"""Find the tier of `evalkit.ablation` for each torchvision network, and compare its drops with brute force.

    python experiments/correctness/tiers.py --csv results/tiers.csv      (about four minutes and 6 GB of memory on two CPU cores)

Every network of torchvision.models that classifies images, at the layer that evalkit proposes for it, with random
weights and random BatchNorm (see reference.py), on a small image: the tier depends on the graph, not on the image size.
`error` is the largest difference over the sampled channels between the exact drops and a forward pass of the whole
network per channel, divided by the largest drop. families.py is the same for timm.
"""

import gc
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from reference import MEAN, STD, brute_force_drops, randomise_constants, randomise_norms

from evalkit import Probe, SplitModel
from evalkit.cli.script import run_script
from evalkit.models import catalogue, zoo
from evalkit.models.proposal import NoLayer
from evalkit.models.settings import ModelConfig

HOOKED = {"relu": "features"}
"""The layer to hook instead: DenseNet's layer is a function, which takes no hook. Zero before that ReLU is zero after it."""

SIZES = {"maxvit_t": 224, "inception_v3": 128, "vit_b_16": 224, "vit_b_32": 224, "vit_l_16": 224, "vit_l_32": 224, "vit_h_14": 518}
"""Sides of networks that need a larger image: transformers have one fixed size, maps of Inception have one position below that."""


def config(name: str) -> ModelConfig:
    """Return the settings of a network by name, with random weights."""
    entry = catalogue.entry(name)
    assert entry is not None
    return ModelConfig(**{**entry, "weights": None})


def measure(name: str, size: int, count: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return layer, tier and largest relative error of one network over `count` random channels of one random image."""
    settings = config(name)
    layer = zoo.proposed_layer(settings).layer
    torch.manual_seed(0)
    module = zoo.find(settings.factory, "model.factory")(**settings.args).eval()
    randomise_norms(module)
    if name.startswith(("vit", "swin", "maxvit")):
        randomise_constants(module)
    return {"model": name, **measure_module(module.to(dtype), layer, size, count)}


def measure_module(module: torch.nn.Module, layer: str, size: int, count: int) -> dict[str, Any]:
    """Return the same for a module that is already built."""
    net = SplitModel(module, layer, mean=MEAN, std=STD)
    images = torch.rand(1, 3, size, size).to(net.dtype)
    probe = Probe(net, images)
    channels = torch.randperm(probe.activations.shape[1])[:count].tolist()
    normalised = (images - net.mean) / net.std
    theirs = brute_force_drops(
        module, HOOKED.get(layer, layer), normalised, probe.targets, channels, net.grid.prefix, net.grid.layout == "channels_last"
    )
    largest = probe.drops.abs().max()
    return {
        "layer": layer,
        "tier": probe.tier.number,
        "traced": net.head_graph is not None,
        "channels": probe.activations.shape[1],
        "positions": f"{probe.activations.shape[2]}x{probe.activations.shape[3]}",
        "grid": str(net.grid),
        "sampled": len(channels),
        "size": size,
        "largest_drop": float(largest),
        "error": float((probe.drops[:, channels] - theirs).abs().max() / largest),
        "reason": probe.tier.reason,
    }


def main(
    csv_file: Annotated[Path, typer.Option("--csv", help="The table.")],
    count: Annotated[int, typer.Option("--channels", help="Random channels per network.")] = 8,
    size: Annotated[int, typer.Option(help="Side of the image.")] = 96,
    model: Annotated[list[str] | None, typer.Option(help="Only these networks.")] = None,
) -> None:
    """Measure all networks."""
    rows: list[dict[str, Any]] = []
    for name in model or catalogue.names():
        try:
            rows.append(measure(name, SIZES.get(name, size), count))
        except NoLayer as reason:
            rows.append({"model": name, "reason": str(reason)})
        print(rows[-1], flush=True)
        pd.DataFrame(rows).convert_dtypes().to_csv(csv_file, index=False)
        gc.collect()


if __name__ == "__main__":
    run_script(main)
