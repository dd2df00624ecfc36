"""Complexity and coherency of maps, the two parts of ADCC that need maps.

Poppi et al., "Revisiting the evaluation of class activation mapping for explainability", CVPR workshops 2021, section 3.
`evalkit.analysis.metrics.adcc` joins them with the average drop.
"""

import torch
from torch import Tensor

from evalkit.protocol import soft_mask


def complexity(maps: Tensor) -> Tensor:
    """Return the means of the min-max normalised upsampled maps (N,H,W): (N,) in [0,1], lower is simpler; nan where not finite.

    This is the paper's L1 norm divided by the number of pixels. The paper's Fake-CAM, 1 everywhere but in one corner, comes
    near 1; an exactly constant map has no normalised form, keeps nothing under `soft_mask`, and gets 0.
    """
    return torch.where(_finite(maps), soft_mask(maps).mean((1, 2)), torch.nan)


def coherency(maps: Tensor, again: Tensor) -> Tensor:
    """Return (1 + rho) / 2 in [0,1] (N,), rho being Pearson's correlation of the upsampled maps (N,H,W) with `again`, the
    upsampled maps that explain the same classes for `images * soft_mask(maps)`.

    1 where both maps are equal; nan where either is not finite, or is constant, since rho is undefined there.
    """
    first, second = (_standard(m) for m in (maps, again))
    rho = (first * second).sum((1, 2)).clamp(-1, 1)
    return torch.where(_finite(maps) & _finite(again), (1 + rho) / 2, torch.nan)


def _standard(maps: Tensor) -> Tensor:
    """Return the maps minus their means, of length 1; nan where constant. Normalised first: squares of a tiny map underflow."""
    normalised = soft_mask(maps)
    centred = normalised - normalised.mean((1, 2), keepdim=True)
    return centred / centred.square().sum((1, 2), keepdim=True).sqrt()


def _finite(maps: Tensor) -> Tensor:
    return maps.isfinite().all(2).all(1)
