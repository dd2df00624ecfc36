"""Does a map lie on the object? Upsampled maps (N,H,W) against the region of the explained class (N,H,W), boolean.

These ask where the object is, not what the network looks at: a network that reads the background is explained well by
a map that scores badly here. All are undefined (nan) where the region is empty or the map is not finite.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.data.boxes import Box
from evalkit.protocol import Ranking


def region(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """Union of boxes given in pixels of the input -> boolean (H,W): the pixels whose centres lie inside one."""
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    inside = torch.zeros(height, width, dtype=torch.bool)
    for box in boxes:
        if (box.height, box.width) != (height, width):
            raise ValueError(f"a box in pixels of {box.width}x{box.height}, not of the input's {width}x{height}: see to_input")
        inside |= (box.x1 <= x) & (x < box.x2) & (box.y1 <= y) & (y < box.y2)
    return inside


def pointing_game(maps: Tensor, region: Tensor, tolerance: int = 0) -> Tensor:
    """Does the map's maximum lie inside the region (N,)? 1 or 0, or the share of tied maximal pixels that do.

    Pointing game (Zhang et al., "Top-down neural attention by excitation backprop", IJCV 2018, section 4), whose hits
    may also miss by 15 pixels: `tolerance` grows the region by that many. Sharing ties makes a constant map score
    chance, the region's share of the image, where taking the first maximum would score the top left corner.
    """
    highest = maps == maps.amax((1, 2), keepdim=True)
    hits = highest & (_grown(region, tolerance) if tolerance else region)
    return _where_defined(maps, region, hits.sum((1, 2)) / highest.sum((1, 2)))


def energy_inside(maps: Tensor, region: Tensor) -> Tensor:
    """Share of the map's positive values that lies inside the region (N,); nan where no value is positive.

    The energy-based pointing game (Wang et al., "Score-CAM", CVPR workshops 2020, section 4.3). A constant positive map
    scores the region's share of the image.
    """
    highest = maps.amax((1, 2), keepdim=True)
    energy = maps.clamp(min=0) / torch.where(highest > 0, highest, 1)  # of its maximum: the sum of any map fits its type
    return _where_defined(maps, region, (energy * region).sum((1, 2)) / energy.sum((1, 2)))


def best_iou(ranking: Ranking, region: Tensor) -> Tensor:
    """Intersection over union of {map >= t} with the region, at the threshold t that is best for this very map (N,).

    An upper bound on what thresholding can reach. MaxBoxAcc (Choe et al., "Evaluating weakly supervised object
    localization methods right", CVPR 2020) picks one threshold for the whole set, compares the box around
    the largest component, and counts hits above a fixed overlap. Exact: every distinct value is tried, and a constant
    map, which has one, can only select the whole image.
    """
    values, order = ranking.sorted
    flat = region.flatten(1)
    overlap = flat.gather(1, order).cumsum(1)
    selected = torch.arange(1, values.shape[1] + 1, device=values.device)
    iou = overlap / (selected + flat.sum(1, keepdim=True) - overlap)
    cuts = torch.ones_like(flat)
    cuts[:, :-1] = values[:, :-1] != values[:, 1:]  # no threshold parts equal values
    return _where_defined(ranking.maps, region, torch.where(cuts, iou, 0).amax(1))


def _grown(region: Tensor, radius: int) -> Tensor:
    """All pixels whose distance to the region is at most `radius`."""
    offset = torch.arange(-radius, radius + 1, device=region.device)
    disk = (offset[:, None] ** 2 + offset**2 <= radius**2).float()
    return F.conv2d(region[:, None].float(), disk[None, None], padding=radius)[:, 0] > 0.5


def _where_defined(maps: Tensor, region: Tensor, values: Tensor) -> Tensor:
    return torch.where(region.any(2).any(1) & maps.isfinite().all(2).all(1), values, torch.nan)
