"""Are our maps those of the equations and of other libraries? A table of differences, with the reason for each known one.

    python experiments/parity.py DATA --csv results/parity.csv                  (six networks with real weights and images)
    python experiments/parity.py --images 10                                    (two with random weights only; no data needed)
    python experiments/parity.py DATA --only ablation_cam --network squeezevgg10

DATA as in real_images.sh. Both maps are brought to the image's size, min-max normalised and compared: the largest
difference of a pixel and the lowest correlation over the images. "equation" is a loop in float64 (equations.py);
everything else is that library's class, run by evalkit.methods.peers. pytorch-grad-cam clips every map at zero, so
ours is clipped where it is compared with that. Where a note explains a deviation, `deviating` says how many of the images it
is about, and the figures without suffix are those of the others. A row such as "grad_cam_pp, + 1e-6" puts their deviation into
our method: where that agrees, the note is the whole explanation.
"""

import copy
import sys
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
from exactness import Case, randomised
from pytorch_grad_cam import GuidedBackpropReLUModel
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods, protocol
from evalkit.config.compose import compose_jobs
from evalkit.data.decode import decode
from evalkit.errors import UserError
from evalkit.methods.peers import captum_attr, pytorch_grad_cam, torch_cam
from evalkit.methods.pixel import normalised
from evalkit.models import zoo
from evalkit.models.graph import trace
from evalkit.models.standin import stand_in

HALF = ["model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]"]
SMALL = ["model.resize=[32,32]"]
"""Images on which also the slow methods can explain all of them."""
NETWORKS = {
    "squeezevgg10": (
        "imagenette224",
        "squeezevgg10_imagenette",
        ["model=custom", "model.factory=archs.squeezevgg10", "model.layer=features", "model.resize=[224,224]"],
    ),
    "mobilenet_v2": ("imagenet_val_acuity", "mobilenet_v2_imagenet", ["model=mobilenet_v2", "model.resize=[225,225]", *HALF]),
    "mobilenet_v3_small": (
        "imagenet_val_acuity",
        "mobilenet_v3_small_imagenet",
        ["model=mobilenet_v3_small", "model.resize=[225,225]", *HALF],
    ),
    "squeezenet1_0": ("imagenet_val_acuity", "squeezenet1_0_imagenet", ["model=squeezenet1_0", "model.resize=[227,227]"]),
    "cifar_vgg6": (
        "cifar10_test",
        "cifar_vgg6_fc",
        ["model=custom", "model.factory=archs.cifar_vgg6", "model.layer=features", *SMALL, "model.mean=[0,0,0]", "model.std=[1,1,1]"],
    ),
    "cifar_resnet20": (
        "cifar10_test",
        "cifar_resnet20",
        ["model=custom", "model.factory=archs.cifar_resnet20", "model.layer=layer3", *SMALL],
    ),
}
RANDOM = {"alexnet (random)": Case("alexnet", "features.11", 128), "resnet18 (random)": Case("resnet18", "layer3", 128)}
"""Random weights: fully connected layers behind an inner ReLU, and a layer that residual blocks follow (tier 3)."""

BATCH = 10
Maps = Callable[[Probe], Tensor]


@dataclass(frozen=True)
class Comparison:
    """One of our methods beside one reference.

    `exact`: the reference takes a probe in float64. `slow`: a forward pass of the whole network for each channel, cell or
    step. `clips`: it clips at zero. `note`: why it is known to differ, on the images that `deviating` (N,) picks.
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
    """All images."""
    return torch.ones(len(probe.images), dtype=torch.bool)


def fills_with_garbage(probe: Probe) -> Tensor:
    """Where pytorch-grad-cam's AblationCAM does not ablate to zero, or divides by a negative score."""
    return (probe.activations.amin((1, 2, 3)) != 0) | (probe.scores < 0)


def small_sums(probe: Probe) -> Tensor:
    """Where a channel's sum is so near zero that 1e-7 beside it shows."""
    total = probe.activations.sum((2, 3)).abs()
    return ((total > 0) & (total < 1e-3)).any(1)


def has_other_rectifiers(probe: Probe) -> Tensor:
    """Networks with rectifiers that pytorch-grad-cam does not replace: it looks for modules of the class nn.ReLU."""
    called = {getattr(node.target, "__name__", node.target) for node in trace(probe.net.module).graph.nodes if node.op != "call_module"}
    others = any(isinstance(part, nn.ReLU6) for part in probe.net.module.modules()) or called & {"relu", "relu_", "relu6"}
    return everywhere(probe) if others else ~everywhere(probe)


