"""Heads that read the sizes of a tensor before the layer: as a segmenter does, to enlarge its map to the size of the image."""

import pytest
import torch
import torch.nn.functional as F
from builders import HALF
from reference import brute_force_drops
from torch import Tensor, nn

from evalkit import Probe, SplitModel


class Reads(nn.Module):
    """Reads one kind of size of the images, or of the first maps, behind its `features`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.features, self.classes = kind, nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        y = self.features(first).relu()
        if self.kind == "add":
            y = y + F.adaptive_avg_pool2d(first, 1)[:, :1].expand(first.shape[0], 8, y.shape[2], y.shape[3])
        maps = self.classes(y)
        match self.kind:
            case "shape":
                maps = F.interpolate(maps, size=x.shape[-2:], mode="bilinear")
            case "size":
                maps = F.interpolate(maps, size=(x.size(2) // 2, x.size(-1) - 1))
            case "channels":
                maps = maps * x.shape[1] + first.size(1) / 6
            case "count":
                maps = maps.reshape(x.shape[0] * 5, -1).view(x.shape[0], 5, -1, 1) * (x.shape[2] * x.shape[3])
            case "device":
                maps = maps * torch.linspace(0, 1, first.shape[-1], device=x.device, dtype=x.dtype)[-1]
            case "unpacked":
                _, _, height, width = first.shape
                maps = F.interpolate(maps, size=(height, width))
        return maps.square().mean((2, 3))


KINDS = ["shape", "size", "channels", "count", "device", "unpacked", "add"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_they_are_cut_and_exact(kind, batch):
    module = Reads(kind).eval().double()
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    for size in ((24, 16), (20, 28)):  # the graph holds no size of the first images
        images = torch.rand(batch, 3, *size, dtype=torch.float64)
        normalised = (images - 0.5) / 0.5
        probe = Probe(net, images)
        expected = brute_force_drops(module, "features", normalised, probe.targets, range(8))
        assert torch.allclose(probe.logits, module(normalised), rtol=1e-12) and float(expected.abs().max()) > 0
        assert torch.allclose(probe.drops, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))
        assert net.head_graph is not None and not probe.written(by_value=True)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "add"])
def test_the_values_are_not_kept(kind):
    """The head needs sizes only, which take no memory for each ablated channel."""
    probe = Probe(SplitModel(Reads(kind).eval(), "features", mean=HALF, std=HALF), torch.rand(2, 3, 24, 16))
    assert sum(tensor.numel() for tensor in probe.context) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_whole_network(kind):
    module, images = Reads(kind).eval().double(), torch.rand(2, 3, 24, 16, dtype=torch.float64)
    probe = Probe(SplitModel(module, "features", mean=HALF, std=HALF), images)
    kept: list[Tensor] = []
    module.features.register_forward_hook(lambda _module, _args, out: kept.append(out))
    scores = module((images - 0.5) / 0.5).gather(1, probe.targets[:, None])
    (expected,) = torch.autograd.grad(scores.sum(), kept)
    assert torch.allclose(probe.gradients, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))
