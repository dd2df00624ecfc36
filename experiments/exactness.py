"""How far are the exact drops from a loop over the whole network, and from captum?

    python experiments/exactness.py --csv results/exactness.csv      (about 15 minutes on two CPU cores)

Random weights, with BatchNorm statistics and affine parameters randomised: the default ones make g(0) = 0 and would
hide a forgotten bracket. For each network and layer: the tier chosen, and the largest deviation over the sampled
channels, relative to the largest drop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import torchvision
import typer
from captum.attr import LayerFeatureAblation
from torch import Tensor, nn

from evalkit import Probe, SplitModel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """One network cut at one layer. `size` is the side of the input in the full check, `small` in the tests."""

    model: str
    layer: str
    size: int = 224
    small: int = 64
    args: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("vgg16", "features.29"),
    Case("alexnet", "features.11"),
    Case("inception_v3", "Mixed_7c", 299, 96, {"init_weights": False, "transform_input": True}),
    Case("resnet50", "layer4"),
    Case("mobilenet_v2", "features"),
    Case("mobilenet_v3_small", "features"),
    Case("squeezenet1_0", "features"),
    Case("densenet169", "features"),
    Case("convnext_tiny", "features"),
    Case("resnet50", "layer4.2.conv3"),
    Case("vgg16", "features.22"),
    Case("resnet50", "layer3"),
]


def randomised(case: Case, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """The network with random weights and random BatchNorm statistics, in eval mode."""
    torch.manual_seed(seed)
    module = getattr(torchvision.models, case.model)(weights=None, **case.args).eval()
    randomise_norms(module)
    return module.to(dtype)


def randomise_norms(module: nn.Module) -> None:
    """Random statistics and affine parameters for every BatchNorm."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)


def brute_force_drops(module: nn.Module, layer: str, normalised: Tensor, targets: Tensor, channels: Sequence[int]) -> Tensor:
    """y - y^k (N,len(channels)): the whole network once more for every channel, set to zero by a hook."""

    def scores() -> Tensor:
        with torch.no_grad():
            return module(normalised).gather(1, targets[:, None])[:, 0]

    def ablate(channel: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
            out = out.clone()
            out[:, channel] = 0
            return out

        return hook

    full, drops = scores(), []
    for channel in channels:
        handle = module.get_submodule(layer).register_forward_hook(ablate(channel))
        drops.append(full - scores())
        handle.remove()
    return torch.stack(drops, dim=1)


def captum_drops(module: nn.Module, layer: str, normalised: Tensor, targets: Tensor, channels: Sequence[int], shape: torch.Size) -> Tensor:
    """The same from captum's LayerFeatureAblation; all other channels together form one more feature."""
    groups = torch.zeros(1, shape[1], 1, 1, dtype=torch.long)
    groups[0, list(channels), 0, 0] = torch.arange(1, len(channels) + 1)
    oracle = LayerFeatureAblation(module, module.get_submodule(layer))
    with torch.no_grad():
        attributed = oracle.attribute(normalised, target=targets, layer_mask=groups.expand(1, *shape[1:]), layer_baselines=0)
    return attributed[:, list(channels), 0, 0]


def measure(case: Case, dtype: torch.dtype, size: int, count: int, batch: int, with_captum: bool = True) -> dict[str, Any]:
    """Tier and largest relative deviations of one case over `count` random channels."""
    module = randomised(case, dtype)
    net = SplitModel(module, case.layer, mean=MEAN, std=STD)
    images = torch.rand(batch, 3, size, size, dtype=dtype)
    probe = Probe(net, images)
    channels = torch.randperm(probe.activations.shape[1])[:count].tolist()
    normalised = (images - net.mean) / net.std
    ours, largest = probe.drops[:, channels], probe.drops.abs().max()

    def deviation(theirs: Tensor) -> float:
        return float((ours - theirs).abs().max() / largest)

    found = {
        "model": case.model, "layer": case.layer, "tier": probe.tier.number, "dtype": str(dtype).removeprefix("torch."),
        "channels": len(channels), "of": probe.activations.shape[1], "images": batch, "size": size, "largest_drop": float(largest),
        "deviation_brute_force": deviation(brute_force_drops(module, case.layer, normalised, probe.targets, channels)),
    }  # fmt: skip
    if with_captum:
        found["deviation_captum"] = deviation(
            captum_drops(module, case.layer, normalised, probe.targets, channels, probe.activations.shape)
        )
    return found


def main(
    csv_file: Annotated[Path, typer.Option("--csv", help="The table.")],
    count: Annotated[int, typer.Option("--channels", help="Random channels per network; all where it has fewer.")] = 64,
) -> None:
    """All cases at full size, in both precisions."""
    rows = []
    for case in CASES:
        for dtype in (torch.float32, torch.float64):
            rows.append(measure(case, dtype, case.size, count, batch=1))
            print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(csv_file, index=False)


if __name__ == "__main__":
    typer.run(main)
