"""Cutting a model, and leaving the caller's alone."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch
from builders import HALF, TinyFC, TinyGAP, Untraceable
from torch import Tensor, nn
from torchvision.models import googlenet, resnet18

from evalkit import Probe, SplitModel
from evalkit.errors import UserError
from evalkit.methods import ablation_cam, grad_cam, grad_cam_pp
from evalkit.models.layers import explainable
from evalkit.models.proposal import propose


def state_of(module: nn.Module) -> dict:
    return {
        "modes": [(name, part.training, getattr(part, "inplace", None)) for name, part in module.named_modules()],
        "grads": [(name, p.requires_grad, p.grad) for name, p in module.named_parameters()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks) for part in module.modules()],
        "tensors": {name: tensor.clone() for name, tensor in module.state_dict().items()},
    }


@pytest.mark.parametrize("factory", [TinyFC, TinyGAP, Untraceable, lambda: resnet18(num_classes=5)])
def test_the_callers_module_is_untouched(factory):
    module = factory().train()
    next(iter(module.parameters())).requires_grad_(False)
    module.register_forward_hook(lambda *_: None)
    before = state_of(module)
    layer = "layer4" if hasattr(module, "layer4") else "features"
    probe = Probe(SplitModel(module, layer, mean=HALF, std=HALF), torch.rand(3, 3, 16, 16))
    for method in (ablation_cam, grad_cam, grad_cam_pp):
        method(probe)
    after = state_of(module)
    assert all(torch.equal(after["tensors"][name], tensor) for name, tensor in before.pop("tensors").items())
    after.pop("tensors")
    assert after == before


def test_methods_do_not_harm_each_other_or_the_activations(tiny_fc):
    images = torch.rand(2, 3, 16, 16)
    alone = [method(Probe(tiny_fc, images)) for method in (ablation_cam, grad_cam)]
    probe = Probe(tiny_fc, images)
    kept = probe.activations.clone()
    together = [method(probe) for method in (ablation_cam, grad_cam)]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(probe.activations, kept)


def test_a_cut_before_an_inplace_relu_keeps_its_activations():
    net = SplitModel(TinyGAP().eval(), "features.1", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(2, 3, 16, 16))
    assert probe.activations.min() < 0
    probe.logits, probe.gradients, probe.drops  # noqa: B018
    assert probe.activations.min() < 0


@pytest.mark.parametrize("factory", [resnet18, lambda: googlenet(init_weights=False)])
def test_head_of_trunk_is_the_model(factory):
    module = factory().eval()
    layer = "layer3" if hasattr(module, "layer3") else "inception4a"
    net = SplitModel(module, layer, mean=HALF, std=HALF)
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(net(images), module((images - 0.5) / 0.5), atol=1e-5)


def test_what_cannot_be_traced_falls_back_and_says_so(caplog):
    module = Untraceable().eval()
    with caplog.at_level(logging.WARNING):
        net = SplitModel(module, "features", mean=HALF, std=HALF)
        assert not caplog.text  # the network may still be refused
        images = torch.rand(2, 3, 16, 16)
        net(images)
        net(images)
    assert caplog.text.count("falling back to a hook") == 1
    plain = SplitModel(TinyGAP().eval(), "features", mean=HALF, std=HALF)
    plain.module.load_state_dict(module.state_dict())
    assert torch.allclose(grad_cam(Probe(net, images)), grad_cam(Probe(plain, images)), atol=1e-6)


class Dictionary(TinyGAP):
    """Returns more than logits, as segmentation networks do."""

    def forward(self, x):
        return {"out": super().forward(x)}


class UntraceableDictionary(Untraceable):
    def forward(self, x):
        return {"out": super().forward(x)}


class UntraceablePair(Untraceable):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        return super().forward(self.pair(x)[0])


class Pair(torch.nn.Module):
    def forward(self, x):
        return x, x


def test_one_of_two_tensors_that_a_layer_puts_out_is_named():
    module, images = UntraceablePair().eval(), torch.rand(2, 3, 16, 16)
    with pytest.raises(UserError, match="layer 'pair' puts out 2 tensors: name one of them, as in pair:1"):
        SplitModel(module, "pair", mean=HALF, std=HALF)(images)
    for net in (SplitModel(module, "pair:0", mean=HALF, std=HALF), SplitModel(module, "pair:1", mean=HALF, std=HALF)):
        activations, context = net.trunk(images)
        assert torch.equal(activations, (images - 0.5) / 0.5)
        assert torch.equal(net.head(torch.zeros_like(activations), context), net.module(torch.zeros_like(images))) == (
            net.layer == "pair:0"
        )


class Several(TinyGAP):
    """Returns its logits in the form that `pack` gives them."""

    def __init__(self, pack):
        super().__init__()
        self.pack = pack

    def forward(self, x):
        return self.pack(x, super().forward(x))


@pytest.mark.parametrize(("pack", "place"), [(lambda x, logits: (logits, x), "0"), (lambda x, logits: [x, logits], "1")])
def test_where_the_logits_are_in_what_a_network_returns(pack, place):
    with pytest.raises(UserError, match=re.escape(f"set model.select={place}; docs/outputs.md has examples")):
        SplitModel(Several(pack).eval(), "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("factory", [Dictionary, UntraceableDictionary])
def test_what_returns_no_logits_is_refused(factory):
    with pytest.raises(UserError, match=r"must return logits \(images, classes\) as one tensor"):
        SplitModel(factory().eval(), "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("featurez", "did you mean 'features'?"),
        ("layer4.0.relu", "relu_0, layer4.0.relu_1"),
        ("fc", "choose a layer in front of the pooling"),
    ],
)
def test_layers_that_do_not_fit(layer, says):
    module = resnet18() if layer != "featurez" else TinyGAP()
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        SplitModel(module, layer, mean=HALF, std=HALF)(torch.rand(1, 3, 32, 32))


def test_repeated_and_functional_layers_have_names_of_their_own():
    module = resnet18().eval()
    last = SplitModel(module, "layer4.1.relu_1", mean=HALF, std=HALF)
    whole = SplitModel(module, "layer4", mean=HALF, std=HALF)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(last.trunk(images)[0], whole.trunk(images)[0])
    assert "flatten" in whole.layers


def test_bf16_touches_the_trunk_only(tiny_gap):
    images = torch.rand(2, 3, 16, 16)
    exact = tiny_gap.trunk(images)[0]
    tiny_gap.autocast = torch.bfloat16
    rounded = tiny_gap.trunk(images)[0]
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert torch.allclose(rounded, exact, atol=0.1)


class Viewing(TinyGAP):
    """Calls `view` in the middle of its convolutions, which channels last do not allow."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.features[0](x)
        return self.fc(self.features[1:](y.view(y.size(0), -1).view(y.shape)).mean((2, 3)))


