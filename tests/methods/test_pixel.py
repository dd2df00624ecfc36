"""Pixel-space maps against rules written here, against another library, and against brute force."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from builders import HALF, TinyFC, TinyGAP, Untraceable
from pytorch_grad_cam import GuidedBackpropReLUModel
from torch import nn
from torchvision.models import densenet121, mobilenet_v2, resnet18

from evalkit import Probe, SplitModel, methods, protocol
from evalkit.errors import UserError
from evalkit.models.rectifiers import rectified


class Guided(torch.autograd.Function):
    """The rule of the paper: forward a ReLU, backward only where input and gradient are positive."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.where((x > 0) & (grad > 0), grad, torch.zeros_like(grad))


def rule(x, inplace=False):
    return Guided.apply(x)


def guided_reference(module, monkeypatch, normalised, targets):
    """max |guided gradient| over colours, by patching torch's own rectifiers under the network as it is."""
    x = normalised.clone().requires_grad_()
    with monkeypatch.context() as patch:
        for place, name in ((F, "relu"), (torch, "relu"), (torch.Tensor, "relu"), (torch.Tensor, "relu_")):
            patch.setattr(place, name, rule)
        patch.setattr(F, "relu6", lambda x: rule(x).clamp(max=6))
        patch.setattr(nn.ReLU6, "forward", lambda self, x: rule(x).clamp(max=6))
        y = module(x.clone()).gather(1, targets[:, None]).sum()
        (grad,) = torch.autograd.grad(y, x)
    return grad.abs().amax(1)


