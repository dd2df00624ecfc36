"""Controls: maps that do not depend on the network. A method that is not better than these explains nothing."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from evalkit.errors import whole
from evalkit.methods.layers import layer_free
from evalkit.probe import Probe


@layer_free
def random(probe: Probe, seed: int = 0) -> Tensor:
    """Return uniform noise at the activations' resolution (N,h,w), seeded by each image's index: the same in any batch."""
    height, width = probe.activations.shape[2:]
    draws = [np.random.default_rng([whole(seed, "seed", least=0), int(index)]) for index in probe.indices]
    maps = [draw.random((height, width), dtype=np.float32) for draw in draws]
    return torch.from_numpy(np.stack(maps)).to(probe.activations.device, _dtype(probe), non_blocking=True)


@layer_free
def constant(probe: Probe) -> Tensor:
    """Return the same value everywhere (N,h,w): under `keep_top` the first pixels in index order, the top of the image."""
    return torch.ones_like(probe.activations[:, 0])


@layer_free
def centre(probe: Probe) -> Tensor:
    """Return one minus the distance to the image's centre over the largest such distance (N,h,w).

    A strong baseline although it reads no pixel, since photographs often show their object in the middle.
    """
    n, _, height, width = probe.activations.shape
    return to_centre(height, width, _dtype(probe), probe.activations.device).expand(n, height, width)


def to_centre(height: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """Return the map of `centre` at a size (h,w)."""
    y = torch.linspace(-1, 1, height, dtype=dtype, device=device)
    x = torch.linspace(-1, 1, width, dtype=dtype, device=device)
    distance = torch.sqrt(y[:, None] ** 2 + x[None, :] ** 2)
    return 1 - distance / distance.max().clamp(min=1)


@layer_free
def edges(probe: Probe) -> Tensor:
    """Return Sobel's gradient magnitude of the channels' mean (N,H,W): an edge detector without the network (Adebayo et al. 2018)."""
    grey = probe.images.mean(1, keepdim=True)
    sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]).to(grey, non_blocking=True)
    along_x_and_y = torch.stack([sobel, sobel.T])[:, None]
    return conv2d(pad(grey, (1, 1, 1, 1), mode="replicate"), along_x_and_y).norm(dim=1)


@layer_free
def fake_cam(probe: Probe) -> Tensor:
    """Fake-CAM (Poppi et al., CVPR Workshops 2021, section 3): 1 everywhere but 0 in the top left pixel (N,H,W).

    Multiplied with the image it removes one pixel, so its average drop under `soft` is nearly perfect. Where exactly the
    top x % are kept, it is worth no more than a constant map.
    """
    maps = torch.ones_like(probe.images[:, 0])
    maps[:, 0, 0] = 0
    return maps


def _dtype(probe: Probe) -> torch.dtype:
    """Return the activations' type, or float32 where that has 16 bits: it would round different pixels to one value."""
    return torch.promote_types(probe.activations.dtype, torch.float32)
