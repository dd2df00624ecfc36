"""What a network returns becomes scores: each form against the plain tensor, traced and behind a hook, for every method and peer."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from builders import HALF, TinyFC, TinyGAP
from torch import Tensor, nn

from evalkit import Probe, Readout, SplitModel, methods
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.methods.peers import captum_attr, pytorch_grad_cam, torch_cam
from evalkit.models.layers import explainable
from evalkit.models.outputs import check_meaning, check_on_images
from evalkit.models.proposal import propose


@dataclass
class Named:
    scores: Tensor
    hidden: Tensor


Pair = namedtuple("Pair", ["hidden", "scores"])


class Packed(nn.Module):
    """A network whose output has another form, and that cannot be traced where it looks at its data."""

    def __init__(self, body: nn.Module, pack, traceable: bool = True) -> None:
        super().__init__()
        self.body, self.pack, self.traceable = body, pack, traceable

    def forward(self, x: Tensor) -> object:
        return self.pack(self.body(x if self.traceable or float(x.sum()) < 1e9 else x * 2))


FORMS = {
    "a tensor": (lambda z: z, {}),
    "logits of a dict": (lambda z: {"loss": z.sum(), "logits": z}, {}),
    "a key": (lambda z: {"aux": z * 2, "out": z}, {"select": "out"}),
    "an index": (lambda z: (z * 2, z), {"select": 1}),
    "a list": (lambda z: [z, z * 2], {"select": 0}),
    "an attribute": (lambda z: Named(z, z * 2), {"select": "scores"}),
    "a named tuple": (lambda z: Pair(z * 2, z), {"select": "scores"}),
    "a named tuple's index": (lambda z: Pair(z * 2, z), {"select": 1}),
    "the last index": (lambda z: (z * 2, z), {"select": -1}),
    "a path": (lambda z: {"heads": {"cls": [z, z * 2]}, "aux": z * 3}, {"select": "heads.cls.-2"}),
    "a key with a dot": (lambda z: {"heads.cls": z, "heads": {"cls": z * 2}}, {"select": "heads.cls"}),
    "a function": (lambda z: {"a": z, "b": z}, {"score": lambda out: (out["a"] + out["b"]) / 2}),
    "a function of a part": (lambda z: (z.flip(1), None), {"select": 0, "score": lambda out: out.flip(1)}),
}


def both(form: str, body: nn.Module, traceable: bool) -> tuple[SplitModel, SplitModel]:
    pack, options = FORMS[form]
    net = SplitModel(Packed(body, pack, traceable).eval(), "body.features", mean=HALF, std=HALF, readout=Readout(**options))
    return net, SplitModel(Packed(body, lambda z: z, traceable).eval(), "body.features", mean=HALF, std=HALF)


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_scores_as_the_plain_tensor(form, traceable):
    net, plain = both(form, TinyGAP().double().eval(), traceable)
    images = torch.rand(3, 3, 16, 16)
    ours, theirs = Probe(net, images), Probe(plain, images)
    for name in ("logits", "gradients", "drops"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-12)
    assert (net.head_graph is not None) == traceable
    if traceable and "function" not in form:
        assert ours.tier.number == 1  # what picks a part of the output costs no tier
    torch.testing.assert_close(methods.gradient(ours), methods.gradient(theirs))


@pytest.mark.parametrize("form", ["a key", "a function"])
def test_other_libraries_see_the_scores(form):
    net, plain = both(form, TinyFC().eval(), True)
    images = torch.rand(2, 3, 16, 16)
    for method in (pytorch_grad_cam, torch_cam, captum_attr, methods.guided_backprop, methods.occlusion):
        options = {"window": 4, "stride": 4} if method is methods.occlusion else {}
        torch.testing.assert_close(method(Probe(net, images), **options), method(Probe(plain, images), **options))


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize(("output", "signs"), [("binary", (-1, 1)), ("raw", (1, -1))])
def test_one_number_becomes_two_scores(output, signs, traceable, column):
    body = TinyFC(1).double().eval()
    module = Packed(body, (lambda z: z) if column else (lambda z: z[:, 0]), traceable).eval()
    net = SplitModel(module, "body.features", mean=HALF, std=HALF, readout=Readout(output=output))
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        z = body((images.double() - 0.5) / 0.5)
    torch.testing.assert_close(net(images), torch.cat([signs[0] * z, signs[1] * z], 1))
    probe = Probe(net, images, [0, 1, 0, 1])
    a = probe.activations
    for i, target in enumerate(probe.targets.tolist()):  # brute force over the whole network behind the layer
        for k in range(a.shape[1]):
            ablated = a[i : i + 1].clone()
            ablated[:, k] = 0
            with torch.no_grad():
                after = signs[target] * body.classifier(ablated)[0, 0]
            torch.testing.assert_close(probe.drops[i, k], signs[target] * z[i, 0] - after, rtol=1e-9, atol=1e-12)
    other = Probe(net, images, [1, 0, 1, 0])
    torch.testing.assert_close(probe.gradients, -other.gradients)
    assert net.readout.shape == ("(N,1)" if column else "(N,)")


def test_several_raw_outputs_stay_as_they_are():
    body = TinyFC(4).eval()
    net = SplitModel(body, "features", mean=HALF, std=HALF, readout=Readout(output="raw"))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(net(images), SplitModel(body, "features", mean=HALF, std=HALF)(images)) and net.readout.shape == "(N,C)"


def test_a_caller_keeps_its_readout():
    readout = Readout()
    SplitModel(Packed(TinyFC(1), lambda z: z[:, 0]).eval(), "body.features", mean=HALF, std=HALF, readout=readout)(torch.rand(1, 3, 16, 16))
    assert readout == Readout()


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize(
    ("pack", "options", "says"),
    [
        (lambda z: {"out": z, "aux": z}, {"select": "ot"}, "a dict of out, aux, has no such part; did you mean 'out'?"),
        (lambda z: (z, z), {"select": 2}, "a tuple of 2, has no such part; known: 0, 1"),
        (lambda z: Named(z, z), {"select": "logits"}, "a Named of scores, hidden, has no such part; known: hidden, scores"),
        (lambda z: {"out": z, "aux": z[..., None]}, {"select": "aux"}, r"model.select=aux picks a tensor of shape \(1, 5, 1\) out of what"),
        (lambda z: {"out": z, "aux": z[..., None]}, {}, "not a dict of out, aux: set model.select=out"),
        (lambda z: {"out": z[..., None]}, {}, "not a dict of out: set model.score to a function that makes scores of it"),
        (
            lambda z: z,
            {"score": lambda z: z.sum()},
            r"must return scores \(images, classes\).* one row an image, not a tensor of shape \(\) for 1 image",
        ),
        (lambda z: z, {"score": lambda z: z.missing}, "model.score=.*lambda.* failed on what Packed returns, a tensor"),
        (lambda z: {"cls": z, "feat": z[:, :3]}, {}, r"holds them of cls \(1, 5\), feat \(1, 3\); docs"),
        (lambda z: {"cls": z, "feat": z[:, :3]}, {"classes": 5}, "set model.select=cls;"),
        (lambda z: {"heads": {"cls": z}}, {"select": "heads.cl"}, "a dict of heads, has no such part; did you mean 'heads.cls'"),
        (lambda z: z, {"output": "binary"}, "Packed has 5 outputs, and model.output=binary needs one"),
    ],
)
def test_what_does_not_fit_ends_in_one_sentence(pack, options, says, traceable):
    with pytest.raises(UserError, match=says) as refused:
        net = SplitModel(Packed(TinyGAP(), pack, traceable).eval(), "body.features", mean=HALF, std=HALF, readout=Readout(**options))
        net(torch.rand(1, 3, 16, 16))
    assert "\n" not in str(refused.value)


def test_a_part_of_a_tensor_is_refused():
    net = SplitModel(TinyGAP().eval(), "features", mean=HALF, std=HALF, readout=Readout(select=0))
    with pytest.raises(UserError, match=r"model.select=0: the network returns a tensor of shape \(1, 5\), which has no parts"):
        net(torch.rand(1, 3, 16, 16))


def test_scores_with_weights_are_refused():
    with pytest.raises(UserError, match=r"model.score is a torch.nn.Module \(Linear\)"):
        Readout(score=nn.Linear(3, 3))
    with pytest.raises(UserError, match=r"model\.score is the class Pair"):
        Readout(score=Pair)


class Auxiliary(nn.Module):
    """A second head beside the one whose logits count; its layers come later in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.main, self.aux = nn.Linear(6, 4), nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = self.body(x)
        return {"main": self.main(a.mean((2, 3))), "aux": self.aux(a)}


