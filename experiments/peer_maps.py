"""Are our maps those of pytorch-grad-cam, on real weights and real images?

    python experiments/peer_maps.py DATA --csv results/peer_maps.csv      (about a minute on two CPU cores)

DATA as in real_images.sh. Both maps are min-max normalised and compared at the image's size. "grad_cam_pp + 1e-6" is
ours with the constant that pytorch-grad-cam adds to alpha's denominator, as large as g^2 itself on small gradients.
Its AblationCAM fills a channel with min(A) - 1e7 unless min(A) is exactly 0, so on MobileNetV3's hard-swish layer it
is no reference.
"""

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods, protocol
from evalkit.config import ModelConfig, compose_jobs
from evalkit.data.decode import decode
from evalkit.models import zoo

HALF = ["model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]"]
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
}
PEERS = {"grad_cam": GradCAM, "grad_cam_pp": GradCAMPlusPlus, "grad_cam_pp + 1e-6": GradCAMPlusPlus, "ablation_cam": AblationCAM}


def with_epsilon(probe: Probe) -> Tensor:
    """Grad-CAM++ (N,h,w) with pytorch-grad-cam's constant."""
    g = probe.gradients
    alpha = g**2 / (2 * g**2 + g**3 * probe.activations.sum((2, 3), keepdim=True) + 1e-6)
    weights = (alpha * g.clamp(min=0)).sum((2, 3))
    return torch.einsum("nk,nkhw->nhw", weights, probe.activations).clamp(min=0)


def load(name: str, data: Path, count: int) -> tuple[ModelConfig, SplitModel, nn.Module, Tensor]:
    """A network of the list, cut and whole, with its real weights, and `count` images (N,3,H,W) in [0,1] spread over its set."""
    folder, weights, overrides = NETWORKS[name]
    sys.path.insert(0, str(data / "weights"))
    file = f"model.weights={data / 'weights' / weights}.safetensors"
    config = compose_jobs([*overrides, file, "model.crop=null", "model.classes=null"])[0].config.model
    model = zoo.load(config, torch.device("cpu"))
    files = sorted((data / folder / "images").rglob("*.JPEG"))
    images = torch.stack([model.preprocess(decode(file)) for file in files[:: len(files) // count][:count]]).float() / 255
    return config, model.net, zoo.build(config)[0].eval(), images


def measure(name: str, data: Path, count: int) -> list[dict[str, Any]]:
    """Lowest correlation and largest difference of each method's maps over `count` images spread over the set."""
    config, net, module, images = load(name, data, count)
    probe = Probe(net, images)
    targets = [ClassifierOutputTarget(int(target)) for target in probe.targets]
    rows = []
    for method, peer in PEERS.items():
        with peer(model=module, target_layers=[module.get_submodule(config.layer)]) as cam:
            theirs = protocol.soft_mask(torch.from_numpy(cam(input_tensor=(images - net.mean) / net.std, targets=targets)))
        low = with_epsilon(probe) if method.endswith("1e-6") else getattr(methods, method)(probe)
        # They normalise before and after upsampling.
        ours = protocol.soft_mask(protocol.upsample(protocol.soft_mask(low), (images.shape[2], images.shape[3])))
        correlations = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(ours, theirs, strict=True)]
        largest = float((ours - theirs).abs().max())
        rows.append(
            {"model": name, "method": method, "images": count, "lowest_correlation": min(correlations), "largest_difference": largest}
        )
    return rows


def main(
    data: Annotated[Path, typer.Argument(help="The folder of real images and weights.")],
    csv_file: Annotated[Path, typer.Option("--csv", help="The table.")],
    count: Annotated[int, typer.Option("--images", help="Images per network.")] = 4,
) -> None:
    """All networks."""
    rows = []
    for name in NETWORKS:
        rows += measure(name, data, count)
        print(*rows[-len(PEERS) :], sep="\n", flush=True)
    with csv_file.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({key: f"{value:.7g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows)


if __name__ == "__main__":
    typer.run(main)
