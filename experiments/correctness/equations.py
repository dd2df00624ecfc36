"""The methods written again from their equations, one image at a time, with plain loops. parity.py runs them in float64.

Every equation takes an `Image` and returns its map (h,w) or (H,W). Nothing is shared with evalkit.methods; of the probe
only the activations A, the targets, the images, the model's head and the whole model are used.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit import Probe, SplitModel

CHUNK = 64
"""Variants in one forward pass."""


class Image:
    """One image of a probe: x normalised (1,3,H,W), `pixels` in [0,1], its class c, A (K,h,w) at the target layer, and y."""

    def __init__(self, probe: Probe, index: int) -> None:
        row = slice(index, index + 1)
        self.net, self.c = probe.net, int(probe.targets[index])
        self.pixels = probe.images[row]
        self.x = (self.pixels - self.net.mean) / self.net.std
        self.a = probe.activations[index].detach()
        self._context = tuple(tensor[row] for tensor in probe.context)
        self.y = float(self.scores(self.a[None], self.c)[0])

    def logits(self, activations: Tensor) -> Tensor:
        """Return the head's logits (V,C) for variants of A (V,K,h,w)."""
        context = tuple(tensor.expand(len(activations), *tensor.shape[1:]) for tensor in self._context)
        return self.net.head(activations, context)

    def scores(self, activations: Tensor, c: int) -> Tensor:
        """Return the logit (V,) of class c for variants of A."""
        with torch.no_grad():
            return self.logits(activations)[:, c]

    def g(self) -> Tensor:
        """Return dy/dA (K,h,w)."""
        a = self.a[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.logits(a)[0, self.c], a)
        return gradient[0]

    def whole(self, x: Tensor) -> Tensor:
        """Return the whole network's logit (V,) of class c for normalised images (V,3,H,W)."""
        return self.net.module(x.clone())[:, self.c]


Equation = Callable[[Image], Tensor]


def by_image(equation: Equation) -> Callable[[Probe], Tensor]:
    """Return a function from a probe to the maps (N,h,w) or (N,H,W) that an equation gives for its images."""
    return lambda probe: torch.stack([equation(Image(probe, i)) for i in range(len(probe.images))])


def grad_cam(image: Image) -> Tensor:
    """Selvaraju et al. 2017, eq. 1 and 2."""
    g, total = image.g(), torch.zeros_like(image.a[0])
    for k in range(len(image.a)):
        total += g[k].mean() * image.a[k]
    return total.clamp(min=0)


def grad_cam_pp(image: Image, epsilon: float = 0.0) -> Tensor:
    """Chattopadhay et al. 2018, eq. 10, 11 and 19 with Y = exp(S) and a piecewise linear head; `epsilon` is pytorch-grad-cam's."""
    g, total = image.g(), torch.zeros_like(image.a[0])
    for k in range(len(image.a)):
        denominator = 2 * g[k] ** 2 + g[k] ** 3 * image.a[k].sum() + epsilon
        alpha = torch.where(g[k] > 0, g[k] ** 2 / torch.where(denominator == 0, 1, denominator), 0)
        total += (alpha * g[k].clamp(min=0)).sum() * image.a[k]
    return total.clamp(min=0)


def xgrad_cam(image: Image) -> Tensor:
    """Fu et al. 2020, section 3."""
    g, total = image.g(), torch.zeros_like(image.a[0])
    for k in range(len(image.a)):
        if image.a[k].sum() != 0:
            total += (g[k] * image.a[k] / image.a[k].sum()).sum() * image.a[k]
    return total.clamp(min=0)


def layer_cam(image: Image) -> Tensor:
    """Jiang et al. 2021, eq. 6 to 8."""
    return sum((g.clamp(min=0) * a for g, a in zip(image.g(), image.a, strict=True)), torch.zeros_like(image.a[0])).clamp(min=0)


def hires_cam(image: Image) -> Tensor:
    """Draelos and Carin 2020, section 3."""
    return sum((g * a for g, a in zip(image.g(), image.a, strict=True)), torch.zeros_like(image.a[0])).clamp(min=0)


def eigen_cam(image: Image) -> Tensor:
    """Muhammad and Yeasin 2020, section III: A = U S V', map = A v_1, its sign such that the sum is not negative."""
    matrix = image.a.flatten(1).T.numpy()
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    projected = torch.from_numpy(matrix @ vectors[:, values.argmax()]).view_as(image.a[0])
    return projected if projected.sum() >= 0 else -projected


def ablation_cam(image: Image, normalise: str = "score", drop: str = "score") -> Tensor:
    """Desai and Ramaswamy 2020, eq. 2, 3 and 4; see `evalkit.methods.ablation_cam` for the variants."""
    with torch.no_grad():
        y, rest = _confidence(image.logits(image.a[None]), image.c, drop)
        parts = [_confidence(image.logits(variants), image.c, drop) for variants in _without_each_channel(image.a)]
    y_k, rest_k = (torch.cat(column) for column in zip(*parts, strict=True))
    before, drops = (rest, rest_k - rest) if drop != "score" and y > 0.5 else (y.abs(), y - y_k)  # 1 - 1e-20 is 1
    if drops.abs().max() <= 1e-12 * before:  # a head of dead units: two passes differ by rounding alone
        drops = torch.zeros_like(drops)
    total = torch.zeros_like(image.a[0])
    for k in range(len(image.a)):
        size = image.a[k].norm() if normalise == "norm" else y.abs()
        total += drops[k] / (size if size > 0 else 1) * image.a[k]
    return total.clamp(min=0)


