"""Check Ablation-CAM and Grad-CAM on networks of twelve families, most of them without a convolutional last layer.

    python experiments/correctness/architectures.py --csv results/architectures.csv     (about half an hour on two CPU cores)

timm's networks with random weights, at the layer that evalkit proposes. `error_float32` and `error_float64` are the largest
difference between the exact drops and a pass of the whole network per channel, relative to the largest drop;
`rounding_float32` is the same for the loop in float32 against the loop in float64, which no method can be better than.
`grad_cam` is the largest difference of a pixel between our Grad-CAM and pytorch-grad-cam's with the `reshape_transform` that its
users write by hand, after upsampling and min-max normalisation, with the lowest correlation of the images beside it. `forwards` is the
time of Ablation-CAM from images to maps in plain forward passes of the same batch, in turns: median, lowest, highest.
families.py asks less of every family of timm.
"""

import copy
import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import timm
import torch
import typer
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from reference import MEAN, STD, brute_force_drops, compare, randomise_constants, randomise_norms
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods
from evalkit.bench.timing import take_turns
from evalkit.cli.script import run_script
from evalkit.models.proposal import propose

Reshape = Callable[[Tensor], Tensor]


def tokens(prefix: int, side: int) -> Reshape:
    """Return the transformation of tokens (N,prefix+side^2,K) to maps (N,K,side,side)."""
    return lambda out: out[:, prefix:].transpose(1, 2).unflatten(2, (side, side))


def channels_last(out: Tensor) -> Tensor:
    """Return maps (N,K,h,w) of an output (N,h,w,K)."""
    return out.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Architecture:
    """A network of timm, and how its users tell pytorch-grad-cam what its layer puts out (nothing where that is maps)."""

    family: str
    network: str
    reshape: Reshape | None = None


ARCHITECTURES = [
    Architecture("ViT, class token", "vit_tiny_patch16_224", tokens(1, 14)),
    Architecture("ViT, average pooling", "vit_wee_patch16_reg1_gap_256", tokens(1, 16)),
    Architecture("Swin", "swin_tiny_patch4_window7_224", channels_last),
    Architecture("MaxViT", "maxvit_nano_rw_256"),
    Architecture("MLP-Mixer", "mixer_s32_224", tokens(0, 7)),
    Architecture("ConvNeXt", "convnext_atto"),
    Architecture("EfficientNet", "efficientnet_b0"),
    Architecture("CrossViT", "crossvit_tiny_240", tokens(1, 14)),
    Architecture("XCiT", "xcit_nano_12_p16_224", tokens(1, 14)),
    Architecture("DaViT", "davit_tiny"),
    Architecture("HaloNet", "halonet26t"),
    Architecture("MambaOut", "mambaout_femto", channels_last),
]


def built(network: str) -> tuple[nn.Module, tuple[int, int]]:
    """Return a network in eval mode, with random weights also where its constructor writes constants, and its size (H,W)."""
    torch.manual_seed(0)
    module = timm.create_model(network).eval()
    randomise_norms(module)
    randomise_constants(module)
    _, height, width = timm.data.resolve_model_data_config(module)["input_size"]
    return module, (height, width)


def drops(module: nn.Module, layer: str, image: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
    """Return our drops and the loop's (N,n) of at most `count` random channels, and the largest drop of all channels."""
    net = SplitModel(module, layer, mean=MEAN, std=STD)
    probe = Probe(net, image.to(net.dtype))
    kept = torch.randperm(probe.activations.shape[1], generator=torch.Generator().manual_seed(0))[:count].tolist()
    last = net.grid.layout == "channels_last"
    normalised = (probe.images - net.mean) / net.std
    loop = brute_force_drops(module, layer, normalised, probe.targets, kept, net.grid.prefix, last)
    return probe.drops[:, kept], loop, float(probe.drops.abs().max())


def grad_cam_difference(architecture: Architecture, module: nn.Module, layer: str, images: Tensor) -> tuple[float, float]:
    """Return the largest difference of a pixel from pytorch-grad-cam's Grad-CAM, and the lowest correlation."""
    probe = Probe(SplitModel(module, layer, mean=MEAN, std=STD), images)
    targets = [ClassifierOutputTarget(target) for target in probe.targets.tolist()]
    with GradCAM(module, [module.get_submodule(layer)], reshape_transform=architecture.reshape) as cam:
        theirs = torch.from_numpy(cam((images - probe.net.mean) / probe.net.std, targets=targets))
    difference, correlation = compare(methods.grad_cam(probe), theirs, (images.shape[2], images.shape[3]))
    return float(difference.max()), float(correlation.nan_to_num(1.0).min())


def forwards(module: nn.Module, layer: str, images: Tensor, repeats: int) -> list[float]:
    """Return the time of Ablation-CAM relative to a plain forward pass of the batch, for each repeat."""
    net = SplitModel(module, layer, mean=MEAN, std=STD)
    normalised = (images - net.mean) / net.std

    def plain() -> Tensor:
        with torch.inference_mode():
            return module(normalised)

    times = take_turns({"plain": plain, "ours": lambda: methods.ablation_cam(Probe(net, images))}, repeats)
    return [ours / forward for ours, forward in zip(times["ours"], times["plain"], strict=True)]


def measure(architecture: Architecture, count: int, batch: int, repeats: int) -> dict[str, Any]:
    """Return one row of the table."""
    module, size = built(architecture.network)
    images = torch.rand(max(batch, 3), 3, *size, generator=torch.Generator().manual_seed(1))
    layer = propose(module, images[:2]).layer
    probe = Probe(SplitModel(module, layer, mean=MEAN, std=STD), images[:1])
    tier = probe.tier
    single, loop, largest = drops(module, layer, images[:1], count)
    double, exact, largest_exact = drops(copy.deepcopy(module).double(), layer, images[:1], count)
    difference, correlation = grad_cam_difference(architecture, module, layer, images[:3])
    ratios = forwards(module, layer, images[:batch], repeats)
    return {
        "family": architecture.family, "network": architecture.network, "size": f"{size[0]}x{size[1]}", "layer": layer,
        "cut": f"tier {tier.number}" if probe.net.head_graph is not None else "hook", "grid": str(probe.net.grid),
        "channels": probe.activations.shape[1], "sampled": single.shape[1], "largest_drop": largest,
        "error_float32": float((single - loop).abs().max() / largest),
        "rounding_float32": float((loop - exact).abs().max() / largest_exact),
        "error_float64": float((double - exact).abs().max() / largest_exact),
        "grad_cam": difference, "grad_cam_correlation": correlation,
        "forwards": statistics.median(ratios), "forwards_lowest": min(ratios), "forwards_highest": max(ratios),
        "batch": batch, "repeats": repeats, "threads": torch.get_num_threads(),
    }  # fmt: skip


def main(
    csv_file: Annotated[Path, typer.Option("--csv", help="The table.")],
    count: Annotated[int, typer.Option("--channels", help="At most as many random channels per network.")] = 256,
    batch: Annotated[int, typer.Option(help="Images of a batch that is timed.")] = 8,
    repeats: Annotated[int, typer.Option(help="Repeats of the timing.")] = 5,
    network: Annotated[list[str] | None, typer.Option(help="Only these networks.")] = None,
) -> None:
    """Measure the twelve networks."""
    rows: list[dict[str, Any]] = []
    for architecture in ARCHITECTURES:
        if network and architecture.network not in network:
            continue
        rows.append(measure(architecture, count, batch, repeats))
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(csv_file, index=False)
        gc.collect()


if __name__ == "__main__":
    run_script(main)
