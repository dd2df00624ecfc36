"""Grad-CAM++'s alpha: the closed form 1 / (2 + g sum(A)) against autograd's own second and third derivative of exp(S).

    python experiments/third_derivative.py --csv results/third_derivative.csv --data DATA      (about four minutes on one CPU core)

DATA as in real_images.sh; without it only the embedded network. Grad-CAM++ (Chattopadhay et al., WACV 2018, eq. 19, 10)
needs Y'' and Y''' of Y = exp(S) with respect to every single activation. Written out,

    Y' = Y S',   Y'' = Y (S'^2 + S''),   Y''' = Y (S'^3 + 3 S' S'' + S'''),

and the closed form leaves S'' and S''' out. Behind ReLU they are zero and nothing is left out; behind a smooth head they
are not. The embedded network is measured four times, each time with another rectifier in its fully connected layers and the
same weights: its accuracy says whether it is still a classifier. Everything in float64. Only elements with g > 0 count,
since all others weigh nothing; where they are too many, a random sample of them is compared, and no map. A relative
difference has no bound where autograd's alpha passes through zero; `negative_alpha_percent` says how often it is below.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from parity import in_float64, real
from torch import Tensor, nn
from train_digits import as_tensors

from evalkit import Probe, SplitModel, methods, protocol
from evalkit.config.compose import compose_jobs
from evalkit.data.digits import Digits
from evalkit.models import zoo

HEADS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "softplus": nn.Softplus}
REAL = {"squeezevgg10": "relu", "squeezenet1_0": "relu", "mobilenet_v2": "linear", "mobilenet_v3_small": "hardswish"}
WHOLE = {"mobilenet_v3_small"}
"""Of these, where the closed form is an approximation and all elements are affordable."""
CHUNK = 16 * 2**20
"""Bytes of perturbed activations at a time; autograd keeps about twenty times as much."""


def derivatives(score: Callable[[Tensor], Tensor], activations: Tensor, elements: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First, second and third derivative of exp(S) / exp(S at A), each (E,), by single elements of one image's A (K,h,w).

    `score` maps (E,K,h,w) to S (E,). The constant keeps exp from overflowing and leaves in alpha by division. Each element
    gets a copy of A with a step t of its own, so that differentiating by t thrice gives a diagonal, never a Hessian.
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
    """Y'' / (2 Y'' + sum(A) Y''') (E,) for elements of one image's A, as indices into its flattened (K,h,w)."""
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
    """Relative differences of alpha over `sampled` elements of each image; over all, and of the final maps too, where that is None."""
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
    theirs, ours = protocol.soft_mask(torch.stack(maps)), protocol.soft_mask(methods.grad_cam_pp(probe))
    correlations = [float(torch.corrcoef(torch.stack([m, o]).flatten(1))[0, 1]) for m, o in zip(theirs, ours, strict=True)]
    return {
        "images": len(images),
        "elements": len(every),
        "largest_relative_difference_alpha": float(every.max()),
        "median_relative_difference_alpha": float(every.median()),
        "negative_alpha_percent": float((torch.cat(alphas) < 0).double().mean() * 100),
        "largest_difference_map": float((theirs - ours).abs().max()) if sampled is None else None,
        "lowest_correlation_map": min(correlations) if sampled is None else None,
    }


def embedded(rectifier: type[nn.Module], count: int) -> tuple[SplitModel, Tensor, float]:
    """digits_fc with another rectifier in its head: float64, `count` images, its accuracy in percent on 200 images."""
    config = compose_jobs(["model=digits_fc"])[0].config.model
    module = zoo.build(config)[0].eval()
    module.classifier[1], module.classifier[4] = rectifier(), rectifier()
    images, labels = as_tensors(Digits("val", count=200))
    with torch.no_grad():
        right = module(images).argmax(1) == labels
    net = SplitModel(module.double(), config.layer, mean=config.mean, std=config.std)
    return net, (images[:count].double() + 1) / 2, float(right.double().mean() * 100)


def rows(data: Path | None, count: int, sampled: int) -> Iterator[dict[str, Any]]:
    """One row per network."""
    for head, rectifier in HEADS.items():
        net, images, percent = embedded(rectifier, count)
        yield {"model": "digits_fc", "head": head, "top1_percent": percent} | compare(net, images, None)
    for name, head in REAL.items() if data is not None else ():
        net, images = real(name, data, count)
        yield {"model": name, "head": head, "top1_percent": None} | compare(
            in_float64(net), images.double(), None if name in WHOLE else sampled
        )


def main(
    csv_file: Annotated[Path, typer.Option("--csv", help="The table.")],
    data: Annotated[Path | None, typer.Option(help="The folder of real images and weights.")] = None,
    count: Annotated[int, typer.Option("--images", help="Images per network.")] = 4,
    sampled: Annotated[int, typer.Option(help="Elements per image where not all are affordable.")] = 256,
) -> None:
    """All networks."""
    found = []
    for row in rows(data, count, sampled):
        found.append(row)
        print(row, flush=True)
    pd.DataFrame(found).to_csv(csv_file, index=False, float_format="%.6g")


if __name__ == "__main__":
    typer.run(main)