def windows(probe: Probe) -> dict[str, int]:
    """Occlusion's window and stride for an image of any size: 32 and 16 pixels of 224."""
    side = probe.images.shape[3]
    return {"window": side // 7, "stride": side // 14}


def occlusion(probe: Probe) -> Tensor:
    """Ours at that size."""
    return methods.occlusion(probe, **windows(probe))


def captum_ablation(probe: Probe) -> Tensor:
    """Ablation-CAM with captum's LayerFeatureAblation for y - y^k: the whole network once for each channel."""
    channels = torch.arange(probe.activations.shape[1])[None, :, None, None].expand(1, *probe.activations.shape[1:])
    with stand_in(probe.net) as (module, layer):
        ablation = LayerFeatureAblation(module, layer)
        drops = ablation.attribute(
            normalised(probe), target=probe.targets, layer_mask=channels, layer_baselines=0, perturbations_per_eval=4
        )
    return torch.einsum("nk,nkhw->nhw", drops[:, :, 0, 0].detach() / probe.scores.abs()[:, None], probe.activations).clamp(min=0)


def captum_spatial_ablation(probe: Probe) -> Tensor:
    """All channels of one position as one of captum's features; it gives each of them the whole drop."""
    _, channels, height, width = probe.activations.shape
    cells = torch.arange(height * width).view(1, 1, height, width).expand(1, channels, height, width)
    return captum_attr(probe, "LayerFeatureAblation", layer_mask=cells, layer_baselines=0, perturbations_per_eval=4) / channels


def replaced_relus(probe: Probe) -> Tensor:
    """pytorch-grad-cam's guided backpropagation, max over colours of its absolute value (N,H,W)."""
    with stand_in(probe.net) as (module, _):
        model = GuidedBackpropReLUModel(module)
        maps = [torch.from_numpy(model(image[None], int(c))) for image, c in zip(normalised(probe), probe.targets, strict=True)]
    return torch.stack(maps).abs().amax(3)


def with_epsilon(probe: Probe) -> Tensor:
    """Our Grad-CAM++ (N,h,w) with pytorch-grad-cam's constant in alpha's denominator, as large as g^2 on small gradients."""
    g = probe.gradients
    alpha = g**2 / (2 * g**2 + g**3 * probe.activations.sum((2, 3), keepdim=True) + 1e-6)
    return torch.einsum("nk,nkhw->nhw", (alpha * g.clamp(min=0)).sum((2, 3)), probe.activations).clamp(min=0)


def undivided(probe: Probe) -> Tensor:
    """Our Grad-CAM++ (N,h,w) with torch-cam's alpha: its division writes into a copy, which leaves alpha = g^2."""
    return torch.einsum("nk,nkhw->nhw", probe.gradients.clamp(min=0).pow(3).sum((2, 3)), probe.activations).clamp(min=0)


def score_cam_with(masks: Callable[[Tensor, tuple[int, int]], Tensor]) -> Maps:
    """Our Score-CAM with other masks: channels (K,h,w) and a size -> masks (K,H,W) in [0,1]."""

    def maps(probe: Probe) -> Tensor:
        found = []
        for x, c, a in zip(normalised(probe), probe.targets, probe.activations, strict=True):
            with torch.no_grad():
                parts = masks(a, (x.shape[1], x.shape[2])).split(32)
                scores = torch.cat([probe.net.module(x * part[:, None])[:, c] for part in parts])
            found.append(torch.einsum("k,khw->hw", scores.softmax(0), a).clamp(min=0))
        return torch.stack(found)

    return maps


def aligned(channels: Tensor, size: tuple[int, int]) -> Tensor:
    """pytorch-grad-cam's masks: the corners of map and image coincide."""
    return protocol.soft_mask(F.interpolate(channels[:, None], size=size, mode="bilinear", align_corners=True)[:, 0])


def scaled_first(channels: Tensor, size: tuple[int, int]) -> Tensor:
    """torch-cam's masks: min-max before the upsampling, whose extremes fall short of the cells' own."""
    return protocol.upsample(protocol.soft_mask(channels), size)


def theirs(method: str, ours: Maps, name: str, **settings: Any) -> Comparison:
    """Beside a class of pytorch-grad-cam."""
    return Comparison(method, ours, f"pytorch-grad-cam {name}", partial(pytorch_grad_cam, name=name), clips=True, **settings)


def torchcams(method: str, ours: Maps, name: str, **settings: Any) -> Comparison:
    """Beside a class of torch-cam."""
    return Comparison(method, ours, f"torch-cam {name}", partial(torch_cam, name=name), **settings)


def equation(method: str, ours: Maps, reference: Maps, **settings: Any) -> Comparison:
    """Beside a loop in float64."""
    return Comparison(method, ours, "equation (float64)", reference, exact=True, **settings)


def in_float32(method: str, ours: Maps, reference: Maps, **settings: Any) -> Comparison:
    """Beside the same loop in the model's own precision, for what jumps where rounding differs."""
    return Comparison(method, ours, "equation (float32)", reference, **settings)


ABLATION = equations.ablation_cam
KINKS = "rounding puts a few units on the other side of a ReLU's kink, where the gradient jumps"
EVERYWHERE: dict[str, Any] = {"deviating": everywhere}
COMPARISONS = [
    torchcams("cam", methods.cam, "CAM"),
    equation("grad_cam", methods.grad_cam, equations.of(equations.grad_cam)),
    theirs("grad_cam", methods.grad_cam, "GradCAM"),
    torchcams("grad_cam", methods.grad_cam, "GradCAM"),
    Comparison("grad_cam", methods.grad_cam, "captum LayerGradCam", partial(captum_attr, relu_attributions=True)),
    equation("grad_cam_pp", methods.grad_cam_pp, equations.of(equations.grad_cam_pp)),
    theirs("grad_cam_pp", methods.grad_cam_pp, "GradCAMPlusPlus", note="adds 1e-6 to alpha's denominator", **EVERYWHERE),
    theirs("grad_cam_pp, + 1e-6", with_epsilon, "GradCAMPlusPlus"),
    torchcams("grad_cam_pp", methods.grad_cam_pp, "GradCAMpp", note="never divides alpha, which stays g^2", **EVERYWHERE),
    torchcams("grad_cam_pp, alpha = g^2", undivided, "GradCAMpp"),
    equation("ablation_cam", methods.ablation_cam, equations.of(ABLATION)),
    theirs(
        "ablation_cam", methods.ablation_cam, "AblationCAM", deviating=fills_with_garbage,
        note="ablates to min(A) - 1e7 unless min(A) is exactly 0; divides by the signed y",
    ),
    Comparison("ablation_cam", methods.ablation_cam, "captum LayerFeatureAblation", captum_ablation, slow=True),
    equation("ablation_cam normalise=norm", partial(methods.ablation_cam, normalise="norm"), equations.of(ABLATION, normalise="norm")),
    equation("ablation_cam drop=softmax", partial(methods.ablation_cam, drop="softmax"), equations.of(ABLATION, drop="softmax")),
    equation("ablation_cam drop=sigmoid", partial(methods.ablation_cam, drop="sigmoid"), equations.of(ABLATION, drop="sigmoid")),
    equation("ablated_input_cam", methods.ablated_input_cam, equations.of(equations.ablated_input_cam)),
    equation("spatial_ablation", methods.spatial_ablation, equations.of(equations.spatial_ablation)),
    Comparison("spatial_ablation", methods.spatial_ablation, "captum LayerFeatureAblation", captum_spatial_ablation, slow=True),
    equation("xgrad_cam", methods.xgrad_cam, equations.of(equations.xgrad_cam)),
    theirs("xgrad_cam", methods.xgrad_cam, "XGradCAM", note="adds 1e-7 to a channel's sum", deviating=small_sums),
    torchcams("xgrad_cam", methods.xgrad_cam, "XGradCAM", note="adds 1e-8 to a channel's sum", deviating=small_sums),
    equation("layer_cam", methods.layer_cam, equations.of(equations.layer_cam)),
    theirs("layer_cam", methods.layer_cam, "LayerCAM"),
    torchcams("layer_cam", methods.layer_cam, "LayerCAM"),
    equation("hires_cam", methods.hires_cam, equations.of(equations.hires_cam)),
    theirs("hires_cam", methods.hires_cam, "HiResCAM"),
    Comparison(
        "hires_cam", methods.hires_cam, "captum LayerGradientXActivation",
        lambda probe: captum_attr(probe, "LayerGradientXActivation").clamp(min=0),
    ),
    equation("eigen_cam", methods.eigen_cam, equations.of(equations.eigen_cam)),
    theirs("eigen_cam", methods.eigen_cam, "EigenCAM", note="centres each channel first, and leaves the sign to the SVD", **EVERYWHERE),
    equation("score_cam", methods.score_cam, equations.of(equations.score_cam), slow=True),
    theirs(
        "score_cam", methods.score_cam, "ScoreCAM", slow=True, **EVERYWHERE,
        note="upsamples masks with align_corners=True",
    ),
    theirs("score_cam, their masks", score_cam_with(aligned), "ScoreCAM", slow=True),
    torchcams("score_cam", methods.score_cam, "ScoreCAM", slow=True, note="normalises masks before upsampling them", **EVERYWHERE),
    torchcams("score_cam, their masks", score_cam_with(scaled_first), "ScoreCAM", slow=True),
    in_float32("gradient", methods.gradient, equations.of(equations.gradient)),
    equation("gradient", methods.gradient, equations.of(equations.gradient), note=KINKS, **EVERYWHERE),
    in_float32("guided_backprop", methods.guided_backprop, equations.of(equations.guided_backprop)),
    equation("guided_backprop", methods.guided_backprop, equations.of(equations.guided_backprop), note=KINKS, **EVERYWHERE),
    Comparison(
        "guided_backprop", methods.guided_backprop, "pytorch-grad-cam GuidedBackpropReLUModel", replaced_relus,
        note="replaces modules of the class nn.ReLU only, no ReLU6 and no function", deviating=has_other_rectifiers,
    ),
    in_float32("guided_grad_cam", methods.guided_grad_cam, equations.of(equations.guided, cam=equations.grad_cam)),
    Comparison(
        "guided_grad_cam", methods.guided_grad_cam, "captum GuidedGradCam",
        partial(captum_attr, name="GuidedGradCam", channels="max", interpolate_mode="bilinear"),
    ),
    in_float32("guided_ablation_cam", methods.guided_ablation_cam, equations.of(equations.guided, cam=ABLATION), slow=True),
    in_float32(
        "integrated_gradients", methods.integrated_gradients, equations.of(equations.integrated_gradients),
        slow=True, note=KINKS, **EVERYWHERE,
    ),
    equation("occlusion", occlusion, lambda probe: equations.of(equations.occlusion, **windows(probe))(probe), slow=True),
]  # fmt: skip


def real(name: str, data: Path, count: int) -> tuple[SplitModel, Tensor]:
    """A network with real weights, and `count` images spread over its set (N,3,H,W)."""
    folder, weights, overrides = NETWORKS[name]
    sys.path.insert(0, str(data / "weights"))
    file = f"model.weights={data / 'weights' / weights}.safetensors"
    config = compose_jobs([*overrides, file, "model.crop=null", "model.classes=null"])[0].config.model
    model = zoo.load(config, torch.device("cpu"))
    files = sorted(file for file in (data / folder / "images").rglob("*") if file.suffix in (".JPEG", ".jpg"))
    images = [model.preprocess(decode(file)) for file in files[:: max(1, len(files) // count)][:count]]
    return model.net, torch.stack(images).float() / 255


def random_weights(name: str, count: int) -> tuple[SplitModel, Tensor]:
    """A network with random weights, and noise."""
    case = RANDOM[name]
    net = SplitModel(randomised(case, torch.float32), case.layer, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return net, torch.rand(count, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))


def in_float64(net: SplitModel) -> SplitModel:
    """The same network in double precision."""
    return SplitModel(copy.deepcopy(net.module).double(), net.layer, mean=net.mean.flatten().tolist(), std=net.std.flatten().tolist())


def compare(ours: Tensor, theirs: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Largest difference and correlation of two sets of maps (N,), after min-max at the image's size; nan where both are constant."""
    forms = []
    for maps in (ours, theirs):
        large = protocol.upsample(maps.double(), size) if maps.shape[1:] != size else maps.double()
        # A head of dead units leaves nothing, exactly; repeated and subtracted it leaves rounding, which min-max would blow up.
        nothing = large.amax((1, 2)) - large.amin((1, 2)) <= 1e-12 * large.abs().amax()
        forms.append(torch.where(nothing[:, None, None], 0, protocol.soft_mask(large)).flatten(1))
    first, second = (form - form.mean(1, keepdim=True) for form in forms)
    norms = first.norm(dim=1) * second.norm(dim=1)
    correlation = torch.where(norms > 0, (first * second).sum(1) / norms.clamp(min=1e-300), 0)
    both = (first.norm(dim=1) == 0) & (second.norm(dim=1) == 0)
    return (forms[0] - forms[1]).abs().amax(1), torch.where(both, torch.nan, correlation)


def measure(
    name: str, net: SplitModel, images: Tensor, slow_images: int, comparisons: Sequence[Comparison] = COMPARISONS
) -> list[dict[str, Any]]:
    """A row for each comparison that this network allows; the others are named on the terminal."""
    double, size, rows = in_float64(net), (images.shape[2], images.shape[3]), []
    probes = [Probe(net, part) for part in images.split(BATCH)]
    slow = [Probe(net, image[None]) for image in images[:slow_images]]
    exact = {probe: Probe(double, probe.images.double(), probe.targets) for probe in (*probes, *slow)}
    for comparison in comparisons:
        started = time.perf_counter()
        used, found = slow if comparison.slow else probes, []
        if not used:
            continue
        try:
            for probe in used:
                ours = comparison.ours(probe)
                other = comparison.theirs(exact[probe] if comparison.exact else probe)
                found.append((*compare(ours.clamp(min=0) if comparison.clips else ours, other, size), _deviating(comparison, probe)))
        except (UserError, ValueError) as reason:
            print(f"{name}: {comparison.method} is not compared with {comparison.reference}: {reason}", flush=True)
            continue
        columns = (torch.cat(column).numpy() for column in zip(*found, strict=True))
        rows.append(
            {"model": name, "method": comparison.method, "reference": comparison.reference, **_summary(*columns), "note": comparison.note}
        )
        print(f"{line(rows[-1])} | {time.perf_counter() - started:.0f} s", flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row for the terminal."""
    cells = [f"{row['model']:20} {row['method']:28} {row['reference']:40} {row['images']:3} images"]
    for suffix, count in (("", row["images"] - row["deviating"]), ("_deviating", row["deviating"])):
        if count:
            figures = f"{row['largest_difference' + suffix]:.1e}, correlation {row['lowest_correlation' + suffix]:.6f}"
            cells.append(f"difference {figures}" + (f" on {count}: {row['note']}" if suffix else ""))
    return " | ".join(cells)


def _deviating(comparison: Comparison, probe: Probe) -> Tensor:
    return torch.zeros(len(probe.images), dtype=torch.bool) if comparison.deviating is None else comparison.deviating(probe)


def _summary(difference: np.ndarray, correlation: np.ndarray, deviating: np.ndarray) -> dict[str, Any]:
    """The figures of the images that ought to agree, and of those that the note is about; nan where there are none."""
    found: dict[str, Any] = {"images": len(difference), "constant": int(np.isnan(correlation).sum()), "deviating": int(deviating.sum())}
    for suffix, chosen in (("", ~deviating), ("_deviating", deviating)):
        known = correlation[chosen & ~np.isnan(correlation)]
        found[f"largest_difference{suffix}"] = float(difference[chosen].max()) if chosen.any() else np.nan
        found[f"lowest_correlation{suffix}"] = float(known.min()) if len(known) else np.nan
    return found


def main(
    data: Annotated[Path | None, typer.Argument(help="The folder of real images and weights; without it, random weights only.")] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="The table; rows of a former call stay unless they are measured again.")
    ] = None,
    count: Annotated[int, typer.Option("--images", help="Images per network.")] = 50,
    slow_count: Annotated[int, typer.Option("--slow-images", help="Images for what passes each channel through the network.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Methods; all by default.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="Networks; all by default.")] = None,
) -> None:
    """All methods on all networks."""
    comparisons = [c for c in COMPARISONS if not only or c.method.split()[0].rstrip(",") in only]
    rows = []
    for name in [*(NETWORKS if data else ()), *RANDOM]:
        if not network or name.split()[0] in network:
            net, images = random_weights(name, count) if name in RANDOM or data is None else real(name, data, count)
            rows += measure(name, net, images, count if images.shape[3] == 32 else slow_count, comparisons)
    if csv_file is not None and rows:
        written(pd.DataFrame(rows), csv_file).to_csv(csv_file, index=False, float_format="%.7g", na_rep="nan")


def written(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The rows beside those that a former call left in the file and this one has not measured again, in the order of the lists above."""
    key = ["model", "method", "reference"]
    if file.exists():
        table = pd.concat([pd.read_csv(file, keep_default_na=False, na_values="nan"), table]).drop_duplicates(key, keep="last")
    models = [*NETWORKS, *RANDOM]
    places = {(c.method, c.reference): place for place, c in enumerate(COMPARISONS)}
    order = [(models.index(model), places.get((method, reference), -1)) for model, method, reference in table[key].to_numpy()]
    return table.iloc[sorted(range(len(table)), key=order.__getitem__)]


if __name__ == "__main__":
    typer.run(main)
