"""Maps computed position by position: no weight is shared by a whole channel."""

import torch
from torch import Tensor
from torch.nn.functional import relu

from evalkit.ablation.tiers import chunks
from evalkit.errors import UserError, one_of, whole
from evalkit.methods.weighted import SCORES
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


def recipro_cam(probe: Probe, gaussian: bool = True, score: str = "softmax", batch_size: int = 64) -> Tensor:
    """Recipro-CAM (Byun and Lee 2022, "Fast gradient-free visual explanations"): the score of each position's features alone (N,h,w).

    At position p all channels of A are kept and every other position is zero; the map's value at p is the score of the class that the
    head gives to this. With `gaussian`, the vector A_p is also laid on the eight neighbours of p, all nine with the weights 1/16, 1/8 and
    1/4 of a 3x3 Gaussian filter, cut off at the border. `score` is the "softmax" confidence (float64), as in the authors' code
    (openvinotoolkit/training_extensions at 61bf65c, sybyun/ReciproCAM at 460aec6), the "sigmoid" or the logit ("score"). Their min-max
    normalisation, which changes no order of positions, is left out. The head runs h*w times on each image, `batch_size` positions at once.

    Under model.output=raw, which has no confidence, "softmax" stands for "score". Raises UserError: "sigmoid" there.
    """
    batch_size, score = whole(batch_size, "batch_size"), one_of(score, SCORES, "score")
    if probe.net.readout.output == "raw" and score == "sigmoid":
        raise UserError("recipro_cam: model.output=raw has no sigmoid: set method.recipro_cam.score=score")
    score = "score" if probe.net.readout.output == "raw" else score
    count, _, height, width = probe.activations.shape
    masks = _gaussians(height, width) if gaussian else torch.eye(height * width).view(-1, height, width)
    masks = masks.to(probe.activations.device, probe.activations.dtype, non_blocking=True)
    scores = []
    with torch.no_grad():
        for i in range(count):
            vectors = probe.activations[i].flatten(1).t()[:, :, None, None]
            for part in chunks(height * width, batch_size):
                alone = vectors[part] * masks[part, None]
                context = tuple(c[i : i + 1].expand(len(alone), *c.shape[1:]) for c in probe.context)
                scores.append(probe.score_of(probe.net.head(alone, context), i, score))
    return torch.cat(scores).view(count, height, width)


def _gaussians(height: int, width: int) -> Tensor:
    """Return for each position p the 3x3 Gaussian filter around it (h*w,h,w): the product of 1/4, 1/2, 1/4 in both directions."""
    down, across = (torch.eye(n) / 2 + (torch.eye(n + 1)[1:, :-1] + torch.eye(n + 1)[:-1, 1:]) / 4 for n in (height, width))
    return torch.einsum("ia,jb->ijab", down, across).reshape(-1, height, width)


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