@pytest.mark.parametrize(("factory", "layout"), [(TinyGAP, torch.channels_last), (Viewing, torch.contiguous_format)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_faster_layout_where_the_network_takes_it(factory, layout, batch):
    module = factory().eval()
    net = SplitModel(module, "features.3" if factory is Viewing else "features", mean=HALF, std=HALF)
    images = torch.rand(batch, 3, 16, 16)
    activations, _ = net.trunk(images)
    assert net._layout == layout and activations.is_contiguous()
    assert torch.allclose(net(images), module((images - 0.5) / 0.5), atol=1e-5)


class Dropping(torch.nn.Module):
    """A functional dropout that nobody tells of eval mode."""

    def __init__(self):
        super().__init__()
        self.features, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(torch.nn.functional.dropout(self.features(x), 0.5).mean((2, 3)))


def test_a_network_that_draws_random_numbers_is_refused():
    with pytest.raises(UserError, match="Dropping is not deterministic"):
        SplitModel(Dropping().eval(), "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


class UntraceableDropping(Dropping):
    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


class TrainReturnsNothing(TinyGAP):
    def train(self, mode=True):
        super().train(mode)


class OddNames(nn.Module):
    """Submodules whose names are attributes of fx.GraphModule, or keywords."""

    def __init__(self, name):
        super().__init__()
        self.features, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.add_module(name, nn.Linear(8, 8))
        self.name = name

    def forward(self, x):
        return self.fc(getattr(self, self.name)(self.features(x).mean((2, 3))))


class WithLabels(TinyGAP):
    def forward(self, x, labels=None):
        y = super().forward(x)
        return (y, nn.functional.cross_entropy(y, labels)) if labels is not None else y


def test_an_untraceable_network_that_draws_random_numbers_is_refused():
    with pytest.raises(UserError, match="UntraceableDropping is not deterministic"):
        SplitModel(UntraceableDropping().eval(), "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(
    "factory",
    [
        TrainReturnsNothing,
        WithLabels,
        *(lambda name=name: OddNames(name) for name in ("meta", "graph", "code", "_graph", "recompile", "class")),
    ],
)
def test_networks_that_a_graph_can_hold_are_cut(factory):
    module = factory()
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    images = torch.rand(3, 3, 16, 16)
    logits = net(images)
    assert net.head_graph is not None
    module.train(False)
    assert torch.allclose(logits, module((images - 0.5) / 0.5), atol=1e-5)


def test_a_compiled_network_is_cut_like_the_one_that_was_compiled():
    module = TinyGAP().eval()
    net = SplitModel(torch.compile(module, backend="eager"), "_orig_mod.features", mean=HALF, std=HALF)
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(net(images), SplitModel(module, "features", mean=HALF, std=HALF)(images))


def test_compiled_parts_are_cut_like_those_that_were_compiled():
    module, images = TinyGAP().eval(), torch.rand(3, 3, 16, 16)
    plain = SplitModel(module, "features.1", mean=HALF, std=HALF)
    logits, activations = plain(images), plain.trunk(images)[0]
    module.features[1] = torch.compile(module.features[1], backend="eager")
    module.features, module.fc = torch.compile(module.features, backend="eager"), torch.compile(module.fc, backend="eager")
    with torch.no_grad():
        assert torch.equal(module((images - 0.5) / 0.5), logits)  # compiled by now
    compiler = type(module.fc)
    for layer in ("features.1", "features._orig_mod.1._orig_mod"):
        net = SplitModel(module, layer, mean=HALF, std=HALF)
        assert torch.equal(net(images), logits) and torch.equal(net.trunk(images)[0], activations)
        assert net.layers == plain.layers and net.head_graph is not None
        assert net.module.fc.weight is module.fc.weight
    assert [name for name, part in module.named_modules() if isinstance(part, compiler)][:1] == ["features"]  # the caller's stays compiled
    assert propose(module, images).layer == propose(plain.module, images).layer


def test_a_scripted_network_is_refused():
    with pytest.raises(UserError, match=r"TinyGAP is scripted or traced by torch\.jit"):
        SplitModel(torch.jit.trace(TinyGAP().eval(), torch.rand(1, 3, 16, 16)), "features", mean=HALF, std=HALF)


class Mirror(TinyGAP):
    def forward(self, x):
        return super().forward(torch.cat([x, x.flip(3)])).view(2, x.shape[0], -1).mean(0)


def test_several_maps_for_one_image_are_refused():
    with pytest.raises(UserError, match="puts out 2 maps for 1 images"):
        SplitModel(Mirror().eval(), "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


class OverBatch(TinyGAP):
    def forward(self, x):
        return super().forward(x - x.mean(0))


def test_logits_that_depend_on_the_batch_are_refused():
    with pytest.raises(UserError, match="OverBatch puts out other logits for an image when another image is in its batch"):
        SplitModel(OverBatch().eval(), "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


class ChangesItsInput(TinyGAP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2.0)) + x.mean((1, 2, 3))[:, None]


class UntraceableChangesItsInput(ChangesItsInput):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) < 1e9 else x + 1)


@pytest.mark.parametrize("factory", [ChangesItsInput, UntraceableChangesItsInput])
def test_a_network_may_change_its_input(factory):
    module = factory().double().eval()
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(SplitModel(module, "features", mean=HALF, std=HALF)(images), module((images - 0.5) / 0.5), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda z: z > 0, r"a tensor of shape \(1, 5\) of bool: return them in floating point"),
        (lambda z: z[:, :, None, None], "set model.score to a function that makes scores of it"),
        (lambda z: z.squeeze(), r"a tensor of shape \(5,\): set model.score"),
        (lambda z: {"feat": z.repeat(1, 2), "out": z}, r"the one that holds them of feat \(1, 10\), out \(1, 5\)"),
        (lambda z: (z.repeat(1, 2), z), r"the one that holds them of 0 \(1, 10\), 1 \(1, 5\)"),
        (lambda z: SimpleNamespace(scores=z), "a SimpleNamespace of scores: set model.select=scores"),
        (lambda z: None, "a NoneType: set model.score"),
    ],
)
def test_the_way_to_the_logits_is_told(change, says):
    class Wrapped(TinyGAP):
        def forward(self, x):
            return change(super().forward(x))

    with pytest.raises(UserError, match=says):
        SplitModel(Wrapped().eval(), "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


class Detached(TinyGAP):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)).detach())


