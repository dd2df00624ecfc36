"""Where a graph can be cut, and parts that run by themselves."""

import pytest
import torch
from builders import HALF, TinyGAP
from torch import Tensor, nn
from torchvision.models import densenet121, resnet18

from evalkit import SplitModel
from evalkit.errors import UserError
from evalkit.models import graph


def test_a_layer_separates_unless_something_bypasses_it():
    traced = graph.trace(resnet18().eval())
    assert graph.crossing(traced.graph, traced.node("layer3")) == []
    (residual,) = graph.crossing(traced.graph, traced.node("layer4.1.conv2"))
    assert residual is traced.node("layer4.0.relu_1")


def test_containers_functions_and_repeated_modules_have_names():
    traced = graph.trace(densenet121().eval())
    assert traced.node("features") is traced.node("features.norm5")
    assert traced.node("relu").target is torch.nn.functional.relu
    with pytest.raises(UserError, match=r"called 2 times in one forward pass; name one of its calls: layer1\.0\.relu_0"):
        graph.trace(resnet18()).node("layer1.0.relu")


def test_parts_compute_what_the_whole_does():
    module = resnet18().eval()
    traced = graph.trace(module)
    cut = traced.node("layer2")
    after = graph.descendants(cut)
    nodes = list(traced.graph.nodes)
    before = [n for n in nodes if n not in after and n.op not in ("placeholder", "output")]
    first = graph.extract(traced.root, before, nodes[:1], cut)
    last = graph.extract(traced.root, [n for n in nodes if n in after and n.op != "output"], [cut], nodes[-1].args[0])
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(last(first(x)), module(x))


class Flattens(TinyGAP):
    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x).mean((2, 3))
        return self.fc(a.view(x.shape[0], -1).reshape(x.size(0), a.size()[1]))


def test_the_batch_size_is_no_bypass_and_is_read_anew():
    module = Flattens().eval()
    traced = graph.trace(module)
    cut = traced.node("features")
    assert graph.crossing(traced.graph, cut) == []
    assert sum(graph.is_batch_size(n) for n in traced.graph.nodes) == 2
    nodes = list(traced.graph.nodes)
    after = graph.descendants(cut)
    head = graph.extract(traced.root, [n for n in nodes if n in after and n.op != "output"], [cut], nodes[-1].args[0])
    a = torch.rand(5, 8, 4, 4)
    with torch.no_grad():
        assert torch.allclose(head(a), module.fc(a.mean((2, 3))))


def test_every_layer_is_named_in_the_order_of_the_data():
    traced = graph.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()))
    assert list(traced.layers) == ["0", "1", "2"]


def test_a_part_that_fails_prints_nothing(capfd):
    module = Flattens().eval()
    traced = graph.trace(module)
    nodes = list(traced.graph.nodes)
    whole = graph.extract(traced.root, [n for n in nodes if n.op not in ("placeholder", "output")], nodes[:1], nodes[-1].args[0])
    with pytest.raises(RuntimeError):
        whole(torch.rand(2, 4, 8, 8))
    failing = graph.extract(traced.root, [n for n in nodes if n.op == "call_method"], [traced.node("features")], traced.node("mean"))
    with pytest.raises(IndexError):
        failing(torch.rand(2, 8))
    assert capfd.readouterr() == ("", "")


class Windows(TinyGAP):
    """Looks at windows of 2x2 cells, whose number is a multiple of the batch size, as windowed attention does."""

    def windows(self, a: Tensor) -> Tensor:
        n, c, h, w = a.shape
        tiles = a.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 4)
        number, channels, cells = tiles.shape
        tiles = tiles.reshape(number, channels * cells).softmax(1).reshape(number, channels, cells)
        return tiles.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.windows(self.features(self.windows(x)[:, :3])).mean((2, 3)))


@pytest.mark.parametrize("batch", [1, 3])
def test_sizes_of_windows_are_no_batch_sizes(batch, caplog):
    module = Windows().double().eval()
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    images = torch.rand(batch, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(net(images), module((images - 0.5) / 0.5), atol=1e-12)
    assert net.head_graph is not None and "hook" not in caplog.text
