"""Single-deletion score: the rank correlation of what patches cost when they are removed with what a map attributes to them.

Hesse, Schaub-Meyer and Roth, "Benchmarking the attribution quality of vision models", NeurIPS 2024 datasets and benchmarks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from evalkit import protocol

Patch = tuple[slice, slice]
"""Rows and columns of a patch."""


def patches(height: int, width: int, grid: int) -> list[Patch]:
    """Return the grid x grid patches of an image, row by row; they do not overlap and cover every pixel.

    Patch i of a side of s pixels reaches from floor(i s / grid) to floor((i + 1) s / grid), so that their sides differ by at
    most one pixel. The paper's sizes divide evenly; its code would leave the remainder out.
    """
    rows, columns = ([slice(i * side // grid, (i + 1) * side // grid) for i in range(grid)] for side in (height, width))
    return [(row, column) for row in rows for column in columns]


def patch_drops(images: Tensor, filler: Tensor, grid: int, full: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what each patch costs (N,grid*grid): the score of the images less that of the images without the patch.

    Args:
        images: (N,channels,H,W) in [0,1].
        filler: what a patch is replaced by, broadcastable to the images.
        grid: patches in a row and in a column.
        full: scores of the images (N,), float64.
        score: from images to their scores (N,), float64; called once for each patch.
    """
    drops = []
    for rows, columns in patches(images.shape[2], images.shape[3], grid):
        kept = torch.ones_like(images[:, 0], dtype=torch.bool)
        kept[:, rows, columns] = False
        drops.append(full - score(protocol.perturb(images, kept, filler)))
    return torch.stack(drops, dim=1)


def patch_sums(maps: Tensor, grid: int) -> Tensor:
    """Return the sum of upsampled maps (N,H,W) in each patch (N,grid*grid), in float64; nan for a constant map.

    Sums of a constant map would differ where the patches' sizes do, and say nothing of the map.
    """
    sums = torch.stack(
        [maps[:, rows, columns].double().sum((1, 2)) for rows, columns in patches(maps.shape[1], maps.shape[2], grid)], dim=1
    )
    constant = maps.amax((1, 2)) == maps.amin((1, 2))
    return torch.where(constant[:, None], torch.nan, sums)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation (N,) of the rows of two tensors (N,V); ties have their mean rank.

    nan where a row is constant or not finite.
    """
    ranks = [_ranks(values.double()) for values in (first, second)]
    a, b = (rank - rank.mean(1, keepdim=True) for rank in ranks)  # exactly 0 where constant
    rho = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    finite = first.isfinite().all(1) & second.isfinite().all(1)
    return torch.where(finite, rho.clamp(-1, 1), torch.nan)


def _ranks(values: Tensor) -> Tensor:
    """Return how many values of its row each one exceeds, plus how many it reaches (N,V): its mean rank times 2, less 1."""
    ordered = values.sort(1).values
    return (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)).double()
