"""Exact drops against a loop over the whole network, and against captum."""

import gc
import logging
import weakref

import pytest
import torch
from builders import HALF, TinyFC, TinyGAP, Untraceable
from exactness import CASES, measure
from reference import Case, brute_force_drops
from theirs import MaskedClasses
from torch import Tensor, nn

from evalkit import Probe, SplitModel, ablation

TIERS = {
    ("vgg16", "features.29"): 2,
    ("alexnet", "features.11"): 2,
    ("inception_v3", "Mixed_7c"): 1,
    ("resnet50", "layer4"): 1,
    ("mobilenet_v2", "features"): 1,
    ("mobilenet_v3_small", "features"): 2,
    ("squeezenet1_0", "features"): 2,
    ("densenet169", "features"): 1,
    ("convnext_tiny", "features"): 3,
    ("resnet50", "layer4.2.conv3"): 1,  # the residual is constant while channels of the branch are ablated
    ("squeezenet1_0", "features.10"): 3,
    ("resnet18", "layer3"): 3,
}
# Inner layers repeat the head for every channel: in the tests on light networks, at full size by exactness.py.
SMALL = [case for case in CASES if case.layer not in ("features.22", "layer3")] + [
    Case("squeezenet1_0", "features.10"),
    Case("resnet18", "layer3", small=32),
]


@pytest.mark.usefixtures("quick_weights")
@pytest.mark.parametrize("case", SMALL, ids=lambda c: f"{c.model}-{c.layer}")
def test_drops_equal_those_of_the_whole_network(case):
    single = measure(case, torch.float32, case.small, count=6, batch=1)
    double = measure(case, torch.float64, case.small, count=3, batch=3)
    assert single["tier"] == double["tier"] == TIERS[case.model, case.layer]
    assert single["largest_drop"] > 0
    assert max(single["deviation_brute_force"], single["deviation_captum"]) <= 1e-4
    assert max(double["deviation_brute_force"], double["deviation_captum"]) <= 1e-10


class ConvHead(nn.Module):
    """A padded, strided 3x3 convolution as mixing layer, then what acts on each output channel alone."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Hardswish())
        self.head = nn.Sequential(
            nn.BatchNorm2d(7), nn.Conv2d(7, 5, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        nn.init.normal_(self.head[0].bias)
        nn.init.normal_(self.head[1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class PooledConvHead(TinyGAP):
    """Pooling to one cell, a 1x1 convolution, BatchNorm and hard-swish, then the linear layer (MobileNetV4's order)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.Hardswish())
        self.fc = nn.Linear(12, 5)
        nn.init.normal_(self.mix[1].weight, 0, 2)
        nn.init.normal_(self.mix[2].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mix(self.features(x)).flatten(1))


class FullConvHead(TinyGAP):
    """A fully convolutional classifier: the first kernel covers its whole input, two of 1x1 follow."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 12, 4, padding="valid"), nn.ReLU(), nn.Conv2d(12, 9, 1), nn.ReLU())
        self.last = nn.Conv2d(9, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mix(self.features(x))).flatten(1)


class PaddedConvHead(PooledConvHead):
    """The same, but the only output of the strided 1x1 convolution reads padding: no channel matters."""

    def __init__(self) -> None:
        super().__init__()
        self.mix[1] = nn.Conv2d(8, 12, 1, stride=3, padding=1)


class CornerConvHead(FullConvHead):
    """The convolution leaves one position too, but its kernel reads only a corner of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.mix[1] = nn.Conv2d(8, 12, 3, stride=2)


class BatchSizeHead(TinyFC):
    """Reads the batch size off the input, as much public code does."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        return self.classifier[4](torch.relu(self.classifier[1](self.features(x).view(n, -1))))


class SharedHead(TinyFC):
    """The first linear layer's output is used twice, so channels meet again behind it."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.classifier[1](torch.flatten(self.features(x), 1))
        return self.classifier[4](torch.relu(hidden) + 0.1 * hidden**2)


class BypassedHead(TinyGAP):
    """Something goes around the first mixing layer."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x)
        pooled = a.mean((2, 3))
        return self.fc(pooled) * (1 + a.amax((1, 2, 3))[:, None])


class ParameterHead(TinyFC):
    """Reads what it computes from parameters: a temperature, and a gate without a batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.3))
        self.gate = nn.Parameter(torch.rand(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x) * self.gate.sigmoid()) * self.temperature.exp()