class Functional(nn.Module):
    """Rectifiers as functions and methods, one module called twice, and one of whose inputs others read too."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1) for i in range(6))
        self.relu = nn.ReLU(inplace=True)
        self.features = nn.ReLU6()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        a, b, c, d, e, f = self.convs
        x = self.relu(b(self.relu(a(x))))
        x = c(torch.relu(x))
        x = x + d(F.relu(x))  # pre-activation: the sum reads what the ReLU reads
        x = F.relu(e(x) * 3, inplace=True)
        x = f(F.relu6(x * 5)).relu() + f(x).relu_()
        return self.fc(self.features(x).mean((2, 3)))


class ReadsWhatIsLeft(nn.Module):
    """An in-place ReLU whose overwritten input is read afterwards, its own result never."""

    def __init__(self, in_place):
        super().__init__()
        self.features, self.second, self.fc, self.in_place = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 5), in_place

    def forward(self, x):
        x = self.features(x)
        if self.in_place:
            F.relu(x, inplace=True)
        else:
            x = F.relu(x)
        return self.fc((x + self.second(x)).mean((2, 3)))


def randomised(module, dtype=torch.float64):
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return module.to(dtype).eval()


def probe_of(module, layer="features", batch=2, size=16, dtype=torch.float64):
    net = SplitModel(module, layer, mean=HALF, std=HALF)
    return Probe(net, torch.rand(batch, 3, size, size, dtype=dtype), targets=torch.randint(0, 5, (batch,)))


def normal(probe):
    return (probe.images - 0.5) / 0.5


NETWORKS = {
    "in_place": (TinyFC, "features", 16),
    "functional_reused_shared": (Functional, "features", 16),
    "resnet18": (partial(resnet18, num_classes=5), "layer4", 32),
    "densenet121": (partial(densenet121, num_classes=5), "features", 32),
    "mobilenet_v2": (partial(mobilenet_v2, num_classes=5), "features", 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_guided_backprop_is_the_rule_of_the_paper(name, monkeypatch):
    factory, layer, size = NETWORKS[name]
    module = randomised(factory())
    probe = probe_of(module, layer, batch=3, size=size)
    expected = guided_reference(module, monkeypatch, normal(probe), probe.targets)
    found = methods.guided_backprop(probe)
    assert found.shape == (3, size, size)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12 * float(expected.max()))
    assert expected.max() > 0
    assert (found - methods.gradient(probe)).abs().max() > 1e-3 * expected.max()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rewritten_network_is_the_network(name):
    factory, layer, size = NETWORKS[name]
    module = randomised(factory())
    probe = probe_of(module, layer, batch=5, size=size)
    copy_ = rectified(probe.net, normal(probe)[:1])
    assert torch.equal(copy_(normal(probe)), module(normal(probe)))
    assert rectified(probe.net, normal(probe)[:1]) is copy_
    with torch.no_grad():
        next(module.parameters()).mul_(2)
    assert torch.equal(copy_(normal(probe)), module(normal(probe)))


def test_guided_backprop_is_pytorch_grad_cams_where_that_library_works():
    """It replaces modules, so: a network whose ReLUs are modules."""
    module = randomised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 5)))
    probe = probe_of(module, "1", batch=1)
    theirs = GuidedBackpropReLUModel(copy.deepcopy(module))(normal(probe), int(probe.targets))
    assert torch.allclose(methods.guided_backprop(probe)[0], torch.from_numpy(theirs).abs().amax(2), rtol=1e-10)


def test_what_an_in_place_relu_leaves_behind_is_what_is_read():
    plain, in_place = ReadsWhatIsLeft(False).double().eval(), ReadsWhatIsLeft(True).double().eval()
    in_place.load_state_dict(plain.state_dict())
    probe, same = (probe_of(module) for module in (plain, in_place))
    same = Probe(same.net, probe.images, probe.targets)
    assert torch.allclose(methods.guided_backprop(probe), methods.guided_backprop(same), rtol=1e-12)
    assert torch.allclose(methods.gradient(probe), methods.gradient(same), rtol=1e-12)


@pytest.mark.parametrize("factory", [TinyGAP, TinyFC, Functional])
def test_gradient_by_autograd(factory):
    module = randomised(factory())
    probe = probe_of(module, batch=3)
    x = normal(probe).requires_grad_()
    (grad,) = torch.autograd.grad(module(x).gather(1, probe.targets[:, None]).sum(), x)
    assert torch.allclose(methods.gradient(probe), grad.abs().amax(1), rtol=1e-10)


@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_integrated_gradients_by_a_riemann_loop_and_complete(baseline):
    module = randomised(TinyFC())
    probe = probe_of(module, batch=2)
    start = torch.full_like(probe.images, -1.0 if baseline == "black" else 0.0)
    found = methods.integrated_gradients(probe, steps=300, baseline=baseline, batch_size=7)
    total = torch.zeros_like(start)
    for step in range(1000):
        x = (start + (step + 0.5) / 1000 * (normal(probe) - start)).requires_grad_()
        total += torch.autograd.grad(module(x).gather(1, probe.targets[:, None]).sum(), x)[0] / 1000
    expected = (total * (normal(probe) - start)).sum(1)
    scale = float(expected.abs().max())
    assert torch.allclose(found, expected, rtol=0, atol=0.02 * scale)
    gap = (module(normal(probe)) - module(start)).detach().gather(1, probe.targets[:, None])[:, 0]
    assert torch.allclose(found.sum((1, 2)), gap, atol=5e-3 * float(found.abs().sum((1, 2)).max()))


def test_integrated_gradients_of_a_polynomial_are_exact():
    """Gauss-Legendre with n points integrates polynomials exactly; captum keeps its step sizes in float32."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            return self.fc((self.features(x) ** 2).mean((2, 3)))

    probe = probe_of(Square().double().eval(), batch=3)
    gap = (probe.net(probe.images) - probe.net(torch.zeros_like(probe.images))).gather(1, probe.targets[:, None])[:, 0]
    assert torch.allclose(methods.integrated_gradients(probe, steps=3).sum((1, 2)), gap, rtol=1e-6)


