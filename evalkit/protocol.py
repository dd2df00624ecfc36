"""From a map to a perturbed image: ranking, mask, fill.

Published "average drop" code differs in what is kept, how much of it, and what replaces the rest, often without saying
so. Here each of these is a named coordinate of a protocol point.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from evalkit.errors import UserError
from evalkit.imputation import NOISE, Imputation, Pixels
from evalkit.point import ROAD_SOFT, Point

BLUR_KERNEL, BLUR_SIGMA = 11, 5.0
"""The blur of RISE's insertion metric (Petsiuk et al., BMVC 2018)."""

ROAD_SEED = 2022
"""Separates the noise of "road" from the draws of the random control, which are seeded by the image's index too."""


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample maps (N,h,w) to (N,H,W), bilinear, align_corners False; clamped to each map's range, so constant maps stay constant."""
    large = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return large.clamp(maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True))


@dataclass(frozen=True)
class Ranking:
    """Pixels of raw maps (N,H,W) by falling value, ties by pixel index. One stable sort, at the first use, serves all thresholds."""

    maps: Tensor

    @cached_property
    def sorted(self) -> tuple[Tensor, Tensor]:
        """The values in falling order and their pixel indices, both (N,H*W)."""
        values, order = self.maps.flatten(1).sort(dim=1, descending=True, stable=True)
        return values, order

    def top(self, percent: float) -> Tensor:
        """Return the mask (N,H,W) of the top k = round(percent / 100 * H * W) pixels, exactly."""
        order = self.sorted[1]
        mask = torch.zeros_like(order, dtype=torch.bool)
        mask.scatter_(1, order[:, : self.count(percent)], True)
        return mask.view(self.maps.shape)

    def gap(self, percent: float) -> Tensor:
        """Return the k-th minus the next value over the largest absolute value (N,); infinite where k is 0 or all pixels.

        Where it is below 1e-5, float rounding (another batch size, another machine) may swap two pixels.
        """
        values, k = self.sorted[0], self.count(percent)
        largest = values.abs().amax(1)
        if not 0 < k < values.shape[1]:
            return torch.full_like(largest, torch.inf)
        return (values[:, k - 1] - values[:, k]) / torch.where(largest > 0, largest, 1)

    def count(self, percent: float) -> int:
        """Return k, the number of pixels in the top `percent`."""
        return round(percent / 100 * self.maps[0].numel())


def soft_mask(maps: Tensor) -> Tensor:
    """Return min-max normalised maps (N,H,W) in [0,1]; a constant map, which has no normalised form, becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)


def kept(point: Point, ranking: Ranking) -> tuple[Tensor, Tensor]:
    """Return the mask (N,H,W) of what a point keeps of images with these maps, and its threshold's gap (N,), nan under "soft"."""
    if point.top_percent is None:
        return soft_mask(ranking.maps), torch.full_like(ranking.maps[:, 0, 0], torch.nan)
    top = ranking.top(point.top_percent)
    return (~top if point.select == "remove_top" else top), ranking.gap(point.top_percent)


def filling(images: Tensor, fill: str, mean: Tensor) -> Tensor:
    """Return a replacement that is the same for every mask, broadcastable to images (N,channels,H,W) in [0,1].

    `fill` is "black", "mean" or "blur"; `mean` has a number for each channel.
    """
    if fill == "blur":
        return gaussian_blur(images, [BLUR_KERNEL, BLUR_KERNEL], [BLUR_SIGMA, BLUR_SIGMA])
    return mean.to(images) if fill == "mean" else torch.zeros_like(images[:1, :, :1, :1])


class Fills:
    """The replacements of a batch's removed pixels, by fill and by what is kept; each that fits all masks is computed once.

    Args:
        images: (N,channels,H,W) in [0,1].
        mean: the normalisation's mean, a number for each channel or one for all.
        std: its standard deviation, likewise.
        indices: each image's position in its data set (N,), which seeds the noise of "road".
    """

    def __init__(self, images: Tensor, mean: Tensor, std: Tensor, indices: Sequence[int] | Tensor) -> None:
        self._images, self._mean, self._std, self._indices = images, mean, std, [int(index) for index in indices]
        self._alike: dict[str, Tensor] = {}

    def __call__(self, fill: str, kept: Tensor) -> Tensor:
        """Return the replacement where `kept` (N,H,W) is not 1, broadcastable to the images.

        Raises UserError for "road" and a soft mask.
        """
        if fill == "road":
            return self._imputed(kept)
        if fill not in self._alike:
            self._alike[fill] = filling(self._images, fill, self._mean)
        return self._alike[fill]

    def _imputed(self, kept: Tensor) -> Tensor:
        """Return images (N,channels,H,W) whose missing pixels are imputed linearly, plus noise (`evalkit.imputation`).

        The noise is Gaussian, independent in each pixel and channel, with a standard deviation of 0.01 after normalisation, that is 0.01
        `std` in these images. It is drawn once for each image, from its index alone, so that equal masks give equal images. Values are
        not clamped to [0,1]. Where no pixel is kept the system has no unique solution, and the imputed value is the normalisation's mean.
        Systems are solved on the host, one image after another, in as many threads as torch uses; equal masks share their factors.
        """
        if kept.dtype != torch.bool:
            raise UserError(ROAD_SOFT)
        masks, alike = kept.cpu().numpy(), defaultdict[bytes, list[int]](list)
        for i, mask in enumerate(masks):
            alike[mask.tobytes()].append(i)
        filled = self._noise.copy()

        def impute(images: list[int]) -> None:
            mask = masks[images[0]]
            if not mask.any():
                filled[images] += _on_host(self._mean)
            else:
                imputation = Imputation(mask)
                for i in images:
                    filled[i] += imputation(self._host[i])

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(impute, alike.values()))
        return torch.from_numpy(filled).to(self._images)

    @cached_property
    def _host(self) -> Pixels:
        return _on_host(self._images)

    @cached_property
    def _noise(self) -> Pixels:
        draws = [np.random.default_rng([ROAD_SEED, index]).standard_normal(self._images.shape[1:]) for index in self._indices]
        return NOISE * _on_host(self._std) * np.stack(draws)


def _on_host(tensor: Tensor) -> Pixels:
    return tensor.detach().to("cpu", torch.float64).numpy()


def perturb(images: Tensor, kept: Tensor, filler: Tensor) -> Tensor:
    """Return images (N,channels,H,W) in [0,1] where `kept` (N,H,W) is 1 or True, `filler` where it is 0, and a blend between."""
    kept = kept[:, None]
    return torch.where(kept, images, filler) if kept.dtype == torch.bool else images * kept + filler * (1 - kept)
