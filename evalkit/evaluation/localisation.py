"""Measures of how well a map lies on the object: upsampled maps (N,H,W) and the boolean region of the explained class (N,H,W).

They measure where the object is, not what the network uses: if a network uses the background, a faithful map scores badly
here. All are undefined (nan) where the region is empty or the map is not finite.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.data.boxes import Box
from evalkit.protocol import Ranking


def region(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """Return the union of boxes, given in pixels of the input, as a mask (H,W): the pixels whose centres lie inside a box."""
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    inside = torch.zeros(height, width, dtype=torch.bool)
    for box in boxes:
        if (box.height, box.width) != (height, width):
            raise ValueError(f"a box in pixels of {box.width}x{box.height}, not of the input's {width}x{height}: see to_input")
        inside |= (box.x1 <= x) & (x < box.x2) & (box.y1 <= y) & (y < box.y2)
    return inside


def pointing_game(maps: Tensor, region: Tensor, tolerance: int = 0) -> Tensor:
    """Return 1 where the map's maximum lies inside the region, else 0; with ties, the share of maximal pixels inside (N,).

    Pointing game (Zhang et al., "Top-down neural attention by excitation backprop", IJCV 2018, section 4), which accepts
    hits up to 15 pixels outside: `tolerance` enlarges the region by that many pixels. Because ties are shared, a constant
    map scores chance, the region's share of the image; the first maximum alone would score the top left corner.
    """
    highest = maps == maps.amax((1, 2), keepdim=True)
    hits = highest & (_grown(region, tolerance) if tolerance else region)
    return _where_defined(maps, region, hits.sum((1, 2)) / highest.sum((1, 2)))


def energy_inside(maps: Tensor, region: Tensor) -> Tensor:
    """Return the share of the map's positive values that lies inside the region (N,); nan where no value is positive.

    The energy-based pointing game (Wang et al., "Score-CAM", CVPR workshops 2020, section 4.3). A constant positive map
    scores the region's share of the image.
    """
    highest = maps.amax((1, 2), keepdim=True)
    energy = maps.clamp(min=0) / torch.where(highest > 0, highest, 1)  # divided by the maximum, so that no sum overflows
    return _where_defined(maps, region, (energy * region).sum((1, 2)) / energy.sum((1, 2)))


def best_iou(ranking: Ranking, region: Tensor) -> Tensor:
    """Return the intersection over union of {map >= t} with the region, at the threshold t that is best for each map (N,).

    An upper bound for any threshold. MaxBoxAcc (Choe et al., "Evaluating weakly supervised object localization methods
    right", CVPR 2020) instead uses one threshold for the whole set, compares the box around the largest component, and
    counts hits above a fixed overlap. Exact: every distinct value is tried; a constant map has one value, which selects the
    whole image.
    """
    values, order = ranking.sorted
    flat = region.flatten(1)
    overlap = flat.gather(1, order).cumsum(1)
    selected = torch.arange(1, values.shape[1] + 1, device=values.device)
    iou = overlap / (selected + flat.sum(1, keepdim=True) - overlap)
    cuts = torch.ones_like(flat)
    cuts[:, :-1] = values[:, :-1] != values[:, 1:]  # no threshold separates equal values
    return _where_defined(ranking.maps, region, torch.where(cuts, iou, 0).amax(1))


def _grown(region: Tensor, radius: int) -> Tensor:
    """Return all pixels whose distance to the region is at most `radius`."""
    offset = torch.arange(-radius, radius + 1, device=region.device)
    disk = (offset[:, None] ** 2 + offset**2 <= radius**2).float()
    return F.conv2d(region[:, None].float(), disk[None, None], padding=radius)[:, 0] > 0.5


def _where_defined(maps: Tensor, region: Tensor, values: Tensor) -> Tensor:
    return torch.where(region.any(2).any(1) & maps.isfinite().all(2).all(1), values, torch.nan)
