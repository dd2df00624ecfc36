"""Other networks with the same scores for every input, whose target layer differs (implementation invariance)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Channels:
    """New channels j: the old channel source[j] times scale[j]; what follows reads it times back[j]. All have shape (K',).

    The scores stay the same where, for each old channel, scale times back sums to 1 over the new channels made of it.
    """

    source: Tensor
    scale: Tensor
    back: Tensor


class Made(nn.Module):
    """Makes the new channels (N,K',h,w) of the old ones (N,K,h,w)."""

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        self.register_buffer("source", channels.source)
        self.register_buffer("scale", channels.scale[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Select and scale."""
        return x.index_select(1, self.source) * self.scale


def rescale(k: int, rng: torch.Generator, most: float) -> Channels:
    """Multiply each channel by a factor, log-uniform between 1 / most and most."""
    scale = most ** (2 * torch.rand(k, generator=rng, dtype=torch.float64) - 1)
    return Channels(torch.arange(k), scale, 1 / scale)


def split(k: int, rng: torch.Generator, scale: float) -> Channels:
    """Make two channels of every second one, chosen at random: halves that are added (0.5), or copies that are averaged (1)."""
    chosen = torch.randperm(k, generator=rng)[: (k + 1) // 2]
    twice = torch.zeros(k, dtype=torch.bool).index_fill(0, chosen, True)
    scales = torch.where(twice, scale, 1.0).double()
    backs = torch.where(twice, 0.5 / scale, 1.0).double()
    return Channels(torch.cat([torch.arange(k), chosen]), torch.cat([scales, scales[chosen]]), torch.cat([backs, backs[chosen]]))


def unread(k: int, rng: torch.Generator) -> Channels:
    """Add copies of half of the channels, chosen at random, which nothing reads."""
    chosen = torch.randperm(k, generator=rng)[: (k + 1) // 2]
    back = torch.cat([torch.ones(k), torch.zeros(len(chosen))]).double()
    return Channels(torch.cat([torch.arange(k), chosen]), torch.ones_like(back), back)


def permute(k: int, rng: torch.Generator) -> Channels:
    """Put the channels into a random order."""
    ones = torch.ones(k, dtype=torch.float64)
    return Channels(torch.randperm(k, generator=rng), ones, ones)


REWRITES: dict[str, Callable[[int, torch.Generator], Channels]] = {
    "rescaled by 1/2 to 2": lambda k, rng: rescale(k, rng, 2),
    "rescaled by 1/10 to 10": lambda k, rng: rescale(k, rng, 10),
    "half split into halves": lambda k, rng: split(k, rng, 0.5),
    "half split into copies": lambda k, rng: split(k, rng, 1.0),
    "unread copies added": unread,
    "permuted": permute,
}
FINER = "cells of half the side"


def rewritten(module: nn.Module, layer: str, example: Tensor, channels: Channels) -> nn.Module:
    """Return a copy whose `layer` puts out the new channels and whose first linear layer or convolution behind it reads them.

    Between the two, each channel must be processed by itself, and a factor must pass through (pooling, ReLU, dropout, flatten); the
    caller compares the scores. `example` are normalised images (N,3,H,W).
    """
    module = copy.deepcopy(module).eval()
    reader = first_reader(module, layer, example)
    kind = reader.weight
    out, old = len(reader.weight), int(channels.source.max()) + 1
    columns = reader.weight.detach().reshape(out, old, -1)[:, channels.source] * channels.back.to(kind)[:, None]
    if isinstance(reader, nn.Linear):
        reader.weight, reader.in_features = nn.Parameter(columns.flatten(1)), columns[0].numel()
    else:
        reader.weight, reader.in_channels = nn.Parameter(columns.view(out, -1, *kind.shape[2:])), len(channels.source)
    moved = Channels(channels.source.to(kind.device), channels.scale.to(kind), channels.back.to(kind))
    module.set_submodule(layer, nn.Sequential(module.get_submodule(layer), Made(moved)))
    return module


def first_reader(module: nn.Module, layer: str, example: Tensor) -> nn.Linear | nn.Conv2d:
    """Return the first linear layer or convolution that runs after a layer. Raises ValueError where there is none."""
    calls: list[nn.Module] = []
    hooks = [part.register_forward_hook(lambda part, *_: calls.append(part)) for part in module.modules()]
    with torch.no_grad():
        module(example)
    for hook in hooks:
        hook.remove()
    behind = calls[calls.index(module.get_submodule(layer)) + 1 :]
    for part in behind:
        if isinstance(part, nn.Linear | nn.Conv2d):
            return part
    raise ValueError(f"no linear layer and no convolution runs after '{layer}'")


def finer(module: nn.Module, layer: str, *, pooled: bool) -> tuple[nn.Module, str]:
    """Return a copy in which each cell of the layer is four equal ones, and the name of that layer.

    Global average pooling gives the same for both; where it does not follow directly (`pooled` is false), an average over each four
    cells is put behind.
    """
    module = copy.deepcopy(module).eval()
    parts = [module.get_submodule(layer), nn.Upsample(scale_factor=2, mode="nearest")]
    module.set_submodule(layer, nn.Sequential(*parts, *([] if pooled else [nn.AvgPool2d(2)])))
    return module, layer if pooled else f"{layer}.1"
