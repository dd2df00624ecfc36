"""Bisen and Bakshi, "Evaluating explainable CNN techniques": figure 3 with eq. 12 to 19, and the proof of eq. 3 to 11."""

from collections.abc import Callable

import pytest
import torch
from builders import HALF, TinyGAP
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods

ACTIVE = (15, 4, 2)
"""Active cells of the three feature maps of 80 cells."""


class Detector(nn.Module):
    """Three feature maps, the colours; the score is the sum of their positive values, whose gradient is 1 where a cell is active."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
        self.features[0].weight.data = torch.eye(3)[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x).relu().sum((1, 2, 3))
        return torch.stack((y, -y), 1)


@pytest.fixture
def figure() -> Probe:
    """The figure's maps, in 8 x 10 cells of which no two are active in the same place."""
    image, places = torch.zeros(3, 80, dtype=torch.float64), torch.randperm(80)
    for k, cells in enumerate(places[: sum(ACTIVE)].split(ACTIVE)):
        image[k, cells] = 1
    net = SplitModel(Detector().double().eval(), "features", mean=(0.0,) * 3, std=(1.0,) * 3, grid="maps")
    return Probe(net, image.view(1, 3, 8, 10), targets=[0])


def weights_of(probe: Probe, method: Callable[[Probe], Tensor]) -> list[float]:
    """Read the weight of each map where it alone is active with value 1."""
    found = method(probe)[0]
    by_channel = [found[channel == 1] for channel in probe.activations[0]]
    assert all((values == values[0]).all() for values in by_channel) and not found[probe.activations[0].sum(0) == 0].any()
    return [float(values[0]) for values in by_channel]


def weighted_gradients(probe: Probe, alpha: Tensor) -> list[float]:
    """Eq. 13: w_k = sum_ij alpha_ij ReLU(dY/dA_ij)."""
    return (alpha * probe.gradients.relu()).sum((2, 3))[0].tolist()


def test_the_gradients_are_those_of_equation_12(figure):
    assert torch.equal(figure.gradients, figure.activations) and figure.gradients.sum((2, 3))[0].tolist() == list(ACTIVE)


def test_grad_cam_fades_small_footprints(figure):
    assert weights_of(figure, methods.grad_cam) == pytest.approx([15 / 80, 4 / 80, 2 / 80])


def test_equation_14_gives_equal_importance(figure):
    g = figure.gradients
    assert weighted_gradients(figure, torch.where(g == 1, 1 / g.sum((2, 3), keepdim=True), 0)) == pytest.approx([1, 1, 1])


def test_equation_19_brings_the_weights_nearer_but_not_together(figure):
    """With Y = exp(S): alpha = g^2 / (2 g^2 + g^3 sum A) = 1 / (2 + n) on the n active cells, whose sum is n / (2 + n)."""
    found = weights_of(figure, methods.grad_cam_pp)
    assert found == pytest.approx([15 / 17, 4 / 6, 2 / 4])
    assert [round(weight, 2) for weight in found] == [0.88, 0.67, 0.5]
    first, largest = found[-1] / found[0], weights_of(figure, methods.grad_cam)
    assert first > 4 * largest[-1] / largest[0]


def test_equal_alpha_is_grad_cam(figure):
    """The sentence after eq. 19: alpha = 1 / Z."""
    alpha = torch.full_like(figure.gradients, 1 / 80)
    assert weighted_gradients(figure, alpha) == pytest.approx(weights_of(figure, methods.grad_cam))


def test_equation_15_holds_for_the_weights_of_equation_14_only(figure):
    """It says that the maps' sums times w_k add up to Y. Eq. 19 follows from it with Y = exp(S), and then they must add up to 1."""
    by_14 = sum(1 * n for n in ACTIVE)
    assert by_14 == pytest.approx(float(figure.scores[0]))
    by_19 = sum(w * n for w, n in zip(weights_of(figure, methods.grad_cam_pp), ACTIVE, strict=True))
    assert by_19 == pytest.approx(15 * 15 / 17 + 4 * 4 / 6 + 2 * 2 / 4)
    assert abs(by_19 - 1) > 10 and abs(by_19 - by_14) > 4


def test_other_methods_on_the_same_maps(figure):
    """Ablating a map costs its n of 21; LayerCAM, HiResCAM and XGrad-CAM weigh all active cells alike."""
    assert weights_of(figure, methods.ablation_cam) == pytest.approx([15 / 21, 4 / 21, 2 / 21])
    for method in (methods.layer_cam, methods.hires_cam, methods.xgrad_cam):
        assert weights_of(figure, method) == pytest.approx([1, 1, 1])


def test_grad_cam_generalises_cam():
    """Eq. 3 to 11 on a random network: dY/dF_k = w_k = Z dY/dA_kij = sum_ij dY/dA_kij, Z times Grad-CAM's weight."""
    module = TinyGAP().double().eval()
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(2, 3, 16, 16, dtype=torch.float64), targets=torch.randint(0, 5, (2,)))
    wanted, cells = module.fc.weight.detach()[probe.targets], probe.activations[0, 0].numel()
    pooled = probe.activations.mean((2, 3)).requires_grad_()
    scores = module.fc(pooled).gather(1, probe.targets[:, None])
    torch.testing.assert_close(scores[:, 0].detach(), probe.scores)  # eq. 3 to 5
    torch.testing.assert_close(torch.autograd.grad(scores.sum(), pooled)[0], wanted)  # eq. 6 and 7
    torch.testing.assert_close(cells * probe.gradients, wanted[:, :, None, None].expand_as(probe.gradients))  # eq. 8
    torch.testing.assert_close(probe.gradients.sum((2, 3)), wanted)  # eq. 9 to 11
    torch.testing.assert_close(probe.class_weights, wanted)


def test_the_class_score_is_the_sum_of_the_class_activation_map():
    """Eq. 1 and 2, with the mean in place of the sum over positions (eq. 3), and with the bias that the text leaves out."""
    module = TinyGAP().double().eval()
    probe = Probe(SplitModel(module, "features", mean=HALF, std=HALF), torch.rand(3, 3, 16, 16, dtype=torch.float64))
    torch.testing.assert_close(methods.cam(probe).mean((1, 2)) + module.fc.bias.detach()[probe.targets], probe.scores)
