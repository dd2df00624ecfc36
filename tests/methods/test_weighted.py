"""Each weighted map against an implementation of its own or another library."""

import numpy as np
import pytest
import torch
from builders import HALF, TinyFC, TinyGAP

from evalkit import Probe, SplitModel, methods
from evalkit.errors import UserError
from evalkit.models.readout import Readout
from evalkit.scores import confidence_and_logit


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


@pytest.mark.parametrize("factory", [TinyFC, TinyGAP])
@pytest.mark.parametrize(("normalise", "drop"), [("norm", "score"), ("score", "softmax"), ("norm", "softmax"), ("score", "sigmoid")])
def test_ablation_variants_equal_their_equations(factory, normalise, drop):
    """Desai and Ramaswamy 2020, eq. 2 and section 4 and 5."""
    net = SplitModel(factory().double().eval(), "features", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(2, 3, 16, 16, dtype=torch.float64), targets=[1, 4])
    read = {"score": lambda z: z, "softmax": lambda z: z.softmax(0), "sigmoid": lambda z: z.sigmoid()}[drop]
    found = methods.ablation_cam(probe, normalise=normalise, drop=drop)
    for i, c in enumerate((1, 4)):
        a = probe.activations[i]
        y = read(net.head(a[None])[0])[c]
        total = torch.zeros_like(a[0])
        for k in range(len(a)):
            ablated = a.clone()
            ablated[k] = 0
            size = y.abs() if normalise == "score" else (a[k] ** 2).sum().sqrt().clamp(min=1e-300)
            total += (y - read(net.head(ablated[None])[0])[c]) / size * a[k]
        assert torch.allclose(found[i], total.clamp(min=0), atol=1e-10)


@pytest.mark.parametrize("factory", [TinyFC, TinyGAP])
@pytest.mark.parametrize("gradient", ["softmax", "sigmoid"])
def test_grad_cam_of_the_normalised_output_is_autograd_through_the_whole_network(factory, gradient):
    """Selvaraju et al. 2017, eq. 1, with a hook on the target layer; Ablation-CAM paper, section 5."""
    net = SplitModel(factory().double().eval(), "features", mean=HALF, std=HALF)
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    kept = []
    hook = net.module.features.register_forward_hook(lambda _module, _inputs, out: (kept.append(out), out.clone())[1])
    logits = net.module((images - 0.5) / 0.5)
    hook.remove()
    y = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid()}[gradient]
    (g,) = torch.autograd.grad(y[0, 1] + y[1, 4], kept[0])
    wanted = torch.einsum("nk,nkhw->nhw", g.mean((2, 3)), kept[0]).clamp(min=0).detach()
    probe = Probe(net, images, targets=[1, 4])
    torch.testing.assert_close(methods.grad_cam(probe, gradient=gradient), wanted, atol=1e-12, rtol=1e-9)
    with pytest.raises(UserError, match="gradient=sigmiod is not a valid choice; did you mean 'sigmoid'"):
        methods.grad_cam(probe, gradient="sigmiod")


