"""The layer that is explained where nobody named one."""

import sys

import pytest
import torch
from builders import TinyFC, TinyGAP, Untraceable
from torch import Tensor, nn

from evalkit.config.choices import choices
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.models import graph, zoo
from evalkit.models.layers import explainable
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
    assert propose(Tail(tail).eval(), torch.rand(2, 3, 8, 8)).layer == layer
    assert propose(Tail(tail).eval(), torch.rand(1, 3, 9, 12)).layer == layer or "24" in str(tail)


class Mixed(nn.Module):
    """Tokens, or channels last, through a residual block `mix` and a head that reads them."""

    def __init__(self, order, pool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.mix, self.fc, self.order, self.pool = nn.Sequential(nn.Linear(6, 6), nn.GELU()), nn.Linear(6, 4), order, pool

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.mix(self.order(self.body(x)))))


@pytest.mark.parametrize(
    ("order", "pool"),
    [
        (lambda x: x.flatten(2).transpose(1, 2), lambda x: x.mean(1)),
        (lambda x: x.permute(0, 2, 3, 1), lambda x: x.mean((1, 2))),
    ],
)
def test_a_head_that_reads_tokens_or_channels_last_is_explained_there(order, pool):
    proposal = propose(Mixed(order, pool).eval(), torch.rand(2, 3, 8, 8))
    assert proposal.layer == "mix" and "8 x 8" in proposal.reason


class ClassToken(nn.Module):
    """Two attention blocks over patches and class tokens, of which the head reads the first `prefix` ones."""

    def __init__(self, prefix: int = 1, tokens: int = 2, traced: bool = True) -> None:
        super().__init__()
        self.embed, self.cls_token = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.zeros(1, tokens, 8))
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3)))
        self.norm, self.head, self.prefix, self.traced = nn.LayerNorm(8), nn.Linear(8, 4), prefix, traced
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x if self.traced or float(x.sum()) < 1e9 else -x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1))
        return self.head(self.norm(x)[:, : self.prefix].mean(1) if self.prefix else self.norm(x).mean(1))


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize(("prefix", "layer"), [(1, "blocks.1"), (2, "blocks.1"), (0, "norm")])
def test_the_last_layer_whose_positions_are_read(prefix, layer, traced):
    """Also where the head's weights are zero, as when training begins."""
    proposal = propose(ClassToken(prefix, traced=traced).eval(), torch.rand(2, 3, 24, 32))
    assert proposal.layer == layer and "6 x 8 tokens behind 2 prefix tokens" in proposal.reason
    assert ("only the prefix tokens are read" in proposal.reason) == (prefix > 0)


class States(nn.Module):
    """Sixteen states that read the whole image: as many as a 4 x 4 grid, and none of them lies anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.collect, self.last = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(64, 16), nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.collect(self.embed(x).relu().flatten(2)).transpose(1, 2)
        return self.head(self.last(x).mean(1))


def test_a_grid_of_states_that_lie_nowhere_is_said_to_be_one_in_name_only():
    torch.manual_seed(0)
    proposal = propose(States().eval(), torch.rand(2, 3, 16, 16))
    assert proposal.layer == "last" and "do not show where in the image they lie" in proposal.reason
    assert "do not show" not in propose(ClassToken().eval(), torch.rand(2, 3, 24, 32)).reason


def test_an_untraceable_network_is_explained_where_the_same_traced_one_is():
    assert propose(Untraceable().eval(), torch.rand(2, 3, 8, 8)).layer == "features.2"
    assert propose(TinyGAP().eval(), torch.rand(2, 3, 8, 8)).layer == "features.2"


def test_nothing_is_proposed_for_what_cannot_be_run_or_has_no_positions():
    with pytest.raises(NoLayer, match="no layer whose positions influence its outputs"):
        propose(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 4)), torch.rand(2, 3, 8, 8))
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


class OnlyHalf(TinyGAP):
    """Casts by itself, so that it runs in half precision only."""

    def __init__(self) -> None:
        super().__init__()
        self.half()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.half())


def half_tokens() -> nn.Module:
    return ClassToken().half()


def bfloat_tokens() -> nn.Module:
    return ClassToken(2).bfloat16()


@pytest.mark.parametrize("factory", ["half_tokens", "bfloat_tokens", "OnlyHalf"])
def test_a_layer_is_proposed_for_networks_in_half_precision(factory, monkeypatch):
    monkeypatch.setitem(sys.modules, "halves", sys.modules[__name__])
    overrides = ["model=custom", f"model.factory=halves.{factory}", "model.layer=auto", "model.resize=[24,24]", "data=digits"]
    layer = compose_jobs(overrides)[0].config.model.layer
    assert layer == ("features.2" if factory == "OnlyHalf" else "blocks.1")


class NoGradients(ClassToken):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_what_no_gradient_passes_through_is_told(recwarn):
    with pytest.raises(NoLayer, match=r"no gradient passes through NoGradients, as where forward runs under torch\.no_grad, .*: remove"):
        propose(NoGradients().eval(), torch.rand(2, 3, 24, 24))
    network = ClassToken().eval()
    network.head = torch.ao.nn.quantized.dynamic.Linear(8, 4)
    recwarn.clear()
    with pytest.raises(NoLayer, match=r"no gradient passes through ClassToken, parts of which are quantised, .* before quantisation$"):
        propose(network, torch.rand(2, 3, 24, 24))
    assert not [each for each in recwarn if "autograd kernel" in str(each.message)]


def test_listed_are_the_grids_of_the_image_only():
    """Not the class token alone, nor in a network with prefix tokens what has other proportions, as (heads, tokens, channels) have."""

    class Heads(ClassToken):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), self.embed(x).flatten(2).transpose(1, 2)], 1)))
            y = self.heads(y.unflatten(2, (2, 4)).transpose(1, 2)) * 2
            return self.head(y.transpose(1, 2).flatten(2)[:, :1].mean(1))

    found = {layer.name: layer.grid for layer in explainable(Heads().eval(), torch.rand(2, 3, 24, 24))}
    assert "blocks.0" in found and "heads" not in found
    assert all((grid.height, grid.width) == (6, 6) for grid in found.values())
