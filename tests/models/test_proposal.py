"""The layer that is explained where nobody named one."""

import pytest
import torch
from builders import TinyFC, Untraceable
from torch import Tensor, nn

from evalkit.config.choices import choices
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.models import graph, zoo
from evalkit.models.proposal import NoLayer, propose


@pytest.mark.parametrize("name", [name for name in choices("model") if name != "custom"])
def test_proposals_are_the_layers_that_the_configs_name(name):
    if name == "xception":
        pytest.importorskip("timm")
    named = compose_jobs([f"model={name}", "data=digits"])[0].config.model
    proposed = compose_jobs([f"model={name}", "data=digits", "model.layer=auto"])[0].config.model
    if "features.1" in named.layer and name != "alexnet":  # the last module of `features`: two names for one output
        layers = graph.trace(zoo.build(named.model_copy(update={"weights": None}))[0].eval()).layers
        assert layers[proposed.layer] is layers[named.layer]
    else:
        assert proposed.layer == named.layer
    assert proposed == named.model_copy(update={"layer": proposed.layer})


class Tail(nn.Module):
    """Convolutions named `body`, then the head under test, called `tail`."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(x))


class Calls(nn.Module):
    def __init__(self, function, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


LINEAR = nn.Linear(6, 4)


@pytest.mark.parametrize(
    ("tail", "layer"),
    [
        (nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), LINEAR), "body"),
        (nn.Sequential(nn.Dropout2d(), nn.Identity(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)), "body"),
        (nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "body"),  # class scores by position
        (nn.Sequential(nn.Conv2d(6, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.Flatten()), "tail.0"),
        (nn.Sequential(nn.Sequential(nn.Conv2d(6, 6, 1), nn.Dropout()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), LINEAR), "tail.0"),
        (Calls(lambda x, fc: fc(torch.relu(-x).mean((2, 3))), LINEAR), "relu"),
        (Calls(lambda x, fc: fc(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)), nn.Linear(12, 4)), "body"),  # two pools, one map
        (Calls(lambda x, conv, fc: fc((x + conv(x)).mean((2, 3))), nn.Conv2d(6, 6, 1), LINEAR), "add"),  # not one of its branches
        (Calls(lambda x, fc: fc(x.flatten(2).mean(2)), LINEAR), "body"),
    ],
)  # fmt: skip
def test_the_layer_is_what_the_head_reads(tail, layer):
    assert propose(Tail(tail).eval(), torch.rand(2, 3, 8, 8)) == layer
    assert propose(Tail(tail).eval(), torch.rand(1, 3, 9, 12)) == layer or "24" in str(tail)


@pytest.mark.parametrize(
    "tail",
    [
        Calls(lambda x, mix, fc: fc(mix(x.flatten(2).transpose(1, 2)).mean(1)), nn.Linear(6, 6), LINEAR),  # tokens
        Calls(lambda x, mix, fc: fc(mix(x.permute(0, 2, 3, 1)).mean((1, 2))), nn.Linear(6, 6), LINEAR),  # channels last
    ],
)
def test_a_head_that_mixes_positions_reads_no_maps(tail):
    with pytest.raises(NoLayer, match="no convolutional maps"):
        propose(Tail(tail).eval(), torch.rand(2, 3, 8, 8))


def test_nothing_is_proposed_for_what_cannot_be_traced_or_run():
    with pytest.raises(NoLayer, match="cannot trace Untraceable"):
        propose(Untraceable().eval(), torch.rand(2, 3, 8, 8))
    with pytest.raises(UserError, match="cannot process a 20x20 image"):
        compose_jobs(["model=custom", "model.factory=builders.TinyFC", "model.layer=auto", "model.resize=[20,20]"])


@pytest.mark.parametrize("factory", ["builders.TinyFC", "theirs.LooksAtItself"])
def test_auto_becomes_a_name_in_the_configuration_and_its_text(factory):
    (job,) = compose_jobs(["model=custom", f"model.factory={factory}", "model.layer=auto", "model.resize=[16,16]"])
    # Behind the pooling that ends these features; ReLU comes before it.
    assert job.config.model.layer == ("features.1" if "TinyFC" in factory else "features.2")
    assert f"layer: {job.config.model.layer}\n" in job.yaml and "layer: auto" not in job.yaml


def test_a_proposal_does_not_touch_the_module():
    module = TinyFC().eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    propose(module, torch.rand(2, 3, 16, 16))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any(part.training or part._forward_hooks for part in module.modules())
