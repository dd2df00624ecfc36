"""Compare Grad-CAM++'s alpha in closed form, 1 / (2 + g sum(A)), with autograd's second and third derivative of exp(S).

    python experiments/correctness/third_derivative.py --csv results/third_derivative.csv --data DATA      (four minutes on one CPU core)

DATA as in findings/real_images.sh; without it only the embedded network. Grad-CAM++ (Chattopadhay et al., WACV 2018, eq. 19, 10)
needs Y'' and Y''' of Y = exp(S) with respect to every single activation. Written out,

    Y' = Y S',   Y'' = Y (S'^2 + S''),   Y''' = Y (S'^3 + 3 S' S'' + S'''),

and the closed form omits S'' and S'''. After ReLU they are zero and nothing is lost; after a smooth head they are not. The
embedded network is measured four times with the same weights, each time with another rectifier in its fully connected layers:
its accuracy shows whether it is still a classifier. Everything is in float64. Only elements with g > 0 count, since all others
have weight zero; where they are too many, a random sample of them is compared, and no map. A relative difference has no bound
where autograd's alpha passes through zero; `negative_alpha_percent` says how often alpha is negative.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from reference import compare as compare_maps
from reference import in_float64, real
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.data.digits import Digits
from evalkit.models import zoo

HEADS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "softplus": nn.Softplus}
REAL = {"squeezevgg10": "relu", "squeezenet1_0": "relu", "mobilenet_v2": "linear", "mobilenet_v3_small": "hardswish"}
WHOLE = {"mobilenet_v3_small"}
"""Networks measured on all elements: the closed form is an approximation there, and the elements are few enough."""
CHUNK = 16 * 2**20
"""Bytes of perturbed activations in one pass; autograd needs about twenty times as much."""


def derivatives(score: Callable[[Tensor], Tensor], activations: Tensor, elements: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first, second and third derivative of exp(S) / exp(S at A), each (E,), by single elements of one image's A (K,h,w).

    `score` maps (E,K,h,w) to S (E,). The constant exp(S at A) prevents an overflow and cancels in alpha. Each element gets
    a copy of A with its own step t, so that three derivatives by t give a diagonal and no Hessian is computed.
    """
    steps = torch.zeros(len(elements), dtype=activations.dtype, requires_grad=True)
    moved = activations.flatten() + torch.zeros(len(elements), activations.numel(), dtype=activations.dtype).scatter(
        1, elements[:, None], steps[:, None]
    )
    s = score(moved.view(-1, *activations.shape))
    (first,) = torch.autograd.grad((s - s.detach()).exp().sum(), steps, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), steps, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), steps)
    return first.detach(), second.detach(), third


def alpha_of_autograd(probe: Probe, image: int, elements: Tensor) -> Tensor:
    """Return Y'' / (2 Y'' + sum(A) Y''') (E,) for elements of one image's A, as indices into its flattened (K,h,w)."""
    a, context, c = probe.activations[image], tuple(t[image : image + 1] for t in probe.context), probe.targets[image]

    def score(variants: Tensor) -> Tensor:
        return probe.net.head(variants, tuple(t.expand(len(variants), *t.shape[1:]) for t in context))[:, c]

    total = a.sum((1, 2), keepdim=True).expand_as(a).flatten()
    alphas = []
    for part in elements.split(max(1, CHUNK // (a.numel() * a.element_size()))):
        _, second, third = derivatives(score, a, part)
        alphas.append(second / (2 * second + total[part] * third))
    return torch.cat(alphas)


def compare(net: SplitModel, images: Tensor, sampled: int | None) -> dict[str, Any]:
    """Return differences of alpha over `sampled` elements of each image; if that is None, over all elements, and of the maps."""
    probe = Probe(net, images)
    g, a = probe.gradients, probe.activations
    closed = 1 / (2 + g * a.sum((2, 3), keepdim=True))
    alphas, differences, maps = [], [], []
    for image in range(len(images)):
        elements = (g[image].flatten() > 0).nonzero()[:, 0]
        if sampled is not None:
            elements = elements[torch.randperm(len(elements), generator=torch.Generator().manual_seed(image))[:sampled]]
        true = alpha_of_autograd(probe, image, elements)
        alphas.append(true)
        differences.append(((closed[image].flatten()[elements] - true) / true).abs())
        weights = torch.zeros_like(a[image]).flatten().index_put((elements,), true * g[image].flatten()[elements])
        maps.append(torch.einsum("k,khw->hw", weights.view_as(a[image]).sum((1, 2)), a[image]).relu())
    every = torch.cat(differences)
    difference, correlation = compare_maps(methods.grad_cam_pp(probe), torch.stack(maps), (a.shape[2], a.shape[3]))
    return {
        "images": len(images),
        "elements": len(every),
        "largest_relative_difference_alpha": float(every.max()),
        "median_relative_difference_alpha": float(every.median()),
        "negative_alpha_percent": float((torch.cat(alphas) < 0).double().mean() * 100),
        "largest_difference_map": float(difference.max()) if sampled is None else None,
        "lowest_correlation_map": float(correlation.min()) if sampled is None else None,
    }


def embedded(rectifier: type[nn.Module], count: int) -> tuple[SplitModel, Tensor, float]:
    """Return digits_fc in float64 with another rectifier in its head, `count` images, and its accuracy in percent on 200 images."""
    config = compose_jobs(["model=digits_fc"])[0].config.model
    module = zoo.build(config)[0].eval()
    module.classifier[1], module.classifier[4] = rectifier(), rectifier()
    source = Digits("val", count=200)
    pixels = torch.from_numpy(np.stack([np.asarray(source.load(i)) for i in range(len(source))])).permute(0, 3, 1, 2)
    images = pixels.div(127.5).sub(1)  # mean = std = 0.5, as in conf/model/digits_fc.yaml
    labels = torch.tensor([int(source.class_keys(i)[0]) for i in range(len(source))])
    with torch.no_grad():
        right = module(images).argmax(1) == labels
    net = SplitModel(module.double(), config.only_layer("this script"), mean=config.mean, std=config.std)
    return net, (images[:count].double() + 1) / 2, float(right.double().mean() * 100)


def rows(data: Path | None, count: int, sampled: int) -> Iterator[dict[str, Any]]:
    """Yield one row for each network."""
    for head, rectifier in HEADS.items():
        net, images, percent = embedded(rectifier, count)
        yield {"model": "digits_fc", "head": head, "top1_percent": percent} | compare(net, images, None)
    for name, head in REAL.items() if data is not None else ():
        net, images = real(name, data, count)
        measured = compare(in_float64(net), images.double(), None if name in WHOLE else sampled)
        yield {"model": name, "head": head, "top1_percent": None} | measured


def main(
    csv_file: Annotated[Path, typer.Option("--csv", help="The table.")],
    data: Annotated[Path | None, typer.Option(help="The folder of real images and weights.")] = None,
    count: Annotated[int, typer.Option("--images", help="Images per network.")] = 4,
    sampled: Annotated[int, typer.Option(help="Elements per image where all would take too long.")] = 256,
) -> None:
    """Measure all networks."""
    table = []
    for row in rows(data, count, sampled):
        table.append(row)
        print(row, flush=True)
    pd.DataFrame(table).to_csv(csv_file, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