class ShapeHead(TinyGAP):
    """Reads the size of its input behind the cut."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        return self.fc(nn.functional.interpolate(self.features(x), size=size).mean((2, 3)))


class EditedResidual(TinyGAP):
    """Changes, in place, what the head has already read."""

    def forward(self, x: Tensor) -> Tensor:
        residual = torch.relu(x[:, :1, ::2, ::2])
        a = self.features(x) + residual
        residual.mul_(0.5)
        return self.fc((a * (1 + residual)).mean((2, 3)))


class StatementInPlace(TinyFC):
    """An in-place operation whose result is not assigned."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x)
        a.mul_(0.5)
        return self.classifier(a)


@pytest.mark.parametrize(
    ("factory", "tier"),
    [
        (ConvHead, 2),
        (PooledConvHead, 2),
        (FullConvHead, 2),
        (PaddedConvHead, 3),
        (CornerConvHead, 3),
        (BatchSizeHead, 2),
        (SharedHead, 2),
        (BypassedHead, 3),
        (StatementInPlace, 3),
        (Untraceable, 3),
        (TinyFC, 2),
        (TinyGAP, 1),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_unusual_heads(factory, tier, batch):
    module = factory().double().eval()
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    images = torch.rand(batch, 3, 16, 16, dtype=torch.float64)
    probe = Probe(net, images, targets=torch.randint(0, 5, (batch,)))
    expected = brute_force_drops(module, "features", (images - 0.5) / 0.5, probe.targets, range(probe.activations.shape[1]))
    assert probe.tier.number == tier
    assert torch.allclose(probe.drops, expected, rtol=0, atol=1e-10)


def brute_force_regions(probe: Probe, regions: Tensor) -> Tensor:
    """One image, one region, one pass of the head at a time."""
    drops = torch.empty(len(probe.images), len(regions), dtype=probe.activations.dtype)
    for i, c in enumerate(probe.targets):
        for v, region in enumerate(regions):
            ablated = probe.activations[i : i + 1].clone()
            ablated[:, :, region] = 0
            context = tuple(t[i : i + 1] for t in probe.context)
            drops[i, v] = probe.scores[i] - probe.net.head(ablated, context)[0, c]
    return drops


@pytest.mark.parametrize(
    "factory",
    [ConvHead, PooledConvHead, FullConvHead, SharedHead, BypassedHead, StatementInPlace, Untraceable, TinyFC, TinyGAP, MaskedClasses],
)
@pytest.mark.parametrize(("batch", "budget"), [(1, 2**28), (3, 1)])
def test_all_classes_and_regions(factory, batch, budget):
    """Drops in every logit, and drops by ablated regions, against a loop over the head."""
    net = SplitModel(factory().double().eval(), "features", mean=HALF, std=HALF)
    images = torch.rand(batch, 3, 16, 16, dtype=torch.float64)
    probe = Probe(net, images, targets=torch.randint(0, 3, (batch,)), byte_budget=budget)
    regions = torch.rand(7, *probe.activations.shape[2:]) < 0.3
    assert torch.allclose(probe.region_drops(regions), brute_force_regions(probe, regions), rtol=0, atol=1e-10)
    softmax, drops = probe.score_and_drops("softmax")
    sigmoid, sigmoid_drops = probe.score_and_drops("sigmoid")
    for i, c in enumerate(probe.targets):
        for k in range(probe.activations.shape[1]):
            ablated = probe.activations[i : i + 1].clone()
            ablated[:, k] = 0
            logits = net.head(ablated, tuple(t[i : i + 1] for t in probe.context))[0].detach()
            assert float(softmax[i] - logits.softmax(0)[c]) == pytest.approx(float(drops[i, k]), abs=1e-10)
            assert float(sigmoid[i] - logits[c].sigmoid()) == pytest.approx(float(sigmoid_drops[i, k]), abs=1e-10)


@pytest.mark.parametrize("factory", [ConvHead, PooledConvHead, FullConvHead, SharedHead, BypassedHead, TinyFC, TinyGAP])
@pytest.mark.parametrize("budget", [1, 2**28])
def test_channels_last_changes_nothing(factory, budget):
    module = factory().double().eval()
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    plain = Probe(SplitModel(module, "features", mean=HALF, std=HALF), images, byte_budget=budget).drops
    turned = Probe(SplitModel(module.to(memory_format=torch.channels_last), "features", mean=HALF, std=HALF), images, byte_budget=budget)
    assert torch.allclose(turned.drops, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mixing", [(nn.Flatten(), nn.Linear(8 * 36, 32)), (nn.Conv2d(8, 32, 6), nn.Flatten())])
def test_weights_may_change_between_two_probes(mixing):
    """Also behind autograd's back, and with units dead in every variant."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), *mixing, nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    first = next(layer for layer in mixing if not isinstance(layer, nn.Flatten))
    first.bias.data[:20] = -100
    module = module.double().eval()
    net = SplitModel(module, "0", mean=HALF, std=HALF)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    for _ in range(2):
        probe = Probe(net, images)
        expected = brute_force_drops(module, "0", (images - 0.5) / 0.5, probe.targets, range(8))
        assert probe.tier.number == 2 and torch.allclose(probe.drops, expected, rtol=0, atol=1e-10)
        for layer in (first, module[4]):
            layer.weight.data.copy_(torch.randn_like(layer.weight))


def test_an_image_of_nan_does_not_confirm_a_shortcut(monkeypatch, caplog):
    honest = ablation.MixOnce.drops
    monkeypatch.setattr(ablation.MixOnce, "drops", lambda self, *args: honest(self, *args) * 1.5)
    net = SplitModel(TinyFC().eval(), "features", mean=HALF, std=HALF)
    images = torch.rand(2, 3, 16, 16)
    images[0, 0, 0, 0] = torch.nan
    assert Probe(net, images).tier.number == 3


def test_gap_and_linear_has_the_closed_form_of_the_paper(tiny_gap):
    probe = Probe(tiny_gap, torch.rand(3, 3, 16, 16), targets=torch.tensor([0, 4, 2]))
    closed = probe.class_weights * probe.activations.mean((2, 3))
    assert torch.allclose(probe.drops, closed, atol=1e-6)


def test_a_network_of_nan_ends_in_nan_not_in_an_error():
    module = TinyFC().eval()
    with torch.no_grad():
        module.classifier[1].weight.fill_(torch.nan)
    assert Probe(SplitModel(module, "features", mean=HALF, std=HALF), torch.rand(2, 3, 16, 16)).drops.isnan().all()


def test_chunks_follow_the_byte_budget_and_change_nothing(tiny_fc):
    images = torch.rand(2, 3, 16, 16)
    whole = Probe(tiny_fc, images).drops
    assert torch.allclose(Probe(tiny_fc, images, byte_budget=1).drops, whole, atol=1e-6)


def test_a_wrong_shortcut_does_not_pass_in_silence(monkeypatch, caplog):
    module = TinyFC().eval()
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    honest = ablation.MixOnce.drops
    monkeypatch.setattr(ablation.MixOnce, "drops", lambda self, *args: honest(self, *args) * 1.5)
    images = torch.rand(2, 3, 16, 16)
    with caplog.at_level(logging.WARNING):
        probe = Probe(net, images)
        expected = brute_force_drops(module, "features", (images - 0.5) / 0.5, probe.targets, range(8))
        assert torch.allclose(probe.drops, expected, atol=1e-5)
    assert probe.tier.number == 3
    assert "differs from the plain head" in caplog.text


def test_another_image_size_gets_its_own_tier(tiny_gap):
    for size in (16, 24):
        images = torch.rand(1, 3, size, size)
        probe = Probe(tiny_gap, images)
        assert torch.allclose(probe.drops, probe.class_weights * probe.activations.mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("factory", [TinyFC, Untraceable])
def test_a_model_nobody_uses_is_freed(factory):
    net = SplitModel(factory().eval(), "features", mean=HALF, std=HALF)
    Probe(net, torch.rand(1, 3, 16, 16)).drops  # noqa: B018
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
