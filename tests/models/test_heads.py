"""New last layers: of any network, equal to what its features and the new weights give."""

import pytest
import torch
from builders import TinyFC, TinyGAP
from torch import nn

from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.models import zoo
from evalkit.models.heads import check_scores, find_ending, replace_head, with_outputs


@pytest.mark.parametrize(
    ("name", "head", "without"),
    [
        ("squeezenet1_1", "classifier.1", ["classifier.2"]),
        ("mobilenet_v3_small", "classifier.3", []),
        ("timm/resnet10t", "fc", []),
        ("timm/convnext_atto", "head.fc", []),
    ],
)
def test_the_last_layer_of_networks_of_the_libraries(name, head, without, quick_weights):
    config = compose_jobs([f"model={name}", "model.weights=null"])[0].config.model
    module, _ = zoo.build(config)
    images = torch.rand(2, 3, 64, 64)
    found = find_ending(module.eval(), lambda network: network(images))
    assert (found.head, found.without) == (head, without)
    again = with_outputs(config.factory, config.args, found.head, 3, found.without).eval()
    inputs: list[torch.Tensor] = []
    layer = again.get_submodule(head)
    layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        scores = again(images)
        values = inputs[0] if inputs[0].dim() == 2 else inputs[0].mean((2, 3))
        torch.testing.assert_close(scores, values @ layer.weight.flatten(1).T + layer.bias, rtol=1e-3, atol=1e-4)
    assert scores.shape == (2, 3) and not any(hasattr(part, "hooked") for part in module.modules())
    check_scores(lambda network: network(images), again, layer, 3)


def test_the_new_layer_is_like_the_old_one_and_no_hook_stays():
    net = TinyFC().double()
    found = find_ending(net, lambda network: network(torch.rand(1, 3, 16, 16).double()))
    assert found.head == "classifier.4" and not any(part._forward_hooks for part in net.modules())
    new = replace_head(net, found.head, 7)
    assert new is net.classifier[4] and new.weight.dtype == torch.float64 and new.weight.shape == (7, 32)
    assert net(torch.rand(2, 3, 16, 16).double()).shape == (2, 7)


class Shared(TinyGAP):
    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3))) + self.fc(self.features(-x).mean((2, 3)))


class TwoHeads(TinyGAP):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 5)

    def forward(self, x):
        pooled = self.features(x).mean((2, 3))
        return (self.other(pooled) + self.fc(pooled)) / 2


class Clipped(TinyGAP):
    def forward(self, x):
        return super().forward(x).clamp(min=0)


def test_networks_without_a_last_layer_of_their_own():
    images = torch.rand(2, 3, 16, 16)
    with pytest.raises(UserError, match="Sequential calls no Linear and no 1x1 convolution by a name"):
        find_ending(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), lambda network: network(images))
    with pytest.raises(UserError, match="Shared calls its last layer 'fc' 2 times"):
        find_ending(Shared().eval(), lambda network: network(images))
    clipped = Clipped().eval()
    head = replace_head(clipped, "fc", 3)
    before = head.bias.clone()
    with pytest.raises(UserError, match="Clipped changes the scores behind its last layer"):
        check_scores(lambda network: network(images), clipped, head, 3)
    assert torch.equal(head.bias, before)
    with pytest.raises(UserError, match="TinyGAP has no Linear or convolution 'features' to replace"):
        replace_head(TinyGAP(), "features", 3)


def test_a_second_head_is_refused():
    net = TwoHeads().eval()
    assert find_ending(net, lambda network: network(torch.rand(1, 3, 16, 16))).head == "fc"
    head = replace_head(net, "fc", 1)  # broadcast beside the other head's five
    with pytest.raises(UserError, match=r"TwoHeads has scores \(2, 5\) after its last layer got 1 outputs: it has another head beside it"):
        check_scores(lambda network: network(torch.rand(2, 3, 16, 16)), net, head, 1)