@pytest.mark.parametrize(("fill", "value"), [("black", 0.0), ("mean", 0.5)])
@pytest.mark.parametrize(("window", "stride", "side"), [(4, 4, 16), (6, 4, 16), (5, 3, 13)])
def test_occlusion_by_brute_force(fill, value, window, stride, side):
    module = randomised(TinyGAP())
    probe = probe_of(module, batch=2, size=side)
    total, count = torch.zeros(2, side, side, dtype=torch.float64), torch.zeros(side, side)
    steps = -(-(side - window) // stride) + 1  # the last window may hang over the edge
    for top in range(0, steps * stride, stride):
        for left in range(0, steps * stride, stride):
            images = probe.images.clone()
            images[:, :, top : top + window, left : left + window] = value
            drop = probe.scores - probe.net(images).gather(1, probe.targets[:, None])[:, 0]
            total[:, top : top + window, left : left + window] += drop[:, None, None]
            count[top : top + window, left : left + window] += 1
    found = methods.occlusion(probe, window=window, stride=stride, fill=fill, batch_size=5)
    assert torch.allclose(found, total / count, atol=1e-6)


@pytest.mark.parametrize("name", ["grad_cam", "ablation_cam"])
def test_guided_maps_are_products(name):
    probe = probe_of(randomised(TinyGAP()), batch=3)
    product = protocol.upsample(getattr(methods, name)(probe), (16, 16)) * methods.guided_backprop(probe)
    assert torch.equal(getattr(methods, f"guided_{name}")(probe), product)
    assert torch.equal(methods.guided(probe, f"evalkit.methods.{name}"), product)


def test_any_method_can_be_guided_with_its_parameters():
    probe = probe_of(randomised(TinyGAP()), batch=1)
    product = protocol.upsample(methods.random(probe, seed=3), (16, 16)) * methods.guided_backprop(probe)
    assert torch.equal(methods.guided(probe, "evalkit.methods.random", seed=3), product)


NAMES = ["gradient", "guided_backprop", "guided_grad_cam", "guided_ablation_cam", "integrated_gradients", "occlusion"]
SMALL = {"integrated_gradients": {"steps": 8}, "occlusion": {"window": 8, "stride": 4}}


@pytest.mark.parametrize("name", NAMES)
def test_no_map_depends_on_its_batch(name):
    method = partial(getattr(methods, name), **SMALL.get(name, {}))
    whole = probe_of(randomised(Functional(), torch.float32), batch=5, dtype=torch.float32)
    maps = method(whole)
    assert maps.shape == (5, 16, 16)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    for i in range(5):
        alone = method(Probe(whole.net, whole.images[i : i + 1], whole.targets[i : i + 1]))
        rounding = 1e-5 * float(maps.abs().max()) + 1e-6 * float(whole.scores.abs().max())  # a drop is a difference of scores
        assert torch.allclose(alone[0], maps[i], rtol=1e-4, atol=rounding)


@pytest.mark.parametrize("name", NAMES)
def test_the_callers_network_is_untouched(name):
    module = Functional().train()
    module.fc.requires_grad_(False)
    module.fc.bias.grad = torch.ones(5)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    flags = [p.requires_grad for p in module.parameters()]
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    images = torch.rand(2, 3, 16, 16)
    kept = images.clone()
    probe = Probe(net, images)
    with torch.no_grad():  # the caller's mode does not matter
        getattr(methods, name)(probe, **SMALL.get(name, {}))
    assert probe.written(by_value=True) == []
    assert torch.equal(images, kept)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert [p.requires_grad for p in module.parameters()] == flags
    assert [p.grad for p in module.parameters() if p is not module.fc.bias] == [None] * (len(flags) - 1)
    assert torch.equal(module.fc.bias.grad, torch.ones(5))
    assert module.training
    assert module.relu.inplace
    shared = (*module.modules(), *net.module.modules(), *rectified(net, normal(probe)[:1]).modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in shared)


class NoReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.fc = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3))) + F.relu(self.fc.bias)  # which the image does not reach


def test_networks_that_cannot_be_guided():
    with pytest.raises(UserError, match="NoReLU has no ReLU or ReLU6"):
        methods.guided_backprop(probe_of(NoReLU().double().eval()))
    with pytest.raises(UserError, match=r"torch\.fx cannot trace it"):
        methods.guided_backprop(probe_of(Untraceable().double().eval()))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: methods.occlusion(p, window=17, stride=4), "stride <= window <= 16"),
        (lambda p: methods.occlusion(p, window=4, stride=5), "not stride=5, window=4"),
        (lambda p: methods.occlusion(p, window=4, stride=2, fill="grey"), "fill=grey is not a valid choice; known: black, blur, mean"),
        (lambda p: methods.integrated_gradients(p, steps=0), "steps=0 must be a whole number"),
        (lambda p: methods.guided(p, "evalkit.methods.grad_kam"), "did you mean 'grad_cam'"),
    ],
)
def test_parameters_that_do_not_fit(call, says, tiny_gap):
    with pytest.raises(UserError, match=says):
        call(Probe(tiny_gap, torch.rand(1, 3, 16, 16)))