@pytest.mark.parametrize(
    ("logit", "vanishes"), [(-40.0, ()), (8.0, ()), (16.0, ()), (17.0, (torch.float32,)), (40.0, (torch.float32, torch.float64))]
)
def test_a_saturated_sigmoid_scales_the_map_until_its_gradient_rounds_to_nothing(logit, vanishes):
    """y (1 - y) is one factor for all cells: the map keeps its shape, or is 0 everywhere. It never becomes another map."""
    module, images = TinyFC().eval(), torch.rand(1, 3, 16, 16)
    if not methods.grad_cam(Probe(SplitModel(module, "features", mean=HALF, std=HALF), images, [2])).any():
        module.classifier[-1].weight.data[2].neg_()  # for a map that is not empty
    for dtype in (torch.float32, torch.float64):
        net = SplitModel(module.to(dtype), "features", mean=HALF, std=HALF)
        with torch.no_grad():
            module.classifier[-1].bias[2] += logit - Probe(net, images.to(dtype), [2]).scores[0]
        probe = Probe(net, images.to(dtype), targets=[2])
        factor = 0 if dtype in vanishes else float(torch.tensor(-logit, dtype=torch.float64).sigmoid() * torch.tensor(logit).sigmoid())
        found, plain = methods.grad_cam(probe, gradient="sigmoid"), methods.grad_cam(probe)
        assert float(found.amax() / plain.amax()) == pytest.approx(factor, rel=0.3)  # of 1 - y float32 keeps few bits
        if factor:
            torch.testing.assert_close(found / found.amax(), plain / plain.amax(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("drop", ["softmax", "sigmoid"])
def test_a_saturated_confidence_still_ranks(drop):
    """Where a logit leads by 200 the confidence is 1 in any float; its drops are not all 0, but those of the odds."""
    module = TinyFC().double().eval()
    with torch.no_grad():
        module.classifier[-1].bias.copy_(torch.tensor([200.0, 0, 0, 0, 0]))
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(2, 3, 16, 16, dtype=torch.float64), targets=[0, 0])
    y, drops = probe.score_and_drops(drop)
    assert (y == 1).all() and (drops != 0).any()

    def doubt(activations: torch.Tensor) -> torch.Tensor:
        """1 - confidence, from the odds against."""
        z = net.head(activations[None])[0].detach()
        return (-z[0] + (0 if drop == "sigmoid" else z[1:].logsumexp(0))).exp()

    for i, a in enumerate(probe.activations):
        for k in range(len(a)):
            ablated = a.clone()
            ablated[k] = 0
            assert float(drops[i, k]) == pytest.approx(float(doubt(ablated) - doubt(a)), rel=1e-6, abs=1e-9 * float(doubt(a)))
    found = methods.ablation_cam(probe, drop=drop)
    total = torch.einsum("nk,nkhw->nhw", drops, probe.activations.double()).clamp(min=0)
    assert torch.allclose(found / found.amax().clamp(min=1e-300), total / total.amax().clamp(min=1e-300)) and found.dtype == torch.float64


@pytest.mark.parametrize("word", ["softmax", "sigmoid"])
def test_the_confidence_of_one_logit_is_its_sigmoid(word):
    """Its two scores are -z and z, whose softmax would be the sigmoid of 2 z."""
    net = SplitModel(TinyFC(1).double().eval(), "features", mean=HALF, std=HALF, readout=Readout(output="binary"))
    probe = Probe(net, torch.rand(3, 3, 16, 16, dtype=torch.float64), targets=[0, 1, 1])
    y, drops = probe.score_and_drops(word)
    expected, wanted = confidence_and_logit(probe.logits, probe.targets, "binary")[0], torch.zeros_like(drops)
    for k in range(drops.shape[1]):
        ablated = probe.activations.clone()
        ablated[:, k] = 0
        after = confidence_and_logit(net.head(ablated).detach(), probe.targets, "binary")[0]
        assert expected is not None and after is not None
        wanted[:, k] = expected - after
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(drops, wanted, rtol=0, atol=1e-10)
    slope = (expected * (1 - expected))[:, None, None, None]
    torch.testing.assert_close(probe.scored_gradients(word), slope * probe.gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("word", ["softmax", "sigmoid"])
def test_a_quantity_has_no_confidence_to_drop(word):
    net = SplitModel(TinyFC(1).eval(), "features", mean=HALF, std=HALF, readout=Readout(output="raw"))
    probe = Probe(net, torch.rand(1, 3, 16, 16))
    for explain in (lambda: methods.ablation_cam(probe, drop=word), lambda: methods.grad_cam(probe, gradient=word)):
        with pytest.raises(UserError, match=f"model.output=raw has no {word}"):
            explain()


def test_ablation_variants_have_names(tiny_fc):
    with pytest.raises(UserError, match="drop=softmx is not a valid choice; did you mean 'softmax'"):
        methods.ablation_cam(Probe(tiny_fc, torch.rand(1, 3, 16, 16)), drop="softmx")


@pytest.mark.parametrize("batch", [1, 3])
def test_xgrad_cam_equals_its_equation(tiny_fc, batch):
    probe = Probe(tiny_fc, torch.rand(batch, 3, 16, 16))
    a, g = probe.activations.double(), probe.gradients.double()
    maps = torch.zeros_like(a[:, 0])
    for n in range(batch):
        for k in range(a.shape[1]):
            if a[n, k].sum() != 0:
                maps[n] += sum(g[n, k, i, j] * a[n, k, i, j] for i in range(8) for j in range(8)) / a[n, k].sum() * a[n, k]
    assert torch.allclose(methods.xgrad_cam(probe).double(), maps.clamp(min=0), atol=1e-5)


def test_eigen_cam_is_the_first_singular_vector_in_numpy(tiny_gap):
    probe = Probe(tiny_gap, torch.rand(3, 3, 16, 16))
    for found, a in zip(methods.eigen_cam(probe), probe.activations.double().numpy(), strict=True):
        u, s, _ = np.linalg.svd(a.reshape(len(a), -1).T)
        projected = (u[:, 0] * s[0]).reshape(found.shape)
        assert np.allclose(found, projected if projected.sum() > 0 else -projected, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_score_cam_equals_a_loop_over_channels(batch_size):
    module = TinyFC().eval()
    module.features[0].bias.data[:2] = -100  # two dead channels
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(2, 3, 16, 16), targets=[3, 0])
    found = methods.score_cam(probe, batch_size=batch_size)
    for i, c in enumerate((3, 0)):
        x = (probe.images[i : i + 1] - 0.5) / 0.5
        scores = []
        for channel in probe.activations[i]:
            mask = torch.nn.functional.interpolate(channel[None, None], size=(16, 16), mode="bilinear")
            mask = (mask - mask.min()) / (mask.max() - mask.min()) if mask.max() > mask.min() else torch.zeros_like(mask)
            scores.append(module(x * mask)[0, c].detach())
        expected = torch.einsum("k,khw->hw", torch.stack(scores).softmax(0), probe.activations[i]).clamp(min=0)
        assert torch.allclose(found[i], expected, atol=1e-5)


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_ablated_input_cam_equals_its_formula(tiny_fc, fill):
    probe = Probe(tiny_fc, torch.rand(2, 3, 16, 16))
    blank = torch.full((1, 3, 16, 16), -1.0 if fill == "black" else 0.0)
    nothing = tiny_fc.module.features(blank)[0].detach()
    for found, a in zip(methods.ablated_input_cam(probe, fill=fill), probe.activations, strict=True):
        shares = [max(0.0, 1 - float(nothing[k].mean() / a[k].mean())) if a[k].mean() > 0 else 0.0 for k in range(len(a))]
        expected = sum(share * channel for share, channel in zip(shares, a, strict=True))
        assert torch.allclose(found, expected.clamp(min=0), atol=1e-5)


def test_eigen_cam_of_activations_that_are_not_finite_is_nan_there_alone(tiny_fc, monkeypatch):
    images = torch.rand(3, 3, 16, 16)
    alone = methods.eigen_cam(Probe(tiny_fc, images[[0, 2]]))
    trunk = tiny_fc.trunk

    def broken(images):
        activations, context = trunk(images)
        activations[1, 0, 0, 0] = torch.nan
        return activations, context

    monkeypatch.setattr(tiny_fc, "trunk", broken)
    found = methods.eigen_cam(Probe(tiny_fc, images))
    assert found[1].isnan().all() and torch.allclose(found[[0, 2]], alone, atol=1e-5)


def test_a_confidence_too_small_to_divide_by(tiny_fc):
    probe = Probe(tiny_fc, torch.rand(2, 3, 16, 16))
    probe.__dict__["logits"] = probe.logits + torch.tensor([0.0, 0, 0, 0, -720])
    probe._targets = [4, 4]
    assert methods.ablation_cam(probe, drop="softmax").isfinite().all()


def test_score_cam_where_only_the_trunk_is_in_half_precision():
    class Mixed(TinyGAP):
        def __init__(self):
            super().__init__()
            self.features.half()

        def forward(self, x):
            return self.fc(self.features(x).float().mean((2, 3)))

    probe = Probe(SplitModel(Mixed().eval(), "features", mean=HALF, std=HALF), torch.rand(2, 3, 16, 16))
    assert probe.activations.dtype == torch.float16 and methods.score_cam(probe).isfinite().all()
