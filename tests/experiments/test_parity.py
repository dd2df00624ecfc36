"""The parity table: its arithmetic, and every comparison that no note excuses on small networks."""

import numpy as np
import parity
import pytest
import reference
import torch
from builders import HALF, REAL, needs_real
from torch import nn

from evalkit import SplitModel

pytestmark = pytest.mark.filterwarnings("ignore")


class SmallFC(nn.Module):
    """Two fully connected layers, for images large enough for the window of the occlusion."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 16), nn.ReLU(inplace=True), nn.Linear(16, 5))

    def forward(self, x):
        return self.classifier(self.features(x))


class SmallGAP(nn.Module):
    """Global average pooling and one linear layer."""

    def __init__(self):
        super().__init__()
        self.features, self.fc = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(inplace=True)), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


@pytest.mark.parametrize("factory", [SmallGAP, SmallFC])
def test_whatever_no_note_excuses_agrees(factory):
    module = factory().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(3)  # maps far from rounding
        list(module.parameters())[-1].add_(5)
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    rows = parity.measure("small", net, torch.rand(7, 3, 40, 40), slow_images=2)
    skipped = {"cam"} if factory is SmallFC else set()
    assert {row["method"] for row in rows} == {comparison.method for comparison in parity.COMPARISONS} - skipped
    for row in rows:
        assert row["images"] in (2, 7)
        if row["deviating"] < row["images"] - row["constant"]:
            assert row["largest_difference"] < 1e-3, parity.line(row)
            assert row["lowest_correlation"] > 0.9999, parity.line(row)
        if row["deviating"]:
            assert row["note"]


def test_differences_and_correlations():
    ramp = torch.linspace(0, 1, 16).view(1, 4, 4)
    flat = torch.zeros(1, 4, 4)
    ours, theirs = torch.cat([ramp, ramp, flat, flat]), torch.cat([3 * ramp + 2, -ramp, flat, ramp])
    difference, correlation = reference.compare(ours, theirs, (4, 4))
    assert difference.tolist() == pytest.approx([0, 1, 0, 1], abs=1e-6)
    assert np.allclose(correlation.numpy(), [1, -1, np.nan, 0], equal_nan=True)


def test_summary_tells_excused_images_apart():
    found = parity._summary(np.array([0.1, 0.9, 0.2, 0.0]), np.array([0.99, 0.3, 0.98, np.nan]), np.array([False, True, False, False]))
    assert found == {
        "images": 4, "constant": 1, "deviating": 1,
        "largest_difference": 0.2, "lowest_correlation": 0.98, "largest_difference_deviating": 0.9, "lowest_correlation_deviating": 0.3,
    }  # fmt: skip


@needs_real
@pytest.mark.parametrize("name", ["squeezevgg10", "mobilenet_v2"])
def test_real_weights_against_pytorch_grad_cam(name):
    """The same maps after min-max, for Grad-CAM++ once that library's epsilon is added."""
    chosen = ("grad_cam", "grad_cam_pp, + 1e-6", "ablation_cam")
    comparisons = [c for c in parity.COMPARISONS if c.method in chosen and c.reference.startswith("pytorch-grad-cam")]
    rows = parity.measure(name, *reference.real(name, REAL, 3), slow_images=0, comparisons=comparisons)
    assert [row["method"] for row in rows] == list(chosen)
    for row in rows:
        assert row["lowest_correlation"] > 0.9999
        assert row["largest_difference"] < 1e-3