def _confidence(logits: Tensor, c: int, drop: str) -> tuple[Tensor, Tensor]:
    """Return what Ablation-CAM calls y, and for confidences 1 - y computed without the subtraction; both (V,), from logits (V,C)."""
    z = logits[:, c]
    if drop == "softmax":
        p = logits.softmax(1)
        return p[:, c], p[:, [j for j in range(logits.shape[1]) if j != c]].sum(1)
    return (z.sigmoid(), (-z).sigmoid()) if drop == "sigmoid" else (z, -z)


def _without_each_channel(a: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(a), CHUNK):
        variants = a[None].repeat(len(a[start : start + CHUNK]), 1, 1, 1)
        for row, variant in enumerate(variants):
            variant[start + row] = 0
        yield variants


def spatial_ablation(image: Image) -> Tensor:
    """y minus the score with all channels set to zero at a position."""
    _, height, width = image.a.shape
    drops = torch.zeros(height, width, dtype=image.a.dtype)
    for i in range(height):
        row = image.a[None].repeat(width, 1, 1, 1)
        for j in range(width):
            row[j, :, i, j] = 0
        drops[i] = image.y - image.scores(row, image.c)
    return drops


def ablated_input_cam(image: Image) -> Tensor:
    """Ablation-CAM's eq. 3 with a channel's mean |A_k| instead of y and a black image instead of the ablation."""
    black = _activations_of_black(image.net, image.pixels.shape)
    total = torch.zeros_like(image.a[0])
    for k in range(len(image.a)):
        m, without = image.a[k].abs().mean(), black[k].abs().mean()
        total += max(0.0, 1 - float(without / m)) * image.a[k] if m > 0 else 0
    return total.clamp(min=0)


@lru_cache(maxsize=1)
def _activations_of_black(net: SplitModel, shape: torch.Size) -> Tensor:
    return net.trunk(torch.zeros(shape, dtype=net.dtype))[0][0]


def score_cam(image: Image) -> Tensor:
    """Wang et al. 2020, definitions 2 and 3, algorithm 1."""
    scores = torch.zeros(len(image.a), dtype=image.a.dtype)
    for k in range(len(image.a)):
        mask = F.interpolate(image.a[None, k : k + 1], size=image.x.shape[2:], mode="bilinear", align_corners=False)
        low, high = mask.min(), mask.max()
        with torch.no_grad():
            scores[k] = image.whole(image.x * ((mask - low) / (high - low) if high > low else torch.zeros_like(mask)))[0]
    return torch.einsum("k,khw->hw", scores.softmax(0), image.a).clamp(min=0)


def gradient(image: Image) -> Tensor:
    """Simonyan et al. 2014, section 3.1."""
    x = image.x.clone().requires_grad_()
    (g,) = torch.autograd.grad(image.whole(x)[0], x)
    return g[0].abs().amax(0)


def guided_backprop(image: Image) -> Tensor:
    """Springenberg et al. 2015, section 3.4: torch's own rectifiers are replaced by the guided rule while the network runs."""
    places: list[tuple[object, str, object]] = [(place, "relu", _rule) for place in (F, torch, Tensor)]
    places += [(Tensor, "relu_", _rule), (F, "relu6", _ceiled), (nn.ReLU6, "forward", lambda _, x: _ceiled(x))]
    before = [(place, name, vars(place).get(name)) for place, name, _ in places]
    try:
        for place, name, rule in places:
            setattr(place, name, rule)
        return gradient(image)
    finally:
        for place, name, was in before:
            if was is None:  # it was inherited
                delattr(place, name)
            else:
                setattr(place, name, was)


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0] * (x > 0) * (grads[0] > 0)


def _rule(x: Tensor, inplace: bool = False) -> Tensor:  # noqa: ARG001 - F.relu's signature
    return _Guided.apply(x)


def _ceiled(x: Tensor, inplace: bool = False) -> Tensor:  # noqa: ARG001
    return _Guided.apply(x).clamp(max=6)


def guided(image: Image, cam: Equation) -> Tensor:
    """The upsampled map times guided backpropagation (Selvaraju et al. 2017, section 3.2)."""
    large = F.interpolate(cam(image)[None, None], size=image.x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    return large * guided_backprop(image)


def integrated_gradients(image: Image, steps: int = 50) -> Tensor:
    """Sundararajan et al. 2017, eq. 1 from black, at numpy's Gauss-Legendre nodes, summed over colours."""
    start = -image.net.mean / image.net.std
    path, total = image.x - start, torch.zeros_like(image.x)
    for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        x = (start + (node + 1) / 2 * path).requires_grad_()
        total += weight / 2 * torch.autograd.grad(image.whole(x)[0], x)[0]
    return (total * path)[0].sum(0)


def occlusion(image: Image, window: int = 32, stride: int = 16) -> Tensor:
    """The mean drop under the black squares that cover a pixel; the last ones hang over the edge, as captum's do."""
    _, _, height, width = image.x.shape
    total, count = torch.zeros(2, height, width, dtype=image.x.dtype)
    with torch.no_grad():
        for top in range(0, height - window + stride, stride):
            for left in range(0, width - window + stride, stride):
                occluded = image.pixels.clone()
                occluded[:, :, top : top + window, left : left + window] = 0
                drop = image.y - image.whole((occluded - image.net.mean) / image.net.std)[0]
                total[top : top + window, left : left + window] += drop
                count[top : top + window, left : left + window] += 1
    return total / count
