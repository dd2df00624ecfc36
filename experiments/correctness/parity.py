"""Compare every method with its equation and with other libraries: a table of differences, with the reason for each known one.

    python experiments/correctness/parity.py DATA --csv results/parity.csv      (six networks with real weights and images)
    python experiments/correctness/parity.py --images 10                        (two with random weights only; no data needed)
    python experiments/correctness/parity.py DATA --only ablation_cam --network squeezevgg10

DATA as in findings/real_images.sh. Both maps are upsampled to the image's size and min-max normalised; the table gives the largest
difference of a pixel and the lowest correlation over the images. The reference "equation" is a loop in float64
(equations.py); every other reference is a class of another library, run by evalkit.methods.peers. pytorch-grad-cam clips
every map at zero, so our map is clipped for that comparison. Where a note explains a deviation, `deviating` counts the images
that the note is about, and the figures without suffix are those of the other images. A row such as "grad_cam_pp, + 1e-6"
adds the deviation of the other library to our method: if that row agrees, the note explains the whole difference.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import equations
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import typer
from captum.attr import LayerFeatureAblation
from equations import Equation, by_image
from pytorch_grad_cam import GuidedBackpropReLUModel
from reference import MEAN, NETWORKS, STD, Case, compare, in_float64, randomised, real
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods, protocol
from evalkit.cli.script import run_script
from evalkit.errors import UserError
from evalkit.methods.peers import captum_attr, pytorch_grad_cam, torch_cam
from evalkit.methods.pixel import normalised
from evalkit.models.graph import trace
from evalkit.models.standin import stand_in

RANDOM = {"alexnet (random)": Case("alexnet", "features.11", 128), "resnet18 (random)": Case("resnet18", "layer3", 128)}
"""Random weights: fully connected layers behind an inner ReLU, and a layer that residual blocks follow (tier 3)."""

BATCH = 10
Maps = Callable[[Probe], Tensor]


@dataclass(frozen=True)
class Comparison:
    """A comparison of one of our methods with one reference.

    `exact`: the reference takes a probe in float64. `slow`: it runs the whole network once for each channel, cell or step.
    `clips`: it clips maps at zero. `note`: the reason why it is known to differ, on the images that `deviating` (N,) selects.
    """

    method: str
    ours: Maps
    reference: str
    theirs: Maps
    exact: bool = False
    slow: bool = False
    clips: bool = False
    note: str = ""
    deviating: Callable[[Probe], Tensor] | None = None


def everywhere(probe: Probe) -> Tensor:
    """Select all images."""
    return torch.ones(len(probe.images), dtype=torch.bool)


def ablates_to_nonzero(probe: Probe) -> Tensor:
    """Select images where pytorch-grad-cam's AblationCAM does not ablate to zero, or divides by a negative score."""
    return (probe.activations.amin((1, 2, 3)) != 0) | (probe.scores < 0)


def small_sums(probe: Probe) -> Tensor:
    """Select images where a channel's sum is so near zero that adding 1e-7 changes it."""
    total = probe.activations.sum((2, 3)).abs()
    return ((total > 0) & (total < 1e-3)).any(1)


def has_other_rectifiers(probe: Probe) -> Tensor:
    """Select all images of a network with rectifiers that pytorch-grad-cam does not replace: it looks for modules of the class nn.ReLU."""
    called = {getattr(node.target, "__name__", node.target) for node in trace(probe.net.module).graph.nodes if node.op != "call_module"}
    others = any(isinstance(part, nn.ReLU6) for part in probe.net.module.modules()) or bool(called & {"relu", "relu_", "relu6"})
    return torch.full((len(probe.images),), others)


