"""How far channels go by themselves: checked on what they do, not on what they are called."""

import pytest
import torch
import torch.nn.functional as F
from builders import HALF
from torch import Tensor, nn

from evalkit import SplitModel
from evalkit.models import channelwise


class Head(nn.Module):
    """An identity layer named `cut`, then the head under test."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.cut, self.rest = nn.Identity(), head

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.cut(x))


class Function(nn.Module):
    def __init__(self, function, last: nn.Module) -> None:
        super().__init__()
        self.function, self.last = function, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(x))


def walked(head: nn.Module) -> tuple[channelwise.Walk, torch.fx.GraphModule]:
    net = SplitModel(Head(head), "cut", mean=HALF, std=HALF)
    activations, context = net.trunk(torch.rand(1, 3, 8, 8))
    graph = net.head_graph
    assert graph is not None
    channelwise.propagate(graph, activations, context)
    return channelwise.walk(graph, next(iter(graph.graph.nodes))), graph


def test_the_walk_ends_at_the_layer_that_mixes():
    head = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3, groups=3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4))
    found, _ = walked(head)
    assert len(found.steps) == 5 and str(found.mixing.target) == "network.rest.5"
    found, _ = walked(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert len(found.steps) == 1 and str(found.mixing.target) == "network.rest.1"


@pytest.mark.parametrize(
    "mixes",
    [
        nn.LayerNorm([3, 8, 8]), nn.GroupNorm(1, 3), nn.Softmax2d(), nn.ChannelShuffle(3), nn.Conv2d(3, 6, 1, groups=3),
        Function(lambda x: x.flip(1), nn.Identity()), Function(lambda x: x - x.mean(1, keepdim=True), nn.Identity()),
        Function(lambda x: F.softmax(x, 1), nn.Identity()), Function(lambda x: x.transpose(1, 2), nn.Identity()),
        Function(lambda x: x.permute(0, 2, 3, 1), nn.Identity()), Function(lambda x: x * x.sum((1, 2, 3), keepdim=True), nn.Identity()),
        Function(lambda x: torch.mean(x, 1, keepdim=True), nn.Identity()),
    ],
)  # fmt: skip
def test_what_mixes_channels_is_never_walked_through(mixes):
    found, _ = walked(nn.Sequential(mixes, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4)))
    assert found.mixing is None and not any("rest.1" in str(step.target) for step in found.steps)


def test_whatever_is_walked_through_keeps_channels_apart():
    """Each step of a long g: changing one channel of its input changes no other channel of its output."""
    steps = nn.Sequential(
        nn.Hardswish(), nn.BatchNorm2d(3), nn.PReLU(3), nn.ZeroPad2d(1), nn.AvgPool2d(2), nn.Conv2d(3, 3, 3, groups=3),
        nn.AdaptiveMaxPool2d(2), nn.Dropout2d(), nn.GELU(),
    ).eval()  # fmt: skip
    found, graph = walked(nn.Sequential(steps, nn.Flatten(), nn.Linear(12, 4)))
    assert len(found.steps) == len(steps) + 1
    x = torch.rand(1, 3, 8, 8)
    changed = x.clone()
    changed[:, 1] += torch.rand(8, 8)
    with torch.no_grad():
        assert torch.equal(steps(x)[:, ::2], steps(changed)[:, ::2])
    assert any(channelwise.has_parameters(graph, step) for step in found.steps)


@pytest.mark.parametrize(
    ("head", "pools"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(3, 4)), True),
        (Function(lambda x: x.mean((2, 3)), nn.Linear(3, 4)), True),
        (Function(lambda x: F.adaptive_avg_pool2d(x, (1, 1)).flatten(1), nn.Linear(3, 4)), True),
        (nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), False),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)), False),
        (nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 4)), False),
    ],
)
def test_what_cam_takes_for_global_average_pooling(head, pools):
    found, graph = walked(head)
    assert channelwise.is_pooling_only(graph, found.steps) is pools
