"""Maps computed position by position: no weight is shared by a whole channel."""

import torch
from torch import Tensor
from torch.nn.functional import relu

from evalkit.errors import UserError, whole
from evalkit.probe import Probe


def layer_cam(probe: Probe) -> Tensor:
    """LayerCAM (Jiang et al., TIP 2021, eq. 6 to 8): map = ReLU(sum_k ReLU(g_k) A_k), g = dy/dA (N,h,w)."""
    return relu((relu(probe.gradients) * probe.activations).sum(1))


def hires_cam(probe: Probe) -> Tensor:
    """HiResCAM (Draelos and Carin 2020, section 3): map = ReLU(sum_k g_k A_k), g = dy/dA (N,h,w)."""
    return relu((probe.gradients * probe.activations).sum(1))


def spatial_ablation(probe: Probe, window: int = 1, stride: int = 1) -> Tensor:
    """FastAblationCAM (its README, "Improving Ablation-CAM"): the drop of the class score when all channels are zero at a position.

    No weights, no ReLU: unlike in Ablation-CAM's eq. 3 and 4, positions are ablated instead of channels.

    The window (cells of the activation map) moves by `stride`, the last one ending at the border; a cell's value is the
    mean drop over the windows that cover it, so that no window size shifts the map. Returns (N,h,w).

    Raises UserError: the window does not fit, or the stride would leave cells uncovered.
    """
    height, width = probe.activations.shape[2:]
    regions = windows(height, width, window, stride).to(probe.activations.device, non_blocking=True)
    drops = probe.region_drops(regions)
    covering = regions.to(drops.dtype)
    return torch.einsum("nv,vhw->nhw", drops, covering) / covering.sum(0)


def windows(height: int, width: int, window: int, stride: int) -> Tensor:
    """Return the masks (V,h,w) of all positions of a square window that moves by `stride`, the last one ending at the border.

    Raises UserError: the window does not fit, or the stride would leave cells uncovered.
    """
    if not whole(stride, "stride") <= whole(window, "window") <= min(height, width):
        raise UserError(f"spatial_ablation needs 1 <= stride <= window <= {min(height, width)}, not window={window}, stride={stride}")
    starts = [(y, x) for y in _starts(height, window, stride) for x in _starts(width, window, stride)]
    regions = torch.zeros(len(starts), height, width, dtype=torch.bool)
    for region, (y, x) in zip(regions, starts, strict=True):
        region[y : y + window, x : x + window] = True
    return regions


def _starts(length: int, window: int, stride: int) -> list[int]:
    return sorted({*range(0, length - window, stride), length - window})