def windows(side: int) -> dict[str, int]:
    """Return the window and stride of the occlusion for an image of any side: 32 and 16 pixels for 224."""
    return {"window": side // 7, "stride": side // 14}


def occlusion(probe: Probe) -> Tensor:
    """Return our occlusion maps with that window and stride."""
    return methods.occlusion(probe, **windows(probe.images.shape[3]))


def captum_ablation(probe: Probe) -> Tensor:
    """Return Ablation-CAM with y - y^k from captum's LayerFeatureAblation, which runs the whole network once for each channel."""
    channels = torch.arange(probe.activations.shape[1])[None, :, None, None].expand(1, *probe.activations.shape[1:])
    with stand_in(probe.net) as (module, layer):
        ablation = LayerFeatureAblation(module, layer)
        drops = ablation.attribute(
            normalised(probe), target=probe.targets, layer_mask=channels, layer_baselines=0, perturbations_per_eval=4
        )
    return torch.einsum("nk,nkhw->nhw", drops[:, :, 0, 0].detach() / probe.scores.abs()[:, None], probe.activations).clamp(min=0)


def captum_spatial_ablation(probe: Probe) -> Tensor:
    """Return captum's drops with all channels of a position as one feature; captum gives each channel the whole drop."""
    _, channels, height, width = probe.activations.shape
    cells = torch.arange(height * width).view(1, 1, height, width).expand(1, channels, height, width)
    return captum_attr(probe, "LayerFeatureAblation", layer_mask=cells, layer_baselines=0, perturbations_per_eval=4) / channels


def replaced_relus(probe: Probe) -> Tensor:
    """Return pytorch-grad-cam's guided backpropagation: the maximum over colours of its absolute value (N,H,W)."""
    with stand_in(probe.net) as (module, _):
        model = GuidedBackpropReLUModel(module)
        maps = [torch.from_numpy(model(image[None], int(c))) for image, c in zip(normalised(probe), probe.targets, strict=True)]
    return torch.stack(maps).abs().amax(3)


def with_epsilon(probe: Probe) -> Tensor:
    """Return our Grad-CAM++ (N,h,w) with pytorch-grad-cam's constant in alpha's denominator, as large as g^2 for small gradients."""
    g = probe.gradients
    alpha = g**2 / (2 * g**2 + g**3 * probe.activations.sum((2, 3), keepdim=True) + 1e-6)
    return torch.einsum("nk,nkhw->nhw", (alpha * g.clamp(min=0)).sum((2, 3)), probe.activations).clamp(min=0)


def undivided(probe: Probe) -> Tensor:
    """Return our Grad-CAM++ (N,h,w) with torch-cam's alpha: its division writes into a copy, which leaves alpha = g^2."""
    return torch.einsum("nk,nkhw->nhw", probe.gradients.clamp(min=0).pow(3).sum((2, 3)), probe.activations).clamp(min=0)


def score_cam_with(masks: Callable[[Tensor, tuple[int, int]], Tensor]) -> Maps:
    """Return our Score-CAM with other masks; `masks` takes channels (K,h,w) and a size and returns masks (K,H,W) in [0,1]."""

    def maps(probe: Probe) -> Tensor:
        cams = []
        for x, c, a in zip(normalised(probe), probe.targets, probe.activations, strict=True):
            with torch.no_grad():
                parts = masks(a, (x.shape[1], x.shape[2])).split(32)
                scores = torch.cat([probe.net.module(x * part[:, None])[:, c] for part in parts])
            cams.append(torch.einsum("k,khw->hw", scores.softmax(0), a).clamp(min=0))
        return torch.stack(cams)

    return maps


def aligned(channels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pytorch-grad-cam's masks: the corners of map and image coincide."""
    return protocol.soft_mask(F.interpolate(channels[:, None], size=size, mode="bilinear", align_corners=True)[:, 0])


def scaled_first(channels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return torch-cam's masks: min-max before the upsampling, which does not reach the extreme values of the cells."""
    return protocol.upsample(protocol.soft_mask(channels), size)


def with_pgc(method: str, ours: Maps, name: str, **settings: Any) -> Comparison:
    """Compare with a class of pytorch-grad-cam."""
    return Comparison(method, ours, f"pytorch-grad-cam {name}", partial(pytorch_grad_cam, name=name), clips=True, **settings)


def with_torchcam(method: str, ours: Maps, name: str, **settings: Any) -> Comparison:
    """Compare with a class of torch-cam."""
    return Comparison(method, ours, f"torch-cam {name}", partial(torch_cam, name=name), **settings)


def equation(method: str, ours: Maps, reference: Equation, **settings: Any) -> Comparison:
    """Compare with a loop in float64."""
    return Comparison(method, ours, "equation (float64)", by_image(reference), exact=True, **settings)


def in_float32(method: str, ours: Maps, reference: Equation, **settings: Any) -> Comparison:
    """Compare with the same loop in the model's own precision, for methods that are not continuous, where rounding matters."""
    return Comparison(method, ours, "equation (float32)", by_image(reference), **settings)


ABLATION = equations.ablation_cam
KINKS = "rounding puts a few units on the other side of a ReLU's kink, where the gradient jumps"
EVERYWHERE: dict[str, Any] = {"deviating": everywhere}
COMPARISONS = [
    with_torchcam("cam", methods.cam, "CAM"),
    equation("grad_cam", methods.grad_cam, equations.grad_cam),
    with_pgc("grad_cam", methods.grad_cam, "GradCAM"),
    with_torchcam("grad_cam", methods.grad_cam, "GradCAM"),
    Comparison("grad_cam", methods.grad_cam, "captum LayerGradCam", partial(captum_attr, relu_attributions=True)),
    equation("grad_cam_pp", methods.grad_cam_pp, equations.grad_cam_pp),
    with_pgc("grad_cam_pp", methods.grad_cam_pp, "GradCAMPlusPlus", note="adds 1e-6 to alpha's denominator", **EVERYWHERE),
    with_pgc("grad_cam_pp, + 1e-6", with_epsilon, "GradCAMPlusPlus"),
    with_torchcam("grad_cam_pp", methods.grad_cam_pp, "GradCAMpp", note="never divides alpha, which stays g^2", **EVERYWHERE),
    with_torchcam("grad_cam_pp, alpha = g^2", undivided, "GradCAMpp"),
    equation("ablation_cam", methods.ablation_cam, ABLATION),
    with_pgc(
        "ablation_cam", methods.ablation_cam, "AblationCAM", deviating=ablates_to_nonzero,
        note="ablates to min(A) - 1e7 unless min(A) is exactly 0; divides by the signed y",
    ),
    Comparison("ablation_cam", methods.ablation_cam, "captum LayerFeatureAblation", captum_ablation, slow=True),
    equation("ablation_cam normalise=norm", partial(methods.ablation_cam, normalise="norm"), partial(ABLATION, normalise="norm")),
    equation("ablation_cam drop=softmax", partial(methods.ablation_cam, drop="softmax"), partial(ABLATION, drop="softmax")),
    equation("ablation_cam drop=sigmoid", partial(methods.ablation_cam, drop="sigmoid"), partial(ABLATION, drop="sigmoid")),
    equation("ablated_input_cam", methods.ablated_input_cam, equations.ablated_input_cam),
    equation("spatial_ablation", methods.spatial_ablation, equations.spatial_ablation),
    Comparison("spatial_ablation", methods.spatial_ablation, "captum LayerFeatureAblation", captum_spatial_ablation, slow=True),
    equation("xgrad_cam", methods.xgrad_cam, equations.xgrad_cam),
    with_pgc("xgrad_cam", methods.xgrad_cam, "XGradCAM", note="adds 1e-7 to a channel's sum", deviating=small_sums),
    with_torchcam("xgrad_cam", methods.xgrad_cam, "XGradCAM", note="adds 1e-8 to a channel's sum", deviating=small_sums),
    equation("layer_cam", methods.layer_cam, equations.layer_cam),
    with_pgc("layer_cam", methods.layer_cam, "LayerCAM"),
    with_torchcam("layer_cam", methods.layer_cam, "LayerCAM"),
    equation("hires_cam", methods.hires_cam, equations.hires_cam),
    with_pgc("hires_cam", methods.hires_cam, "HiResCAM"),
    Comparison(
        "hires_cam", methods.hires_cam, "captum LayerGradientXActivation",
        lambda probe: captum_attr(probe, "LayerGradientXActivation").clamp(min=0),
    ),
    equation("eigen_cam", methods.eigen_cam, equations.eigen_cam),
    with_pgc("eigen_cam", methods.eigen_cam, "EigenCAM", note="centres each channel first, and leaves the sign to the SVD", **EVERYWHERE),
    equation("score_cam", methods.score_cam, equations.score_cam, slow=True),
    with_pgc(
        "score_cam", methods.score_cam, "ScoreCAM", slow=True, **EVERYWHERE,
        note="upsamples masks with align_corners=True",
    ),
    with_pgc("score_cam, their masks", score_cam_with(aligned), "ScoreCAM", slow=True),
    with_torchcam("score_cam", methods.score_cam, "ScoreCAM", slow=True, note="normalises masks before upsampling them", **EVERYWHERE),
    with_torchcam("score_cam, their masks", score_cam_with(scaled_first), "ScoreCAM", slow=True),
    in_float32("gradient", methods.gradient, equations.gradient),
    equation("gradient", methods.gradient, equations.gradient, note=KINKS, **EVERYWHERE),
    in_float32("guided_backprop", methods.guided_backprop, equations.guided_backprop),
    equation("guided_backprop", methods.guided_backprop, equations.guided_backprop, note=KINKS, **EVERYWHERE),
    Comparison(
        "guided_backprop", methods.guided_backprop, "pytorch-grad-cam GuidedBackpropReLUModel", replaced_relus,
        note="replaces modules of the class nn.ReLU only, no ReLU6 and no function", deviating=has_other_rectifiers,
    ),
    in_float32("guided_grad_cam", methods.guided_grad_cam, partial(equations.guided, cam=equations.grad_cam)),
    Comparison(
        "guided_grad_cam", methods.guided_grad_cam, "captum GuidedGradCam",
        partial(captum_attr, name="GuidedGradCam", channels="max", interpolate_mode="bilinear"),
    ),
    in_float32("guided_ablation_cam", methods.guided_ablation_cam, partial(equations.guided, cam=ABLATION), slow=True),
    in_float32(
        "integrated_gradients", methods.integrated_gradients, equations.integrated_gradients,
        slow=True, note=KINKS, **EVERYWHERE,
    ),
    equation("occlusion", occlusion, lambda image: equations.occlusion(image, **windows(image.x.shape[3])), slow=True),
]  # fmt: skip


def random_weights(name: str, count: int) -> tuple[SplitModel, Tensor]:
    """Return a network with random weights, and images of noise."""
    case = RANDOM[name]
    net = SplitModel(randomised(case, torch.float32), case.layer, mean=MEAN, std=STD)
    return net, torch.rand(count, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))


def measure(
    name: str, net: SplitModel, images: Tensor, slow_images: int, comparisons: Sequence[Comparison] = COMPARISONS
) -> list[dict[str, Any]]:
    """Return a row for each comparison that this network allows; print the names of the others."""
    double, size = in_float64(net), (images.shape[2], images.shape[3])
    rows: list[dict[str, Any]] = []
    probes = [Probe(net, part) for part in images.split(BATCH)]
    slow = [Probe(net, image[None]) for image in images[:slow_images]]
    exact = {probe: Probe(double, probe.images.double(), probe.targets) for probe in (*probes, *slow)}
    for comparison in comparisons:
        started = time.perf_counter()
        used, results = slow if comparison.slow else probes, []
        if not used:
            continue
        try:
            for probe in used:
                ours = comparison.ours(probe)
                ours = ours.clamp(min=0) if comparison.clips else ours
                references = comparison.theirs(exact[probe] if comparison.exact else probe)
                results.append((*compare(ours, references, size), _deviating(comparison, probe)))
        except (UserError, ValueError) as reason:
            print(f"{name}: {comparison.method} is not compared with {comparison.reference}: {reason}", flush=True)
            continue
        columns = (torch.cat(column).numpy() for column in zip(*results, strict=True))
        rows.append(
            {"model": name, "method": comparison.method, "reference": comparison.reference, **_summary(*columns), "note": comparison.note}
        )
        print(f"{line(rows[-1])} | {time.perf_counter() - started:.0f} s", flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """Return a row as text for the terminal."""
    cells = [f"{row['model']:20} {row['method']:28} {row['reference']:40} {row['images']:3} images"]
    for suffix, count in (("", row["images"] - row["deviating"]), ("_deviating", row["deviating"])):
        if count:
            figures = f"{row['largest_difference' + suffix]:.1e}, correlation {row['lowest_correlation' + suffix]:.6f}"
            cells.append(f"difference {figures}" + (f" on {count}: {row['note']}" if suffix else ""))
    return " | ".join(cells)


def _deviating(comparison: Comparison, probe: Probe) -> Tensor:
    return torch.zeros(len(probe.images), dtype=torch.bool) if comparison.deviating is None else comparison.deviating(probe)


def _summary(difference: np.ndarray, correlation: np.ndarray, deviating: np.ndarray) -> dict[str, Any]:
    """Return the figures of the images that should agree, and of those that the note is about; nan where there are none."""
    figures: dict[str, Any] = {"images": len(difference), "constant": int(np.isnan(correlation).sum()), "deviating": int(deviating.sum())}
    for suffix, chosen in (("", ~deviating), ("_deviating", deviating)):
        defined = correlation[chosen & ~np.isnan(correlation)]
        figures[f"largest_difference{suffix}"] = float(difference[chosen].max()) if chosen.any() else np.nan
        figures[f"lowest_correlation{suffix}"] = float(defined.min()) if len(defined) else np.nan
    return figures


def main(
    data: Annotated[Path | None, typer.Argument(help="The folder of real images and weights; without it, random weights only.")] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="The table; rows of an earlier call stay unless they are measured again.")
    ] = None,
    count: Annotated[int, typer.Option("--images", help="Images per network.")] = 50,
    slow_count: Annotated[int, typer.Option("--slow-images", help="Images for references that run the network once for each channel.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Methods; all by default.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="Networks; all by default.")] = None,
) -> None:
    """Compare all methods on all networks."""
    comparisons = [c for c in COMPARISONS if not only or c.method.split()[0].rstrip(",") in only]
    rows = []
    for name in [*(NETWORKS if data else ()), *RANDOM]:
        if not network or name.split()[0] in network:
            net, images = random_weights(name, count) if name in RANDOM or data is None else real(name, data, count)
            rows += measure(name, net, images, count if images.shape[3] == 32 else slow_count, comparisons)
    if csv_file is not None and rows:
        merged(pd.DataFrame(rows), csv_file).to_csv(csv_file, index=False, float_format="%.7g", na_rep="nan")


def merged(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Add the rows of an earlier call that were not measured again, and sort as `NETWORKS`, `RANDOM` and `COMPARISONS`."""
    key = ["model", "method", "reference"]
    if file.exists():
        table = pd.concat([pd.read_csv(file, keep_default_na=False, na_values="nan"), table]).drop_duplicates(key, keep="last")
    models = [*NETWORKS, *RANDOM]
    places = {(c.method, c.reference): place for place, c in enumerate(COMPARISONS)}
    order = [(models.index(model), places.get((method, reference), -1)) for model, method, reference in table[key].to_numpy()]
    return table.iloc[sorted(range(len(table)), key=order.__getitem__)]


if __name__ == "__main__":
    run_script(main)
