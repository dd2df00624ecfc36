"""The two parts of ADCC that need maps (Poppi et al., "Revisiting the evaluation of class activation mapping for
explainability", CVPR workshops 2021, section 3); `evalkit.analysis.metrics` joins them with the average drop.
"""

import torch
from torch import Tensor

from evalkit.protocol import soft_mask


def complexity(maps: Tensor) -> Tensor:
    """Mean of the min-max normalised upsampled maps (N,H,W): (N,) in [0,1], lower is simpler; nan where not finite.

    The paper's L1 norm over the number of pixels. Its Fake-CAM, 1 everywhere but in one corner, comes near 1; an
    exactly constant map has no normalised form, keeps nothing under `soft_mask`, and is 0.
    """
    return torch.where(_finite(maps), soft_mask(maps).mean((1, 2)), torch.nan)


def coherency(maps: Tensor, again: Tensor) -> Tensor:
    """(1 + rho) / 2 in [0,1] (N,), rho being Pearson's correlation of the upsampled maps (N,H,W) of the images with
    those of the images seen through their own maps: `again` explains the same class of `images * soft_mask(maps)`.

    1 where the second map is the first; nan where either is constant, for rho is undefined there, or not finite.
    """
    first, second = (_standard(m) for m in (maps, again))
    rho = (first * second).sum((1, 2)).clamp(-1, 1)
    return torch.where(_finite(maps) & _finite(again), (1 + rho) / 2, torch.nan)


def _standard(maps: Tensor) -> Tensor:
    """Maps less their means, of length 1; nan where constant. Normalised before: a tiny map would vanish squared."""
    normalised = soft_mask(maps)
    centred = normalised - normalised.mean((1, 2), keepdim=True)
    return centred / centred.square().sum((1, 2), keepdim=True).sqrt()


def _finite(maps: Tensor) -> Tensor:
    return maps.isfinite().all(2).all(1)
