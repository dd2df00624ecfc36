"""Ranking, masks and fills against slow, plain code."""

import numpy as np
import pytest
import torch

from evalkit import protocol
from evalkit.config.schema import ProtocolConfig


def plain_top(map_: np.ndarray, percent: float) -> np.ndarray:
    """Python's own stable sort over (value, index)."""
    flat = map_.ravel().tolist()
    order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))
    kept = np.zeros(len(flat), dtype=bool)
    kept[order[: round(percent / 100 * len(flat))]] = True
    return kept.reshape(map_.shape)


@pytest.mark.parametrize("percent", [0, 0.3, 7, 20, 50, 99.9, 100])
def test_exactly_k_pixels_whatever_the_ties(percent):
    maps = torch.stack([torch.rand(13, 17), torch.randint(0, 3, (13, 17)).float(), torch.zeros(13, 17), torch.rand(13, 17).sub(0.6).relu()])
    mask = protocol.Ranking(maps).top(percent)
    assert (mask.sum((1, 2)) == round(percent / 100 * 13 * 17)).all()
    for found, map_ in zip(mask, maps, strict=True):
        assert np.array_equal(found.numpy(), plain_top(map_.numpy(), percent))


def test_rank_gap():
    maps = torch.tensor([[[4.0, 2.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[-1.0, -2.0], [-4.0, -3.0]]])
    ranking = protocol.Ranking(maps)
    assert ranking.gap(50).tolist() == [0.25, 0.0, 0.25]
    assert ranking.gap(100).tolist() == [torch.inf] * 3
    assert ranking.gap(0).tolist() == [torch.inf] * 3


def test_upsample_equals_pillow_free_bilinear():
    """Against the definition: align_corners False samples at (i + 0.5) * h / H - 0.5, clamped."""
    low, size = torch.rand(1, 3, 4, dtype=torch.float64), (9, 10)
    fine = protocol.upsample(low, size)[0].numpy()
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = max((i + 0.5) * 3 / 9 - 0.5, 0), max((j + 0.5) * 4 / 10 - 0.5, 0)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, 2), min(x0 + 1, 3)
            corner = low[0].numpy()
            top = corner[y0, x0] * (1 - (x - x0)) + corner[y0, x1] * (x - x0)
            bottom = corner[y1, x0] * (1 - (x - x0)) + corner[y1, x1] * (x - x0)
            assert abs(fine[i, j] - (top * (1 - (y - y0)) + bottom * (y - y0))) < 1e-12


def test_soft_mask_and_the_constant_map():
    maps = torch.stack([torch.rand(5, 5) * 7 - 2, torch.full((5, 5), 3.0)])
    soft = protocol.soft_mask(maps)
    assert soft[0].min() == 0 and soft[0].max() == 1
    assert torch.equal(soft[1], torch.zeros(5, 5))


def test_fills():
    images, mean = torch.rand(2, 3, 20, 30), torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    kept = torch.rand(2, 20, 30) < 0.3
    where = kept[:, None].expand_as(images)
    for fill, expected in (("black", torch.zeros(1)), ("mean", mean)):
        masked = protocol.perturb(images, kept, protocol.filling(images, fill, mean))
        assert torch.equal(masked[where], images[where])
        assert torch.equal(masked[~where], expected.expand_as(images)[~where])
    normalised = (protocol.perturb(images, kept, protocol.filling(images, "mean", mean)) - mean) / 0.25
    assert (normalised[~where] == 0).all()


def test_soft_with_mean_fill_is_the_map_times_the_normalised_image():
    """What ShapleyCAM's and torch-cam's published numbers multiply."""
    images, mean, std = torch.rand(2, 3, 8, 8), torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), 0.25
    mask = protocol.soft_mask(torch.rand(2, 8, 8))
    masked = protocol.perturb(images, mask, protocol.filling(images, "mean", mean))
    assert torch.allclose((masked - mean) / std, mask[:, None] * (images - mean) / std, atol=1e-6)


def test_blur_is_a_gaussian():
    """Against a direct sum over the kernel, away from the border."""
    images = torch.rand(1, 3, 40, 40, dtype=torch.float64)
    blurred = protocol.filling(images, "blur", torch.zeros(1))
    half = protocol.BLUR_KERNEL // 2
    axis = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * protocol.BLUR_SIGMA**2))
    kernel = np.outer(axis, axis) / axis.sum() ** 2
    window = images[0, 1, 20 - half : 21 + half, 15 - half : 16 + half].numpy()
    assert abs(float(blurred[0, 1, 20, 15]) - (window * kernel).sum()) < 1e-9


def test_points_combine_and_soft_has_no_threshold():
    found = ProtocolConfig(select=["keep_top", "soft"], top_percent=[20, 30], fill=["black", "mean"], points=[]).all_points()
    assert [(p.select, p.top_percent, p.fill) for p in found] == [
        ("keep_top", 20, "black"), ("keep_top", 20, "mean"), ("keep_top", 30, "black"), ("keep_top", 30, "mean"),
        ("soft", None, "black"), ("soft", None, "mean"),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_upsampled_maps_stay_within_their_range_and_constant_ones_constant(dtype):
    for _ in range(200):
        small, large = ([int(n) for n in torch.randint(1, most, (2,))] for most in (20, 300))
        flat = protocol.upsample(torch.full((1, *small), 0.1, dtype=dtype), tuple(large))
        assert (flat == flat[0, 0, 0]).all()
        maps = torch.randn(2, *small, dtype=dtype)
        fine = protocol.upsample(maps, tuple(large))
        assert (fine.amax((1, 2)) <= maps.amax((1, 2))).all() and (fine.amin((1, 2)) >= maps.amin((1, 2))).all()