def test_the_proposed_layer_leads_to_the_selected_part():
    module, images = Auxiliary().eval(), torch.rand(2, 3, 8, 8)
    module(images)
    assert propose(module, images, Readout(select="main")).layer == "body"
    assert propose(module, images, Readout(select="aux")).layer == "aux.1"
    assert propose(module, images, Readout(score=lambda out: out["main"] if out["main"].sum() > 0 else out["aux"])).layer == "body"
    listed = [layer.name for layer in explainable(module, images, Readout(select="main"))]
    assert "body" in listed and not any(name.startswith("aux") for name in listed)
    assert SplitModel(module, "body", mean=HALF, std=HALF, readout=Readout(select="main")).layers[:2] == ["body.0", "body.1"]


def test_transformers_outputs_have_logits():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3)
    module = transformers.ResNetForImageClassification(config).eval()
    net = SplitModel(module, "resnet.encoder.stages.1", mean=HALF, std=HALF)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = module((images - 0.5) / 0.5).logits
    torch.testing.assert_close(net(images), expected)
    chosen = SplitModel(module, "resnet.encoder.stages.1", mean=HALF, std=HALF, readout=Readout(select="logits"))
    assert torch.equal(chosen(images), net(images))


def test_probabilities_are_refused_for_one_logit_and_welcome_as_raw_scores():
    for ending in (torch.sigmoid, lambda z: (z.tanh() + 1) / 2):
        for traceable in (True, False):
            module = Packed(TinyGAP(1), ending, traceable).eval()
            images = torch.rand(2, 3, 16, 16)
            with pytest.raises(UserError, match="sigmoid"):
                check_meaning(SplitModel(module, "body.features", mean=HALF, std=HALF, readout=Readout(output="binary")), images, "binary")
            check_meaning(SplitModel(module, "body.features", mean=HALF, std=HALF, readout=Readout(output="raw")), images, "raw")
    logit = SplitModel(TinyFC(1).eval(), "features", mean=HALF, std=HALF, readout=Readout(output="binary"))
    check_meaning(logit, torch.rand(2, 3, 16, 16), "binary")


