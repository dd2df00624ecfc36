"""Maps with a value of its own for every position, against loops over positions."""

import pytest
import torch
from builders import HALF, TinyFC, TinyGAP

from evalkit import Probe, SplitModel, methods
from evalkit.errors import UserError
from evalkit.models.readout import Readout


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


@pytest.mark.parametrize("factory", [TinyFC, TinyGAP])
@pytest.mark.parametrize("score", ["score", "softmax", "sigmoid"])
@pytest.mark.parametrize("gaussian", [False, True])
def test_recipro_cam_is_the_score_of_each_position_alone(factory, score, gaussian):
    net = SplitModel(factory().double().eval(), "features", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(2, 3, 16, 16, dtype=torch.float64), targets=[0, 3])
    found = methods.recipro_cam(probe, gaussian=gaussian, score=score, batch_size=5)
    assert torch.equal(found.argmax(), methods.recipro_cam(probe, gaussian=gaussian, score=score).argmax())
    weight = {0: 1 / 2, 1: 1 / 4} if gaussian else {0: 1.0, 1: 0.0}
    for n, c in enumerate((0, 3)):
        for i in range(8):
            for j in range(8):
                alone = torch.zeros(1, 8, 8, 8, dtype=torch.float64)
                for y in range(max(0, i - 1), min(8, i + 2)):
                    for x in range(max(0, j - 1), min(8, j + 2)):
                        alone[0, :, y, x] = probe.activations[n, :, i, j] * weight[abs(y - i)] * weight[abs(x - j)]
                logits = net.head(alone)[0]
                expected = {"score": logits, "softmax": logits.softmax(0), "sigmoid": logits.sigmoid()}[score][c]
                assert float(found[n, i, j]) == pytest.approx(float(expected), abs=1e-10)


def test_on_gap_and_linear_recipro_cam_of_the_logit_is_cam(tiny_gap):
    """One position's features pooled are its own share of the pooled sum, so the logit is CAM's value over the cells, plus the bias."""
    probe = Probe(tiny_gap, torch.rand(3, 3, 16, 16))
    alone = methods.recipro_cam(probe, gaussian=False, score="score")
    bias = tiny_gap.module.fc.bias[probe.targets][:, None, None]
    assert torch.allclose((alone - bias) * 64, methods.cam(probe), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"score": "logit"}, "score=logit is not a valid choice"), ({"batch_size": 0}, "batch_size=0 must be a whole number, 1 or more")],
)
def test_recipro_cam_names_what_it_cannot_take(tiny_gap, options, says):
    with pytest.raises(UserError, match=says):
        methods.recipro_cam(Probe(tiny_gap, torch.rand(1, 3, 16, 16)), **options)


def test_recipro_cam_of_raw_outputs_is_of_the_score_itself():
    net = SplitModel(TinyGAP().eval(), "features", mean=HALF, std=HALF, readout=Readout(output="raw"))
    probe = Probe(net, torch.rand(2, 3, 16, 16))
    assert torch.equal(methods.recipro_cam(probe), methods.recipro_cam(probe, score="score"))
    with pytest.raises(UserError, match=r"recipro_cam: model.output=raw has no sigmoid: set method.recipro_cam.score=score"):
        methods.recipro_cam(probe, score="sigmoid")
