"""Maps with a value of its own for every position, against loops over positions."""

import pytest
import torch
from builders import HALF, TinyFC, TinyGAP

from evalkit import Probe, SplitModel, methods
from evalkit.errors import UserError


@pytest.mark.parametrize("factory", [TinyFC, TinyGAP])
@pytest.mark.parametrize("batch", [1, 3])
def test_layer_cam_and_hires_cam_equal_their_equations(factory, batch):
    net = SplitModel(factory().double().eval(), "features", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(batch, 3, 16, 16, dtype=torch.float64))
    layer, hires = methods.layer_cam(probe), methods.hires_cam(probe)
    for n in range(batch):
        a = probe.activations[n : n + 1].detach().requires_grad_()
        (g,) = torch.autograd.grad(net.head(a)[0, probe.targets[n]], a)
        for i in range(8):
            for j in range(8):
                products = [(float(g[0, k, i, j]), float(a[0, k, i, j].detach())) for k in range(8)]
                assert float(layer[n, i, j]) == pytest.approx(max(0, sum(max(0, slope) * value for slope, value in products)), abs=1e-10)
                assert float(hires[n, i, j]) == pytest.approx(max(0, sum(slope * value for slope, value in products)), abs=1e-10)


@pytest.mark.parametrize("factory", [TinyFC, TinyGAP])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 1), (3, 2), (2, 2), (8, 5)])
def test_spatial_ablation_is_the_mean_drop_of_the_windows_over_a_cell(factory, window, stride):
    net = SplitModel(factory().double().eval(), "features", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(2, 3, 16, 16, dtype=torch.float64), targets=[0, 3])
    starts = sorted({min(s, 8 - window) for s in range(0, 8, stride)})
    for n, c in enumerate((0, 3)):
        drops: dict[tuple[int, int], list[float]] = {(i, j): [] for i in range(8) for j in range(8)}
        for y in starts:
            for x in starts:
                ablated = probe.activations[n : n + 1].clone()
                ablated[:, :, y : y + window, x : x + window] = 0
                drop = float(probe.scores[n] - net.head(ablated)[0, c])
                for cell, seen in drops.items():
                    if y <= cell[0] < y + window and x <= cell[1] < x + window:
                        seen.append(drop)
        expected = torch.tensor([[sum(drops[i, j]) / len(drops[i, j]) for j in range(8)] for i in range(8)], dtype=torch.float64)
        assert torch.allclose(methods.spatial_ablation(probe, window=window, stride=stride)[n], expected, atol=1e-10)


def test_on_gap_and_linear_spatial_ablation_is_cam(tiny_gap):
    """Zeroing one position takes its own summand from the pooled sum: the drop is CAM's value over the number of cells."""
    probe = Probe(tiny_gap, torch.rand(3, 3, 16, 16))
    assert torch.allclose(methods.spatial_ablation(probe) * 64, methods.cam(probe), atol=1e-4)


@pytest.mark.parametrize(
    ("window", "stride", "says"),
    [(9, 1, "1 <= stride <= window <= 8"), (1, 2, "1 <= stride <= window <= 8"), (2, 0, "stride=0 must be a whole number, 1 or more")],
)
def test_windows_that_do_not_cover_the_map_are_refused(tiny_gap, window, stride, says):
    with pytest.raises(UserError, match=says):
        methods.spatial_ablation(Probe(tiny_gap, torch.rand(1, 3, 16, 16)), window=window, stride=stride)
