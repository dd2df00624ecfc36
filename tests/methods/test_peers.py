"""The adapters against the libraries called by hand, and a roll call of the libraries' classes."""

import copy
import inspect
import re
import sys

import captum.attr
import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from builders import HALF, ROOT, TinyFC, TinyGAP, Untraceable, tiny_overrides
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn.functional import relu
from torchvision.models import resnet18

from evalkit import Probe, SplitModel, methods, protocol
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.launch.run import run_job
from evalkit.methods.peers import captum_attr, torch_cam
from evalkit.methods.peers import pytorch_grad_cam as grad_cam_library
from evalkit.runs.folder import RunFolder

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients"),
    pytest.mark.filterwarnings("ignore:Setting (backward|forward)"),
    pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # ShapleyCAM, when it is collected
]


class Separate(nn.Module):
    """Modules only, none in place, none called twice: what the libraries ask of a network."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.hidden, self.act, self.fc = nn.Linear(8 * 36, 12), nn.ReLU(), nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(self.act(self.hidden(self.features(x).flatten(1))))


class InPlaceAfter(nn.Module):
    """Overwrites the target layer's output, by a function and by arithmetic."""

    def __init__(self, in_place=True):
        super().__init__()
        self.features, self.fc, self.in_place = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), in_place

    def forward(self, x):
        x = self.features(x)
        if self.in_place:
            x += 0.1
            return self.fc(relu(x, inplace=True).mean((2, 3)))
        return self.fc(relu(x + 0.1).mean((2, 3)))


class FunctionalLayer(nn.Module):
    """The target layer is a function (`relu`), as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.features, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(relu(self.features(x)).mean((2, 3)))


class Reused(nn.Module):
    """One rectifier called twice, in place, and a functional one; captum asks for a module for each call."""

    def __init__(self):
        super().__init__()
        self.first, self.features, self.fc, self.relu = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.fc(self.relu(self.features(relu(x - 0.3)) + 0.1).mean((2, 3)))


def probe_of(module, layer="features", batch=3, dtype=torch.float32, **arguments):
    net = SplitModel(module.to(dtype).eval(), layer, mean=HALF, std=HALF)
    return Probe(net, torch.rand(batch, 3, 16, 16, dtype=dtype), torch.randint(0, 5, (batch,)), **arguments)


def lively(factory, **arguments):
    """A probe whose Grad-CAM maps are not dead."""
    while True:
        probe = probe_of(factory(), **arguments)
        if (methods.grad_cam(probe).amax((1, 2)) > 1e-4).all():
            return probe


def normal(probe):
    return (probe.images - 0.5) / 0.5


def one(probe, i):
    return Probe(probe.net, probe.images[i : i + 1], probe.targets[i : i + 1], probe.indices[i : i + 1])


def random_net():
    net = Separate()
    nn.init.normal_(net.fc.bias, 3.0)  # scores away from zero: AblationCAM divides by them
    return net


CAMS = ["GradCAM", "GradCAMPlusPlus", "AblationCAM", "XGradCAM", "LayerCAM", "HiResCAM", "EigenCAM", "ScoreCAM", "ShapleyCAM", "FullGrad"]


@pytest.mark.parametrize("name", CAMS)
@pytest.mark.parametrize("batch", [1, 3])
def test_pytorch_grad_cam_by_hand(name, batch):
    module = random_net()
    probe = probe_of(module, batch=batch)
    by_hand = copy.deepcopy(module)
    targets = [ClassifierOutputTarget(int(c)) for c in probe.targets]
    expected = getattr(pytorch_grad_cam, name)(model=by_hand, target_layers=[by_hand.features])(normal(probe), targets)
    found = grad_cam_library(probe, name)
    assert found.shape == (batch, 16, 16)
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["GradCAM", "GradCAMpp", "LayerCAM", "XGradCAM", "ScoreCAM", "FinerCAM"])
@pytest.mark.parametrize("batch", [1, 3])
def test_torch_cam_by_hand(name, batch):
    module = random_net()
    probe = probe_of(module, batch=batch, dtype=torch.float64)
    by_hand = copy.deepcopy(module)
    with getattr(torchcam.methods, name)(by_hand, by_hand.features) as extractor:
        scores = by_hand(normal(probe))
        (expected,) = extractor(probe.targets.tolist(), scores, normalized=False)
    found = torch_cam(probe, name)
    assert found.shape == (batch, 6, 6)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


CAPTUM = {
    "LayerGradCam": {},
    "Saliency": {"channels": "max"},
    "IntegratedGradients": {"n_steps": 9},
    "DeepLift": {"baseline": "black"},
    "GuidedBackprop": {},
    "Occlusion": {"sliding_window_shapes": [3, 4, 4], "strides": [3, 4, 4]},
    "LayerConductance": {"n_steps": 5},
    "LayerDeepLift": {},
}


@pytest.mark.parametrize("name", CAPTUM)
@pytest.mark.parametrize("batch", [1, 3])
def test_captum_by_hand(name, batch):
    module = random_net()
    probe = probe_of(module, batch=batch, dtype=torch.float64)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in CAPTUM[name].items()}
    baseline, channels = options.pop("baseline", "mean"), options.pop("channels", "sum")
    by_hand = copy.deepcopy(module)
    cls = getattr(captum.attr, name)
    method = cls(by_hand, by_hand.features) if name.startswith("Layer") else cls(by_hand)
    if "baselines" in inspect.signature(method.attribute).parameters:
        options["baselines"] = torch.full_like(probe.images, -1.0 if baseline == "black" else 0.0)
    out = method.attribute(normal(probe), target=probe.targets, **options).detach()
    expected = out.abs().amax(1) if channels == "max" else out.sum(1)
    assert torch.allclose(captum_attr(probe, name, **CAPTUM[name]).double(), expected.double(), rtol=1e-6, atol=1e-9)


def test_captums_integrated_gradients_and_ours_are_the_same_code():
    probe = probe_of(Separate(), dtype=torch.float64)
    theirs = captum_attr(probe, "IntegratedGradients", baseline="black", n_steps=11)
    assert torch.allclose(theirs, methods.integrated_gradients(probe, steps=11), rtol=1e-6, atol=1e-10)


def test_gradient_shap_and_smooth_grad_with_the_seed_of_the_image():
    """By hand with the generator in the state that the adapter gives it: seed and the image's index."""
    module = Separate()
    probe = probe_of(module, batch=3, indices=torch.tensor([7, 4, 9]))
    found, smooth = captum_attr(probe, "GradientShap", seed=2), captum_attr(probe, "NoiseTunnel", attribution_method="Saliency")
    for i, index in enumerate([7, 4, 9]):
        x, target = normal(probe)[i : i + 1], probe.targets[i : i + 1]
        state = [int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) for seed in (2, 0)]
        torch.manual_seed(state[0])
        np.random.seed(state[0])
        expected = captum.attr.GradientShap(module).attribute(x, torch.zeros(2, 3, 16, 16), target=target).sum(1)[0]
        assert torch.allclose(found[i], expected, atol=1e-6)
        torch.manual_seed(state[1])
        expected = captum.attr.NoiseTunnel(captum.attr.Saliency(module)).attribute(x, target=target).sum(1)[0]
        assert torch.allclose(smooth[i], expected, atol=1e-6)


