"""Explain one network of each of timm's families at the layer that evalkit proposes, and compare its drops with brute force.

    python experiments/correctness/families.py --csv results/families.csv    (about half an hour and 8 GB of memory on two CPU cores)

Of each family (a module of timm.models) it is the smallest classifier that timm builds, of at most 60 million parameters, with
random weights. The table says how its layer's output lies, whether torch.fx cuts it ("tier" 1 to 3) or a hook does, and the
largest error in float64 of a few channels' drops relative to the largest drop, against one pass of the whole network for each
channel. architectures.py has float32, other libraries and times for twelve of them.
"""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import timm
import torch
import typer
from reference import MEAN, STD, brute_force_drops, brute_force_drops_of_function, randomise_constants, randomise_norms
from timm.models._registry import _model_to_module

from evalkit import Probe, SplitModel
from evalkit.cli.script import run_script
from evalkit.models.proposal import propose

MOST = 60e6


def smallest() -> Iterator[tuple[str, str, float]]:
    """Yield each family, its smallest classifier, and the number of its parameters; the name is empty where there is none."""
    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(_model_to_module[name], []).append(name)
    for family, names in sorted(families.items()):
        sizes = {}
        for name in names:
            try:
                with torch.device("meta"):
                    module = timm.create_model(name)
            except (NotImplementedError, RuntimeError):  # a constructor that reads its own values
                module = timm.create_model(name)
            if module.num_classes > 1:
                sizes[name] = sum(parameter.numel() for parameter in module.parameters())
        best = min(sizes, key=lambda name: sizes[name], default="")
        yield family, best, sizes.get(best, 0)


def measure(name: str, count: int) -> dict[str, Any]:
    """Return layer, grid, tier and largest relative error of one network over `count` random channels of one random image."""
    torch.manual_seed(0)
    module = timm.create_model(name).eval()
    size = timm.data.resolve_model_data_config(module)["input_size"]
    proposal = propose(module, torch.rand(2, *size))
    randomise_norms(module)
    randomise_constants(module)
    module = module.double()
    net, images = SplitModel(module, proposal.layer, mean=MEAN, std=STD), torch.rand(1, *size, dtype=torch.float64)
    probe = Probe(net, images)
    channels = torch.randperm(probe.activations.shape[1])[:count].tolist()
    normalised = (images - net.mean) / net.std
    if proposal.layer.partition(":")[0] in dict(module.named_modules()):
        last = net.grid.layout == "channels_last"
        loop = brute_force_drops(module, proposal.layer, normalised, probe.targets, channels, net.grid.prefix, last)
    else:
        loop = brute_force_drops_of_function(module, probe.activations, normalised, probe.targets, channels)
    largest = probe.drops.abs().max()
    return {
        "size": f"{size[1]}x{size[2]}",
        "layer": proposal.layer,
        "grid": str(net.grid),
        "cut": f"tier {probe.tier.number}" if net.head_graph is not None else "hook",
        "channels": probe.activations.shape[1],
        "reason": proposal.reason,
        "largest_drop": float(largest),
        "error": float((probe.drops[:, channels] - loop).abs().max() / largest),
    }


def main(
    csv_file: Annotated[Path, typer.Option("--csv", help="The table.")],
    count: Annotated[int, typer.Option("--channels", help="Random channels per network.")] = 4,
    family: Annotated[list[str] | None, typer.Option(help="Only these families.")] = None,
) -> None:
    """Measure the smallest network of each family."""
    rows: list[dict[str, Any]] = []
    for name, network, parameters in smallest():
        if family and name not in family:
            continue
        row: dict[str, Any] = {"family": name, "network": network, "million_parameters": round(parameters / 1e6, 1)}
        if not network:
            row["refused"] = "no classifier"
        elif parameters > MOST:
            row["refused"] = "more than 60 million parameters"
        else:
            try:
                row |= measure(network, count)
            except Exception as reason:  # the table names what does not work, whatever the cause
                row["refused"] = f"{type(reason).__name__}: {' '.join(str(reason).split())}"
        rows.append(row)
        print(row, flush=True)
        pd.DataFrame(rows).to_csv(csv_file, index=False)
        gc.collect()


if __name__ == "__main__":
    run_script(main)
