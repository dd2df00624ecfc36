"""Maps of known order: a method's map of which a known share is replaced, and the map that is right by construction.

The oracle is a method for any run of data=planted, with experiments/findings on the Python path:

    evalkit run experiment=planted '+method.oracle._target_=planted_maps.oracle'

Which cells are replaced depends on the image's index alone, never on the batch.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from evalkit.data.digits import SIZE
from evalkit.data.planted import Planted
from evalkit.evaluation.localisation import region
from evalkit.probe import Probe
from evalkit.protocol import soft_mask


@lru_cache(maxsize=8)
def canvases(split: str, seed: int) -> Planted:
    """Return the data set that the indices of a probe belong to."""
    return Planted(split, seed)


def oracle(probe: Probe, split: str = "val", seed: int = 0) -> Tensor:
    """Return the share of each cell that the trigger covers (N,h,w), at the activations' resolution: the causal pixels themselves."""
    height, width = probe.activations.shape[2:]
    masks = torch.stack([trigger_pixels(int(index), split, seed) for index in probe.indices]).to(probe.activations)
    return torch.nn.functional.adaptive_avg_pool2d(masks[:, None], (height, width))[:, 0]


def trigger_pixels(index: int, split: str = "val", seed: int = 0) -> Tensor:
    """Return the pixels of a canvas that its trigger covers, (64,64), boolean."""
    return region(canvases(split, seed).boxes(index), SIZE, SIZE)


def pixels(index: int, split: str = "val", seed: int = 0) -> Tensor:
    """Return a canvas as the networks take it: (3,64,64), uint8."""
    return torch.from_numpy(np.array(canvases(split, seed).load(index))).permute(2, 0, 1)


def next_canvases(probe: Probe, split: str = "val", seed: int = 0) -> Probe:
    """Return a probe of the next canvas of each, with its own predicted class; the last canvas's next is the first."""
    after = (probe.indices.cpu() + 1) % len(canvases(split, seed))
    images = torch.stack([pixels(int(index), split, seed) for index in after])
    return Probe(probe.net, images, None, after, byte_budget=probe.byte_budget)


def replaced_by(maps: Tensor, others: Tensor, probe: Probe, share: float) -> Tensor:
    """Return min-max normalised maps (N,h,w) in which a share of the cells is taken from `others` (N,h,w), normalised likewise.

    Which cells depends on image and share only, and a larger share replaces the same cells and more, as in the control `degraded`.
    """
    cells = maps[0].numel()
    rank = np.stack([np.random.default_rng([1, int(index)]).permutation(cells) for index in probe.indices])
    replaced = torch.from_numpy(rank < round(share * cells)).to(maps.device).view(maps.shape)
    return torch.where(replaced, soft_mask(others), soft_mask(maps))