@pytest.mark.parametrize("adapter", [grad_cam_library, torch_cam])
def test_our_grad_cam_is_theirs(adapter):
    probe = probe_of(Separate(), batch=5)
    ours = protocol.soft_mask(protocol.upsample(methods.grad_cam(probe), (16, 16)))
    theirs = protocol.soft_mask(protocol.upsample(adapter(probe), (16, 16)))
    assert torch.allclose(ours, theirs, atol=1e-4)


# Roll call: which classes work on a CNN with one target layer, and why the others cannot.
CANNOT = {
    grad_cam_library: {
        **dict.fromkeys(["AblationLayer", "AblationLayerVit", "AblationLayerFasterRCNN"], "no class"),  # parts of AblationCAM
        "ActivationsAndGradients": "no class",  # the hooks
        "GuidedBackpropReLUModel": "no class",  # no CAM: guided_backprop is ours
        "RefineCAM": "it is only its base method",
        "DeepFeatureFactorization": "no class",  # concepts of the image, not a map of a class
    },
    torch_cam: {
        "LeGrad": "reads the attention of torchvision's vision transformers, not a layer",
        "RefineCAM": "it is only its base method",
    },
    captum_attr: {
        **dict.fromkeys(["LayerFeaturePermutation", "FeaturePermutation"], "other images of its batch"),
        **dict.fromkeys(["LLMAttribution", "LLMGradientAttribution", "RemoteLLMAttribution"], "no class"),  # language models
        **dict.fromkeys(["DataLoaderAttribution", "LimeBase"], "no class"),  # need objects that no option can hold
    },
}
QUADRANTS = torch.arange(4).view(1, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
NEEDS = {
    "Occlusion": {"sliding_window_shapes": [3, 8, 8]},
    "NoiseTunnel": {"attribution_method": "Saliency"},
    "FeatureAblation": {"feature_mask": QUADRANTS},
    "ShapleyValues": {"feature_mask": QUADRANTS},
    **{name: {"feature_mask": QUADRANTS, "n_samples": 5} for name in ("ShapleyValueSampling", "Lime", "KernelShap")},
    "NeuronFeatureAblation": {"feature_mask": QUADRANTS},
    "LayerFeatureAblation": {"layer_mask": QUADRANTS[:, :, 4:12, 4:12].repeat(1, 8, 1, 1)},
}


def classes_of(library):
    return sorted(name for name, value in vars(library).items() if inspect.isclass(value))


@pytest.mark.parametrize("name", classes_of(pytorch_grad_cam))
def test_roll_call_of_pytorch_grad_cam(name):
    roll_call(grad_cam_library, name, (16, 16))


@pytest.mark.parametrize("name", classes_of(torchcam.methods))
def test_roll_call_of_torch_cam(name):
    roll_call(torch_cam, name, (8, 8))


ATTRIBUTIONS = [name for name in classes_of(captum.attr) if hasattr(getattr(captum.attr, name), "attribute")]


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_roll_call_of_captum(name):
    size = (8, 8) if name.startswith("Layer") or name == "InternalInfluence" else (16, 16)
    neuron = {"neuron_selector": (1, 2, 3)} if name.startswith("Neuron") else {}
    roll_call(captum_attr, name, size, NEEDS.get(name, {}) | neuron)


def roll_call(adapter, name, size, options=None):
    """A class either makes maps that do not depend on the batch, or says why it cannot."""
    module = TinyGAP()
    nn.init.normal_(module.fc.bias, 3.0)
    probe = probe_of(module, batch=3, dtype=torch.float64, indices=torch.tensor([3, 1, 8]))
    if name in CANNOT[adapter]:
        with pytest.raises((UserError, ValueError), match=CANNOT[adapter][name]):
            adapter(probe, name)
        return
    maps = adapter(probe, name, **(options or {}))
    assert maps.shape == (3, *size)
    assert maps.isfinite().all()
    alone = adapter(one(probe, 1), name, **(options or {}))
    assert torch.allclose(alone[0], maps[1], atol=1e-4)


def test_random_numbers_come_from_seed_and_index_and_leave_no_trace():
    probe = probe_of(TinyGAP(), batch=3)
    before = torch.get_rng_state(), np.random.get_state()[1]
    first = grad_cam_library(probe, "RandomCAM")
    assert torch.equal(grad_cam_library(probe, "RandomCAM"), first)
    assert not torch.equal(grad_cam_library(probe, "RandomCAM", seed=1), first)
    assert not torch.equal(torch_cam(probe, "SmoothGradCAMpp", seed=1), torch_cam(probe, "SmoothGradCAMpp"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize(
    ("adapter", "names"),
    [
        (grad_cam_library, ["GradCAM", "AblationCAM", "HiResCAM", "EigenCAM"]),
        (torch_cam, ["GradCAM", "LayerCAM", "ScoreCAM"]),
        (captum_attr, ["LayerGradCam", "LayerGradientXActivation", "LayerActivation"]),
    ],
)
def test_in_place_operations_behind_the_layer_do_not_change_what_libraries_keep(adapter, names):
    plain, in_place = InPlaceAfter(False), InPlaceAfter(True)
    for net in (plain, in_place):
        nn.init.constant_(net.fc.bias, 3.0)
    in_place.load_state_dict(plain.state_dict())
    probe = probe_of(plain)
    same = Probe(SplitModel(in_place.eval(), "features", mean=HALF, std=HALF), probe.images, probe.targets)
    for name in names:
        assert torch.allclose(adapter(same, name), adapter(probe, name), atol=1e-5)


@pytest.mark.parametrize(("adapter", "name"), [(grad_cam_library, "AblationCAM"), (torch_cam, "GradCAM"), (captum_attr, "LayerGradCam")])
def test_a_layer_that_is_a_function(adapter, name):
    """The same as naming a module there."""
    module = FunctionalLayer()
    nn.init.normal_(module.fc.bias, 3.0)
    probe = probe_of(module, "relu")
    twin = nn.Sequential(nn.Sequential(module.features, nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), module.fc)
    same = Probe(SplitModel(twin.eval(), "0", mean=HALF, std=HALF), probe.images, probe.targets)
    assert torch.allclose(adapter(probe, name), adapter(same, name), atol=1e-5)


def test_one_call_of_a_repeated_module():
    module = resnet18(num_classes=5)
    probe = probe_of(module, "layer4.1.relu_1", batch=2)
    whole = Probe(SplitModel(module, "layer4", mean=HALF, std=HALF), probe.images, probe.targets)
    for adapter in (grad_cam_library, torch_cam, captum_attr):
        assert torch.allclose(adapter(probe), adapter(whole), atol=1e-5)


@pytest.mark.parametrize("name", ["DeepLift", "LayerDeepLift"])
def test_deep_lift_on_reused_and_functional_rectifiers(name):
    """Its summation-to-delta property, which fails where captum misses a rectifier."""
    probe = probe_of(Reused(), dtype=torch.float64)
    gap = (probe.net(probe.images) - probe.net(torch.zeros_like(probe.images))).gather(1, probe.targets[:, None])[:, 0]
    assert torch.allclose(captum_attr(probe, name, baseline="black").sum((1, 2)), gap, rtol=1e-8)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(torch.tanh(relu(self.features(x))).mean((2, 3)))


def test_deep_lift_refuses_activations_that_captum_does_not_see():
    probe = probe_of(Functional())
    with pytest.raises(UserError, match="the network calls tanh as a function: make it a module"):
        captum_attr(probe, "DeepLift")
    captum_attr(probe, "GuidedBackprop")  # which changes rectifiers only


def test_the_callers_network_is_untouched_also_after_a_failure():
    module = TinyFC().train()
    module.classifier[1].requires_grad_(False)
    module.classifier[4].bias.grad = torch.ones(5)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    net = SplitModel(module, "features", mean=HALF, std=HALF)
    children = [list(part._modules.values()) for part in net.module.modules()]
    probe = Probe(net, torch.rand(2, 3, 16, 16))

    def explode(*_):
        raise RuntimeError("bang")

    with torch.no_grad():
        for call in (
            lambda: grad_cam_library(probe, "AblationCAM"),
            lambda: grad_cam_library(probe, "GradCAM", reshape_transform=explode),
            lambda: torch_cam(probe, "ScoreCAM"),
            lambda: captum_attr(probe, "GuidedGradCam"),
            lambda: captum_attr(probe, "DeepLift", custom_attribution_func=explode),
        ):
            try:
                call()
            except (RuntimeError, ValueError) as reason:
                assert "bang" in str(reason) or "score_projection" in str(reason)
    assert sys.stdout is sys.__stdout__ or "redirect" not in repr(sys.stdout)
    assert probe.written(by_value=True) == []
    assert module.training
    assert torch.equal(module.classifier[4].bias.grad, torch.ones(5))
    assert [p.grad for p in module.parameters() if p is not module.classifier[4].bias] == [None] * 5
    assert [p.requires_grad for p in module.parameters()] == [True, True, False, False, True, True]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert [list(part._modules.values()) for part in net.module.modules()] == children
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in (*module.modules(), *net.module.modules()))


def test_untraceable_networks_work_where_no_graph_is_needed():
    module = Untraceable()
    probe = probe_of(module)
    twin = TinyGAP()
    twin.load_state_dict(module.state_dict())
    same = Probe(SplitModel(twin.eval(), "features", mean=HALF, std=HALF), probe.images, probe.targets)
    assert torch.allclose(grad_cam_library(probe), grad_cam_library(same), atol=1e-6)
    with pytest.raises(UserError, match=r"torch\.fx cannot trace it"):
        captum_attr(probe, "DeepLift")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda p: grad_cam_library(p, "AblationKam"),
            "pytorch-grad-cam has no class 'AblationKam' that makes maps; did you mean 'AblationCAM'",
        ),
        (lambda p: torch_cam(p, "GradCam"), "did you mean 'GradCAM'"),
        (lambda p: captum_attr(p, "LayerGradCAM"), "did you mean 'LayerGradCam'"),
        (lambda p: captum_attr(p, "LLMAttribution"), "captum has no class"),
        (lambda p: captum_attr(p, "FeaturePermutation"), "other images of its batch"),
        (lambda p: captum_attr(p, "NeuronGradient"), "needs the option 'neuron_selector'"),
        (lambda p: captum_attr(p, "NoiseTunnel"), "needs the option 'attribution_method'"),
        (lambda p: captum_attr(p, "Saliency", attribution_method="DeepLift"), "Saliency has no option 'attribution_method'"),
        (lambda p: captum_attr(p, "Saliency", channels="mean"), "channels=mean is not a valid choice; known: max, sum"),
        (lambda p: captum_attr(p, "DeepLift", baseline="white"), "baseline=white is not a valid choice"),
        (lambda p: grad_cam_library(p, "AblationCAM", batchsize=3), "AblationCAM has no option 'batchsize'; did you mean 'batch_size'"),
        (lambda p: torch_cam(p, "ScoreCAM", targets=3), "no option 'targets'"),
    ],
)
def test_mistakes_are_told(call, says, tiny_gap):
    with pytest.raises(UserError, match=says):
        call(Probe(tiny_gap, torch.rand(1, 3, 16, 16)))


