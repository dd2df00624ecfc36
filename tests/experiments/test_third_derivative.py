"""The experiment's derivatives against derivatives written out by hand, and what the closed form leaves out."""

import pytest
import torch
from builders import HALF, TinyFC
from third_derivative import alpha_of_autograd, compare, derivatives
from torch import nn

from evalkit import Probe, SplitModel


def test_derivatives_of_a_polynomial_score():
    """S = sum(p A + q A^2 + r A^3): S' = p + 2qA + 3rA^2, S'' = 2q + 6rA, S''' = 6r; far too large for exp(S) itself."""
    a, p, q, r = torch.randn(4, 3, 4, 5, dtype=torch.float64)
    elements = torch.randperm(60)[:7]
    found = derivatives(lambda v: 1e4 + (p * v + q * v**2 + r * v**3).sum((1, 2, 3)), a, elements)
    s1, s2, s3 = (t.flatten()[elements] for t in (p + 2 * q * a + 3 * r * a**2, 2 * q + 6 * r * a, 6 * r))
    for autograd, by_hand in zip(found, (s1, s1**2 + s2, s1**3 + 3 * s1 * s2 + s3), strict=True):
        assert torch.allclose(autograd, by_hand, rtol=1e-9, atol=1e-9)


def tiny(rectifier: nn.Module) -> SplitModel:
    module = TinyFC().eval()
    module.classifier[2] = rectifier
    nn.init.normal_(module.classifier[1].weight, 0, 0.2)
    nn.init.normal_(module.classifier[4].weight)
    return SplitModel(module.double(), "features", mean=HALF, std=HALF)


@pytest.mark.parametrize("count", [1, 3])
def test_the_closed_form_is_exact_behind_relu_only(count):
    images = torch.rand(count, 3, 16, 16, dtype=torch.float64)
    exact = compare(tiny(nn.ReLU()), images, None)
    assert exact["images"] == count and exact["elements"] > 64 * count
    assert exact["largest_relative_difference_alpha"] < 1e-10 and exact["largest_difference_map"] < 1e-10
    assert exact["negative_alpha_percent"] == 0
    for rectifier in (nn.SiLU(), nn.GELU(), nn.Softplus(), nn.Hardswish()):
        smooth = compare(tiny(rectifier), images, None)
        assert smooth["median_relative_difference_alpha"] > 1e-4 and smooth["largest_difference_map"] > 1e-5
    sample = compare(tiny(nn.SiLU()), images, 9)
    assert sample["elements"] == 9 * count and sample["largest_difference_map"] is None


def test_alpha_behind_a_smooth_head_by_finite_differences():
    net = tiny(nn.Softplus())
    probe = Probe(net, torch.rand(2, 3, 16, 16, dtype=torch.float64))
    elements = (probe.gradients[1].flatten() > 0).nonzero()[:, 0][::50]
    a, c, h = probe.activations[1], probe.targets[1], 1e-2
    for element, alpha in zip(elements, alpha_of_autograd(probe, 1, elements), strict=True):
        moved = a.repeat(5, 1, 1, 1)
        moved.view(5, -1)[:, element] += torch.arange(-2, 3) * h
        y = (net.head(moved)[:, c] - probe.scores[1]).exp().detach()
        second = (-y[0] + 16 * y[1] - 30 * y[2] + 16 * y[3] - y[4]) / (12 * h**2)
        third = (-y[0] + 2 * y[1] - 2 * y[3] + y[4]) / (2 * h**3)
        total = a[element // a[0].numel()].sum()
        assert 1 / alpha == pytest.approx(float((2 * second + total * third) / second), rel=0.02, abs=0.05)
