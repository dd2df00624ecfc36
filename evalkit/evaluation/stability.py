"""How much a method's maps change when the image changes a little: max-sensitivity, and the correlation of the maps.

Yeh, Hsieh, Suggala, Inouye and Ravikumar, "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019: the largest
||M(y) - M(x)|| over images y with |y - x| <= r in every pixel, estimated from random y. Here it is divided by ||M(x)||, as captum's
`sensitivity_max` does, since a map's scale means nothing.
"""

import numpy as np
import torch
from torch import Tensor

from evalkit.evaluation.sanity import spearman

_STREAM = 1902
"""Separates these random numbers from those of other seeds, such as the random control's."""


def noisy(images: Tensor, indices: Tensor, copy: int, radius: float) -> Tensor:
    """Return images (N,channels,H,W) in [0,1] plus uniform noise from -radius to radius, clipped to [0,1].

    The noise depends on the image's index (N,), the number of the copy and the image's size alone: not on batch, order or device.
    """
    draws = [np.random.default_rng([_STREAM, copy, int(index)]).random(images.shape[1:], dtype=np.float32) for index in indices]
    noise = torch.from_numpy(np.stack(draws)).to(images.device, images.dtype, non_blocking=True)
    return (images + radius * (2 * noise - 1)).clamp(0, 1)


def change(maps: Tensor, again: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far raw maps `again` (N,h,w) of noisy images lie from `maps`: the relative distance (N,) and Spearman's correlation (N,).

    The distance is Euclidean, over the norm of `maps`: 0 where both are equal, nan where `maps` alone is zero. The correlation is
    `sanity.spearman`. Both are nan where a map is not finite.
    """
    first, second = (m.double().flatten(1) for m in (maps, again))
    distance, norm = (second - first).norm(dim=1), first.norm(dim=1)
    relative = torch.where(distance == 0, 0, distance / norm)
    return torch.where(relative.isfinite(), relative, torch.nan), torch.from_numpy(spearman(maps, again))