@pytest.mark.parametrize(("adapter", "package"), [(grad_cam_library, "pytorch_grad_cam"), (torch_cam, "torchcam.methods")])
def test_a_missing_package_is_named(adapter, package, tiny_gap, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install '.\[peers\]'"):
        adapter(Probe(tiny_gap, torch.rand(1, 3, 16, 16)))


def test_options_reach_constructor_and_call():
    probe = lively(Separate, batch=2)
    assert not torch.equal(grad_cam_library(probe, "GradCAM", eigen_smooth=True), grad_cam_library(probe, "GradCAM"))
    assert not torch.equal(grad_cam_library(probe, "FEM", k=0.1), grad_cam_library(probe, "FEM"))
    small = {"num_scales": 2, "window_size": 16}
    sess = [grad_cam_library(probe, "SESS", base_method=base, **small) for base in ("GradCAM", "EigenCAM")]
    assert not torch.equal(*sess)
    assert not torch.equal(torch_cam(probe, "FinerCAM", gamma=2.0, base_method="LayerCAM"), torch_cam(probe, "FinerCAM"))


def test_refine_cam_at_one_layer_is_its_base_method():
    """The reason why the adapter refuses it; a release that changes this is worth admitting."""
    probe = lively(Separate, batch=2)
    by_hand = copy.deepcopy(probe.net.module)
    targets = [ClassifierOutputTarget(int(c)) for c in probe.targets]
    found = pytorch_grad_cam.RefineCAM(by_hand, [by_hand.features])(normal(probe), targets)
    assert np.allclose(found, grad_cam_library(probe, "GradCAMPlusPlus"), atol=1e-5)


NAMED = {
    "pytorch-grad-cam": (grad_cam_library, {}),
    "torch-cam": (torch_cam, {}),
    "captum": (captum_attr, NEEDS),
}


def test_each_class_that_the_page_names_exists_and_makes_maps():
    """The table of newer classes in docs/methods.md, row by row."""
    page = (ROOT / "docs" / "methods.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith(tuple(f"| {library} " for library in NAMED))]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert {library for library, *_ in rows} == set(NAMED)
    probe = lively(random_net, batch=2)
    for library, classes, _since in rows:
        adapter, needs = NAMED[library]
        names = re.findall(r"`(\w+)`", classes)
        assert names
        for name in names:
            maps = adapter(probe, name, **needs.get(name, {}))
            assert maps.shape[0] == 2
            assert maps.isfinite().all()


def test_finer_cam_compares_with_other_classes():
    """By hand: the target's logit minus alpha times those of its nearest classes, weighted as the library does."""
    probe = lively(random_net, batch=3)
    by_hand = copy.deepcopy(probe.net.module)
    cam = pytorch_grad_cam.FinerCAM(by_hand, [by_hand.features])
    expected = np.concatenate([cam(normal(probe)[i : i + 1], None, target_idx=int(c)) for i, c in enumerate(probe.targets)])
    assert np.allclose(grad_cam_library(probe, "FinerCAM"), expected, atol=1e-5)
    assert not np.allclose(grad_cam_library(probe, "GradCAM"), expected, atol=1e-2)


def test_a_run_takes_them_by_one_override(folder, tmp_path):
    base = [line for line in tiny_overrides(folder, tmp_path / "out") if not line.startswith("method=")]
    theirs = ["+method.theirs._target_=evalkit.methods.peers.pytorch_grad_cam", "+method.theirs.name=AblationCAM"]
    chosen = "method=[ablation_cam,pytorch_grad_cam,torch_cam,captum,gradient,guided_grad_cam]"
    job = compose_jobs([*base, chosen, *theirs, "method.captum.name=Saliency"])[0]
    run_job(job)
    rows = RunFolder(tmp_path / "out").rows()
    assert set(rows.method) == {"ablation_cam", "pytorch_grad_cam", "torch_cam", "captum", "gradient", "guided_grad_cam", "theirs"}
    assert (rows.status != "error").all()