def test_settings_reach_the_network_and_its_identity():
    (job,) = compose_jobs([
        "model=custom", "model.factory=theirs.dictionary", "model.layer=auto", "model.select=out", "model.score=theirs.doubled",
        "model.resize=[16,16]",
    ])  # fmt: skip
    assert job.config.model.layer == "body.features.1"
    identity = job.config.model.in_identity()
    assert (identity["select"], identity["score"]) == ("out", "theirs.doubled")
    (plain,) = compose_jobs(["model=custom", "model.factory=theirs.dictionary", "model.layer=body.features.1"])
    assert not {"select", "score"} & set(plain.config.model.in_identity())


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (lambda z: z * float("nan"), "the scores of TinyGAP with model.score=.* are not finite"),
        (lambda z: z - z.mean(0, keepdim=True), "TinyGAP with model.score=.* puts out other"),
        (lambda z: z + torch.rand_like(z), "TinyGAP with model.score=.* is not deterministic"),
    ],
)
def test_errors_name_the_function_beside_the_network(score, says):
    net = SplitModel(TinyGAP().eval(), "features", mean=HALF, std=HALF, readout=Readout(score=score, output="raw"))
    with pytest.raises(UserError, match=says):
        check_on_images(net, torch.rand(2, 3, 16, 16))


def test_errors_and_warnings_name_the_function(caplog):
    net = SplitModel(TinyGAP().eval(), "features", mean=HALF, std=HALF, readout=Readout(score=lambda z: z.softmax(1)))
    with pytest.raises(
        UserError, match=r"TinyGAP with model.score=.* ends in a softmax.*let the network and the function return the values"
    ):
        check_meaning(net, torch.rand(2, 3, 16, 16), "softmax")
    constant = Readout(score=lambda z: torch.arange(5.0).expand(len(z), 5), output="raw")
    check_on_images(
        SplitModel(Packed(TinyGAP(), lambda z: z).eval(), "body.features", mean=HALF, std=HALF, readout=constant), torch.rand(2, 3, 16, 16)
    )
    assert "Packed with model.score=" in caplog.text and "puts out the same scores for two different images" in caplog.text


def test_nothing_is_said_of_a_hook_before_an_error(caplog):
    with pytest.raises(UserError, match="must return scores"):
        SplitModel(TinyGAP().eval(), "features", mean=HALF, std=HALF, readout=Readout(score=lambda z: z[: len(z) // 2]))(
            torch.rand(1, 3, 16, 16)
        )
    assert not caplog.text
