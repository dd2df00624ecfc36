"""Compare the exact drops with a loop over the whole network, and with captum.

    python experiments/correctness/exactness.py --csv results/exactness.csv      (about 15 minutes on two CPU cores)

The networks have random weights, and random BatchNorm statistics and affine parameters: the default ones make g(0) = 0 and
would hide a forgotten bracket. The table gives for each network and layer the tier that was chosen, and the largest deviation
over the sampled channels, relative to the largest drop.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from captum.attr import LayerFeatureAblation
from reference import MEAN, STD, Case, brute_force_drops, randomised
from torch import Tensor, nn

from evalkit import Probe, SplitModel
from evalkit.cli.script import run_script

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


def captum_drops(module: nn.Module, layer: str, normalised: Tensor, targets: Tensor, channels: Sequence[int], shape: torch.Size) -> Tensor:
    """Return y - y^k (N,len(channels)) from captum's LayerFeatureAblation; all other channels together form one more feature."""
    groups = torch.zeros(1, shape[1], 1, 1, dtype=torch.long)
    groups[0, list(channels), 0, 0] = torch.arange(1, len(channels) + 1)
    ablation = LayerFeatureAblation(module, module.get_submodule(layer))
    with torch.no_grad():
        attributed = ablation.attribute(normalised, target=targets, layer_mask=groups.expand(1, *shape[1:]), layer_baselines=0)
    return attributed[:, list(channels), 0, 0]


def measure(case: Case, dtype: torch.dtype, size: int, count: int, batch: int) -> dict[str, Any]:
    """Return the tier and the largest relative deviations of one case over `count` random channels."""
    module = randomised(case, dtype)
    net = SplitModel(module, case.layer, mean=MEAN, std=STD)
    images = torch.rand(batch, 3, size, size, dtype=dtype)
    probe = Probe(net, images)
    shape = probe.activations.shape
    channels = torch.randperm(shape[1])[:count].tolist()
    normalised = (images - net.mean) / net.std
    ours, largest = probe.drops[:, channels], probe.drops.abs().max()

    def deviation(theirs: Tensor) -> float:
        return float((ours - theirs).abs().max() / largest)

    return {
        "model": case.model, "layer": case.layer, "tier": probe.tier.number, "dtype": str(dtype).removeprefix("torch."),
        "channels": len(channels), "of": shape[1], "images": batch, "size": size, "largest_drop": float(largest),
        "deviation_brute_force": deviation(brute_force_drops(module, case.layer, normalised, probe.targets, channels)),
        "deviation_captum": deviation(captum_drops(module, case.layer, normalised, probe.targets, channels, shape)),
    }  # fmt: skip


def main(
    csv_file: Annotated[Path, typer.Option("--csv", help="The table.")],
    count: Annotated[int, typer.Option("--channels", help="Random channels per network; all where it has fewer.")] = 64,
) -> None:
    """Measure all cases at full size, in both precisions."""
    rows = []
    for case in CASES:
        for dtype in (torch.float32, torch.float64):
            rows.append(measure(case, dtype, case.size, count, batch=1))
            print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(csv_file, index=False)


if __name__ == "__main__":
    run_script(main)
