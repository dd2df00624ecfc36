"""Localisation against plain loops over pixels and thresholds."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evalkit.data.boxes import Box
from evalkit.evaluation.localisation import best_iou, energy_inside, pointing_game, region
from evalkit.protocol import Ranking


def cases(n: int) -> tuple[Tensor, Tensor]:
    """Maps with and without ties and signs, and regions of any size but none."""
    maps = torch.randn(n, 9, 7)
    maps[::2] = torch.randint(-1, 3, maps[::2].shape).float()
    regions = torch.rand(n, 9, 7) < torch.rand(n, 1, 1)
    regions[:, 4, 3] = True
    return maps, regions


def plain_iou(map_: np.ndarray, inside: np.ndarray) -> float:
    best = 0.0
    for threshold in np.unique(map_):
        chosen = map_ >= threshold
        best = max(best, (chosen & inside).sum() / (chosen | inside).sum())
    return best


def plain_pointing(map_: np.ndarray, inside: np.ndarray, tolerance: int) -> float:
    hits = []
    for i, j in np.argwhere(map_ == map_.max()):
        near = [(y, x) for y, x in np.argwhere(inside) if (y - i) ** 2 + (x - j) ** 2 <= tolerance**2]
        hits.append(bool(near))
    return sum(hits) / len(hits)


@pytest.mark.parametrize("n", [1, 7, 30])
def test_against_loops(n):
    maps, regions = cases(n)
    found = [best_iou(Ranking(maps), regions), energy_inside(maps, regions), pointing_game(maps, regions), pointing_game(maps, regions, 2)]
    for i, (map_, inside) in enumerate(zip(maps.double().numpy(), regions.numpy(), strict=True)):
        positive = map_.clip(min=0)
        energy = positive[inside].sum() / positive.sum() if positive.any() else math.nan
        expected = [plain_iou(map_, inside), energy, plain_pointing(map_, inside, 0), plain_pointing(map_, inside, 2)]
        for one, other in zip(found, expected, strict=True):
            assert float(one[i]) == pytest.approx(other, abs=1e-5, nan_ok=True)


def test_constant_map_scores_chance():
    _, regions = cases(5)
    share = regions.float().mean((1, 2))
    for value in (1.0, 0.0, -2.0):
        flat = torch.full((5, 9, 7), value)
        assert torch.allclose(pointing_game(flat, regions), share)
        assert torch.allclose(best_iou(Ranking(flat), regions), share)
        energy = energy_inside(flat, regions)
        assert torch.allclose(energy, share) if value > 0 else bool(energy.isnan().all())


def test_undefined_where_there_is_no_region_or_no_finite_map():
    maps, regions = cases(4)
    regions[1] = False
    maps[2, 0, 0], maps[3, 8, 6] = torch.nan, torch.inf
    maps[0, 4, 3] = 9.0
    for values in (best_iou(Ranking(maps), regions), energy_inside(maps, regions), pointing_game(maps, regions)):
        assert values.isnan().tolist() == [False, True, True, True]


def test_perfect_map():
    _, regions = cases(6)
    for maps in (regions.float(), regions.float() * 1e30, regions.float() * 1e-30):
        for values in (best_iou(Ranking(maps), regions), energy_inside(maps, regions), pointing_game(maps, regions)):
            assert torch.allclose(values, torch.ones(6))


def test_huge_and_tiny_maps_keep_their_energy():
    maps, regions = torch.rand(3, 9, 7), cases(3)[1]
    for scale in (3e38, 1e-30):
        assert torch.allclose(energy_inside(maps * scale, regions), energy_inside(maps, regions), atol=1e-5)


def test_tolerance_is_a_disk():
    """The maximum in every cell of a 40x40 map in turn, the region one cell."""
    region = torch.zeros(40, 40, dtype=torch.bool)
    region[20, 20] = True
    reached = pointing_game(torch.eye(1600).view(1600, 40, 40), region.expand(1600, 40, 40), 15).view(40, 40).float()
    i, j = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    assert torch.equal(reached, (((i - 20) ** 2 + (j - 20) ** 2) <= 225).float())


def test_region_holds_pixel_centres():
    boxes = [Box(None, 1, 0, 3, 2, 6, 4), Box("a", 2.4, 1.6, 4.6, 3.4, 6, 4), Box(None, 5.6, 0, 6, 4, 6, 4)]
    found = region(boxes, 4, 6)
    for i in range(4):
        for j in range(6):
            inside = any(b.x1 <= j + 0.5 < b.x2 and b.y1 <= i + 0.5 < b.y2 for b in boxes)
            assert bool(found[i, j]) == inside
    assert not region([], 4, 6).any()
    with pytest.raises(ValueError, match="see to_input"):
        region(boxes, 6, 4)
