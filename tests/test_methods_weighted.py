"""Each weighted map against an implementation of its own or another library."""

import numpy as np
import pytest
import torch
from conftest import HALF, REAL, TinyFC, TinyGAP, needs_real
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from evalkit import Probe, SplitModel, methods, protocol
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


def with_epsilon(probe: Probe) -> torch.Tensor:
    """Grad-CAM++ with the 1e-6 that pytorch-grad-cam adds to alpha's denominator: as large as g^2 itself on small gradients."""
    g = probe.gradients
    alpha = g**2 / (2 * g**2 + g**3 * probe.activations.sum((2, 3), keepdim=True) + 1e-6)
    weights = (alpha * g.clamp(min=0)).sum((2, 3))
    return torch.einsum("nk,nkhw->nhw", weights, probe.activations).clamp(min=0)


@needs_real
@pytest.mark.parametrize("name", ["squeezevgg10", "mobilenet_v2"])
def test_real_weights_against_pytorch_grad_cam(name, monkeypatch):
    """The same maps after min-max, for Grad-CAM++ once that library's epsilon is added."""
    from pathlib import Path

    from PIL import Image
    from safetensors.torch import load_file
    from torchvision.models import mobilenet_v2

    monkeypatch.syspath_prepend(str(REAL / "weights"))
    if name == "squeezevgg10":
        import archs

        module: nn.Module = archs.squeezevgg10()
        weights, side, images = "squeezevgg10_imagenette", 224, sorted((REAL / "imagenette224" / "images").rglob("*.JPEG"))
    else:
        module = mobilenet_v2()
        weights, side, images = "mobilenet_v2_imagenet", 225, sorted((REAL / "imagenet_val_acuity" / "images").rglob("*.JPEG"))
    module.load_state_dict(load_file(REAL / "weights" / f"{weights}.safetensors"))
    module.eval()
    picked = images[:: len(images) // 3][:3]
    batch = torch.stack([_tensor(Image.open(Path(p)).convert("RGB").resize((side, side))) for p in picked])
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    probe = Probe(net, batch)
    targets = [ClassifierOutputTarget(int(t)) for t in probe.targets]
    peers = {"grad_cam": GradCAM, "grad_cam_pp": GradCAMPlusPlus, "ablation_cam": AblationCAM}
    for method, peer in peers.items():
        with peer(model=module, target_layers=[module.features]) as cam:
            theirs = cam(input_tensor=(batch - 0.5) / 0.5, targets=targets)
        low = with_epsilon(probe) if method == "grad_cam_pp" else getattr(methods, method)(probe)
        ours = protocol.soft_mask(protocol.upsample(protocol.soft_mask(low), (side, side)))
        for mine, other in zip(ours.numpy(), theirs, strict=True):
            peer_map = (other - other.min()) / (other.max() - other.min())
            assert np.corrcoef(mine.ravel(), peer_map.ravel())[0, 1] > 0.9999
            assert np.abs(mine - peer_map).max() < 1e-3


def _tensor(image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
