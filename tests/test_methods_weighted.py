"""Each weighted map against an implementation of its own or another library."""

import pytest
import torch
from conftest import HALF, REAL, TinyFC, TinyGAP, needs_real
from peer_maps import measure

from evalkit import Probe, SplitModel, methods
from evalkit.errors import UserError


def float64_reference(probe: Probe, name: str) -> torch.Tensor:
    """Written from the equations with autograd, one image and one channel at a time."""
    maps = []
    for i in range(len(probe.images)):
        a = probe.activations[i : i + 1].detach().requires_grad_()
        c = probe.targets[i]
        y = probe.net.head(a)[0, c]
        (g,) = torch.autograd.grad(y, a)
        total = torch.zeros_like(a[0, 0])
        for k in range(a.shape[1]):
            if name == "grad_cam":
                weight = g[0, k].mean()
            elif name == "ablation_cam":
                ablated = a.detach().clone()
                ablated[:, k] = 0
                weight = (y - probe.net.head(ablated)[0, c]) / y.abs()
            else:
                s = a[0, k].sum()
                alpha = torch.where(g[0, k] > 0, g[0, k] ** 2 / (2 * g[0, k] ** 2 + s * g[0, k] ** 3), 0)
                weight = (alpha * g[0, k].clamp(min=0)).sum()
            total += (weight * a[0, k]).detach()
        maps.append(total.clamp(min=0).detach())
    return torch.stack(maps)


@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_pp", "ablation_cam"])
@pytest.mark.parametrize("factory", [TinyFC, TinyGAP])
@pytest.mark.parametrize("batch", [1, 3])
def test_maps_equal_their_equations(name, factory, batch):
    net = SplitModel(factory().double().eval(), "features", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(batch, 3, 16, 16, dtype=torch.float64), targets=torch.randint(0, 5, (batch,)))
    assert torch.allclose(getattr(methods, name)(probe), float64_reference(probe, name), atol=1e-10)


def test_grad_cam_pp_closed_form_is_the_third_derivative_of_exp(tiny_fc):
    """On a piecewise linear head: alpha from autograd's own second and third derivative of exp(S)."""
    net = SplitModel(TinyFC().double().eval(), "features", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(1, 3, 16, 16, dtype=torch.float64))
    a = probe.activations.detach().requires_grad_()
    y = net.head(a)[0, probe.targets[0]].exp()
    (first,) = torch.autograd.grad(y, a, create_graph=True)
    k, i, j = (int(v) for v in (probe.gradients[0] == probe.gradients.max()).nonzero()[0])
    (second,) = torch.autograd.grad(first[0, k, i, j], a, create_graph=True)
    (third,) = torch.autograd.grad(second[0, k, i, j], a)
    d2, d3 = second[0, k, i, j], third[0, k, i, j]
    alpha = d2 / (2 * d2 + probe.activations[0, k].sum() * d3)
    g = probe.gradients[0, k, i, j]
    assert torch.allclose(alpha.detach(), 1 / (2 + g * probe.activations[0, k].sum()))


def test_cam_equals_grad_cam_before_its_relu_up_to_scale(tiny_gap):
    """Selvaraju et al., ICCV 2017, section 3.1."""
    probe = Probe(tiny_gap, torch.rand(3, 3, 16, 16))
    raw = torch.einsum("nk,nkhw->nhw", probe.gradients.mean((2, 3)), probe.activations)
    cells = probe.activations[0, 0].numel()
    assert torch.allclose(methods.cam(probe), raw * cells, rtol=1e-4, atol=1e-5)


def test_cam_is_refused_where_it_is_not_defined(tiny_fc):
    with pytest.raises(UserError, match="global average pooling"):
        methods.cam(Probe(tiny_fc, torch.rand(1, 3, 16, 16)))


@pytest.mark.parametrize("bias", [-10.0, 0.0])
def test_scores_that_are_not_positive(bias):
    module = TinyGAP().double().eval()
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    with torch.no_grad():
        module.fc.bias.fill_(bias)
        if bias == 0:
            module.fc.weight[2] = 0
    probe = Probe(net, torch.rand(2, 3, 16, 16, dtype=torch.float64), targets=torch.tensor([2, 2]))
    assert (probe.scores <= 0).all()
    raw = torch.einsum("nk,nkhw->nhw", probe.drops, probe.activations).clamp(min=0)
    scale = 1 if bias == 0 else probe.scores.abs()[:, None, None]
    assert torch.allclose(methods.ablation_cam(probe) * scale, raw)


@needs_real
@pytest.mark.parametrize("name", ["squeezevgg10", "mobilenet_v2"])
def test_real_weights_against_pytorch_grad_cam(name):
    """The same maps after min-max, for Grad-CAM++ once that library's epsilon is added."""
    rows = {row["method"]: row for row in measure(name, REAL, 3)}
    for method in ("grad_cam", "grad_cam_pp + 1e-6", "ablation_cam"):
        assert rows[method]["lowest_correlation"] > 0.9999
        assert rows[method]["largest_difference"] < 1e-3
