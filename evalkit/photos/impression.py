"""Class impressions: images that a network scores highly for a class, made without any photograph.

Addepalli et al. (ICIP 2020): a noise image is changed by gradient ascent on the class's logit; random rotation, scaling, colour jitter
and cropping between the iterations make the image robust to these, and its total variation is kept low, as natural images have it. Here
the transformed image is what the network sees in an iteration, and the gradient flows back through the transformations: the image itself
is not replaced by its transformed version, which would blur it each time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

GREY = 0.5
MARGIN = 1.125
"""Side of the optimised image, as a multiple of what the network sees of it: from there the crops are taken."""


@dataclass(frozen=True)
class Ascent:
    """Settings of the optimisation."""

    steps: int = 200
    seed: int = 0
    rate: float = 0.05
    """Step: how far a pixel in [0,1] moves where the gradient has its root mean square; falls to 0 along a cosine."""
    smoothness: float = 0.5
    """Weight of the total variation's gradient, beside the class's of root mean square 1."""
    degrees: float = 12
    scale: float = 0.15
    colour: float = 0.1


@dataclass(frozen=True)
class Impression:
    """The images (1,C,H,W) in [0,1] before and after, and the class's logit in each iteration, of the transformed image (steps,)."""

    start: Tensor
    image: Tensor
    logits: Tensor
    climbed: bool = True
    """Whether the gradient was other than zero in any step."""


def impress(
    score: Callable[[Tensor], Tensor], shape: tuple[int, int, int], settings: Ascent, device: torch.device | str = "cpu"
) -> Impression:
    """Maximise `score`, from images (1,C,H,W) in [0,1] to one logit (1,), by gradient ascent; `shape` is (C,H,W).

    In each iteration the image moves by rate * (g / rms(g) - smoothness * d TV / d image), g being the gradient of the logit of the
    transformed image, and is clamped to [0,1]. The same settings give the same image on the same device; the global random state is kept.
    """
    channels, height, width = shape
    canvas = (round(height * MARGIN), round(width * MARGIN))
    middle = v2.CenterCrop([height, width])
    change = _transformation((height, width), settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        image = (GREY + 0.1 * torch.randn(1, channels, *canvas)).clamp(0, 1).to(device)
        start, logits, steepest = middle(image).clone(), [], torch.zeros((), device=device)
        for step in range(settings.steps):
            image.requires_grad_()
            logit = score(change(image)).sum()
            (gradient,) = torch.autograd.grad(logit, image)
            (roughness,) = torch.autograd.grad(total_variation(image), image)
            direction = gradient / gradient.square().mean().sqrt().clamp(min=torch.finfo(gradient.dtype).tiny)
            rate = settings.rate * (1 + torch.cos(torch.tensor(torch.pi * step / settings.steps)).item()) / 2
            image = (image.detach() + rate * (direction - settings.smoothness * roughness)).clamp(0, 1)
            steepest = torch.maximum(steepest, gradient.abs().amax().float())
            logits.append(logit.detach().cpu())
    return Impression(start, middle(image), torch.stack(logits), bool(steepest > 0))


def total_variation(image: Tensor) -> Tensor:
    """Sum the lengths of the differences to the right and lower neighbour, sqrt(dx^2 + dy^2 + 1e-4), over channels and pixels (N,C,H,W).

    The small constant makes it differentiable where neighbours are equal; the last row and column count as equal to themselves.
    """
    right = torch.nn.functional.pad(image[..., 1:] - image[..., :-1], (0, 1))
    down = torch.nn.functional.pad(image[..., 1:, :] - image[..., :-1, :], (0, 0, 0, 1))
    return (right.square() + down.square() + 1e-4).sqrt().sum()


def _transformation(size: tuple[int, int], settings: Ascent) -> Callable[[Tensor], Tensor]:
    """Return a random rotation, scaling, crop to `size` and colour jitter, differentiable; torch's global generator draws them."""
    scale = 1 - settings.scale, 1 + settings.scale
    # Filled with 0, and 0 made grey below: with any other colour, torchvision writes into a tensor that autograd needs.
    turn = v2.RandomAffine(settings.degrees, scale=scale, interpolation=InterpolationMode.BILINEAR, fill=None)
    crop = v2.RandomCrop(list(size))

    def transformed(image: Tensor) -> Tensor:
        """Transform images (1,C,H,W); each channel is multiplied by a random factor and shifted, then clamped to [0,1]."""
        seen: Tensor = crop(turn(image - GREY)) + GREY
        drawn = settings.colour * (2 * torch.rand(2, 1, image.shape[1], 1, 1) - 1).to(image)
        return (seen * (1 + drawn[0]) + drawn[1] / 2).clamp(0, 1)

    return transformed