class WithoutGradients(TinyGAP):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) < 1e9 else x + 1)


@pytest.mark.parametrize("factory", [Detached, WithoutGradients])
def test_gradients_that_stop_in_the_head_are_told(factory):
    probe = Probe(SplitModel(factory().eval(), "features", mean=HALF, std=HALF), torch.rand(2, 3, 16, 16))
    assert ablation_cam(probe).isfinite().all()
    with pytest.raises(UserError, match="stops gradients between layer 'features' and its outputs"):
        grad_cam(probe)


class CopiedAnew(TinyGAP):
    def __deepcopy__(self, _memo):
        return CopiedAnew()


def test_a_copy_with_other_weights_is_refused():
    with pytest.raises(UserError, match=r"its __deepcopy__ gives the copy another features\.0\.weight"):
        SplitModel(CopiedAnew(), "features", mean=HALF, std=HALF)


def test_a_forward_that_was_replaced_on_the_object_is_told():
    module = TinyGAP().eval()
    original = module.forward
    module.forward = lambda x: original(x * 2)
    with pytest.raises(UserError, match="forward was replaced on the object"):
        SplitModel(module, "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


def test_images_of_another_size_than_the_network_takes():
    """As the first images, and after others; in the trunk (a transformer's positions) and in the head (fully connected layers)."""
    module = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(2), nn.Linear(16, 16), nn.Flatten(), nn.Linear(64, 5))
    net = SplitModel(module, "2", mean=HALF, std=HALF, grid=(2, 2))  # its channels are first, so that it is not read without a grid
    with pytest.raises(UserError, match=r"^Sequential cannot process a 40x32 image: RuntimeError: .*; it takes 32x32: check"):
        _ = Probe(net, torch.rand(2, 3, 40, 32)).activations
    assert Probe(net, torch.rand(2, 3, 32, 32)).logits.shape == (2, 5)
    for look in (lambda probe: probe.activations, lambda probe: probe.logits):
        with pytest.raises(UserError, match=r"^Sequential cannot process a 40x32 image"):
            look(Probe(net, torch.rand(2, 3, 40, 32)))
    head = SplitModel(TinyFC(), "features", mean=HALF, std=HALF)
    assert Probe(head, torch.rand(2, 3, 16, 16)).logits.shape == (2, 5)
    with pytest.raises(UserError, match=r"^TinyFC cannot process a 20x16 image: RuntimeError"):
        _ = Probe(head, torch.rand(2, 3, 20, 16)).logits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_fails_in_half_precision_and_works_in_float32_is_told_so(dtype):
    class Full(TinyGAP):
        def forward(self, x):
            return super().forward(x) if self.fc.weight.dtype == torch.float32 else torch.linalg.inv(x)

    with pytest.raises(UserError, match=r"^Full cannot process a 16x16 image: .*; it does in float32: return it with \.float\(\)$"):
        SplitModel(Full().to(dtype), "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


class SmallNoise(TinyGAP):
    """Adds noise of the size of the slack for rounding, which single comparisons pass by chance."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-3 * torch.randn(len(x), 5)


def test_small_noise_is_no_dependence_on_the_batch():
    for _ in range(20):
        with pytest.raises(UserError, match="SmallNoise is not deterministic: two passes"):
            SplitModel(SmallNoise(), "features", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))


class Twice(Untraceable):
    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.smooth(self.smooth(x)))


def test_a_module_called_twice_behind_a_hook_is_named_and_not_listed():
    with pytest.raises(UserError, match=r"layer 'smooth' is called 2 times in one forward pass; choose one"):
        SplitModel(Twice(), "smooth", mean=HALF, std=HALF)(torch.rand(1, 3, 16, 16))
    names = [layer.name for layer in explainable(Twice().eval(), torch.rand(2, 3, 16, 16))]
    assert "smooth" not in names and "features" in names
