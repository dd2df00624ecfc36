"""Post-processing that adds no information about the network: each function maps a method's maps to control versions of them.

A metric that prefers a control version to the method rewards something else than what the method found (cf. "information-free"
post-processing, arXiv 2304.13836). Maps (N,h,w) come at the method's own resolution, or (N,H,W) at the image's; a map with values
that are not finite has no finite control version.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from evalkit.errors import UserError, whole
from evalkit.methods.controls import to_centre
from evalkit.probe import Probe
from evalkit.protocol import soft_mask, upsample

_STREAM = 2304
"""Ends the seed of `degraded`, whose maps are then independent of the control `random`."""


def blurred(maps: Tensor, _probe: Probe, share: float = 0.1) -> Tensor:
    """Return the maps (N,h,w) smoothed by a Gaussian whose sigma is a share of each side.

    The weights are normalised over the pixels inside the map, so that its borders are neither darkened nor repeated.
    """
    _within(share, "share", above=0)
    vertical, horizontal = (_gaussian(size, share * size).to(maps) for size in maps.shape[1:])
    return vertical @ maps @ horizontal.T


def dilated(maps: Tensor, probe: Probe, share: float = 0.9) -> Tensor:
    """Return the maps at the image's size (N,H,W), each the maximum over the smallest square that spreads its maximum over a share of it.

    The square grows until at least `share` of the pixels have the map's largest value, but stops before it makes the map constant:
    nearly a map of ones, as Fake-CAM is (Poppi et al., CVPR Workshops 2021, section 3).
    """
    _within(share, "share", above=0)
    large = upsample(maps, (probe.images.shape[2], probe.images.shape[3]))
    return torch.stack([_dilated(one, share) for one in large])


def mixed(maps: Tensor, _probe: Probe, share: float = 0.5) -> Tensor:
    """Return the min-max normalised maps (N,h,w) mixed with a share of the centre control; a constant map counts as 0."""
    _within(share, "share")
    return (1 - share) * soft_mask(maps) + share * to_centre(*maps.shape[1:]).to(maps)


def shuffled(maps: Tensor, probe: Probe, seed: int = 0) -> Tensor:
    """Return the maps (N,h,w) with their pixels permuted, seeded by each image's index: the same values at places without meaning."""
    order = np.stack([draw.permutation(maps[0].numel()) for draw in _draws(probe, seed)])
    return maps.flatten(1).gather(1, torch.from_numpy(order).to(maps.device)).view(maps.shape)


def degraded(maps: Tensor, probe: Probe, share: float = 0.5, seed: int = 0) -> Tensor:
    """Return the min-max normalised maps (N,h,w) with a share of their pixels replaced by uniform noise, seeded by each image's index.

    Which pixels are replaced and by what depends on image and seed only, so a larger share replaces the same pixels and more. 1
    leaves nothing of the map. The noise is not that of `controls.random` with the same seed.
    """
    _within(share, "share")
    pixels = maps[0].numel()
    noise, rank = (np.empty((len(maps), pixels), dtype) for dtype in (np.float32, np.int64))
    for i, draw in enumerate(_draws(probe, seed, _STREAM)):
        noise[i], rank[i] = draw.random(pixels, dtype=np.float32), draw.permutation(pixels)
    replaced = torch.from_numpy(rank < round(share * pixels)).to(maps.device)
    finite = maps.isfinite().all(2).all(1)[:, None]
    flat = torch.where(replaced & finite, torch.from_numpy(noise).to(maps), soft_mask(maps).flatten(1))
    return flat.view(maps.shape)


def _dilated(one: Tensor, share: float) -> Tensor:
    """Dilate one map (H,W); one that is constant or not finite stays as it is."""
    if not bool(one.isfinite().all()) or bool(one.amax() == one.amin()):
        return one
    y, x = (places.double() for places in torch.where(one == one.amax()))
    rows, columns = (torch.arange(size, device=one.device).double() for size in one.shape)
    # the radius at which a square around each pixel reaches the nearest of the largest values
    radius = torch.stack([torch.maximum((rows - a).abs()[:, None], (columns - b).abs()[None]) for a, b in zip(y, x, strict=True)]).amin(0)
    needed = radius.flatten().sort().values[max(0, int(np.ceil(share * radius.numel())) - 1)]
    r = int(min(float(needed), float(radius.amax()) - 1))
    across = max_pool2d(one[None, None], (1, 2 * r + 1), 1, (0, r)) if r else one[None, None]
    return (max_pool2d(across, (2 * r + 1, 1), 1, (r, 0)) if r else across)[0, 0]


def _gaussian(size: int, sigma: float) -> Tensor:
    """Return the weights (size,size), float64, with which each pixel of a line is a mean of all of them."""
    distance = torch.arange(size).double()[:, None] - torch.arange(size).double()[None]
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _draws(probe: Probe, seed: int, *stream: int) -> list[np.random.Generator]:
    return [np.random.default_rng([whole(seed, "seed", least=0), int(index), *stream]) for index in probe.indices]


def _within(share: float, name: str, above: float | None = None) -> None:
    """Raise UserError unless a share lies from 0 to 1, or `above` something."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1 or (above is not None and share <= above):
        raise UserError(f"{name}={share} must be a number from 0 to 1" + (", above 0" if above is not None else ""))
