"""What outputs mean: logits pass, probabilities are refused, on traced networks and behind a hook."""

import logging

import pytest
import torch
from builders import HALF, NaNNet, TinyFC, TinyGAP, Untraceable
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from evalkit import SplitModel
from evalkit.errors import UserError
from evalkit.models.outputs import check_meaning, check_on_images
from evalkit.scores import scored

ENDINGS = {
    "softmax": lambda z: z.softmax(1),
    "functional softmax, reshaped": lambda z: F.softmax(z, dim=-1).view(len(z), -1),
    "percent": lambda z: 100 * z.softmax(1),
    "exp over sum": lambda z: z.exp() / z.exp().sum(1, keepdim=True),
    "sigmoid": lambda z: z.sigmoid(),
    "clamped sigmoid": lambda z: torch.sigmoid(z).clamp(1e-7, 1 - 1e-7),
    "sigmoid by hand": lambda z: 1 / (1 + torch.exp(-z)),
    "tanh as a sigmoid": lambda z: (z.tanh() + 1) / 2,
    "hard sigmoid": F.hardsigmoid,
    "log of a softmax": lambda z: (z.softmax(1) + 1e-30).log(),
}
CALLED = "sigmoid|softmax|probabilities"


class Ending(nn.Module):
    """A network with an operation behind its logits; its data decide a branch where tracing must fail."""

    def __init__(self, body: nn.Module, ending, traceable: bool = True) -> None:
        super().__init__()
        self.body, self.ending, self.traceable = body, ending, traceable

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self.body(x if self.traceable or float(x.sum()) < 1e9 else x * 2))


class Rectified(TinyGAP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def cut(module: nn.Module, layer: str = "body.features") -> SplitModel:
    return SplitModel(module, layer, mean=HALF, std=HALF)


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize("ending", [e for e in ENDINGS if not e.startswith("log")])
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_probabilities_are_refused(ending, traceable, output):
    net = cut(Ending(TinyFC(), ENDINGS[ending], traceable))
    with pytest.raises(UserError, match=f"({CALLED}).*set model.factory to a function that returns the values before it"):
        check_meaning(net, torch.rand(2, 3, 16, 16), output)


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize("ending", [lambda z: z.log_softmax(1), ENDINGS["log of a softmax"], nn.LogSoftmax(1)])
def test_log_probabilities_are_pointed_out_and_refused_for_a_sigmoid(ending, traceable, caplog):
    net = cut(Ending(TinyGAP(), ending, traceable))
    with caplog.at_level(logging.WARNING):
        check_meaning(net, torch.rand(2, 3, 16, 16), "softmax")
    assert "returns log-probabilities" in caplog.text
    with pytest.raises(UserError, match="returns log-probabilities"):
        check_meaning(net, torch.rand(2, 3, 16, 16), "sigmoid")


@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.Sigmoid(), nn.Sequential(nn.Flatten(), nn.Sigmoid())])
def test_a_module_at_the_end_counts_where_no_image_shows_it(ending):
    """Behind a LayerNorm the activations' scale changes nothing, so a sigmoid is never near 0 or 1."""
    body = TinyGAP(1 if not isinstance(ending, nn.Softmax) else 4)
    body.fc = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, body.fc.out_features))
    with pytest.raises(UserError, match="ends in a"):
        check_meaning(cut(Ending(body, ending)), torch.rand(2, 3, 16, 16), "sigmoid")


@pytest.mark.parametrize("module", [TinyGAP(), TinyFC(), TinyGAP(1), Untraceable(), Rectified()])
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_logits_pass_without_a_word(module, output, caplog):
    with caplog.at_level(logging.WARNING):
        net = cut(module, "features")
        net(torch.rand(1, 3, 16, 16))  # which tells of a hook
        caplog.clear()
        check_meaning(net, torch.rand(2, 3, 16, 16), output)
    assert not caplog.text


def test_logits_that_happen_to_lie_in_the_unit_interval_pass():
    body = TinyGAP(3)
    nn.init.constant_(body.fc.bias, 0.5)
    body.fc.weight.data *= 1e-3
    check_meaning(cut(body, "features"), torch.rand(2, 3, 16, 16), "softmax")


def test_a_gate_inside_is_not_an_ending():
    class Gated(TinyGAP):
        def forward(self, x: Tensor) -> Tensor:
            z = super().forward(x)
            return z * z.sigmoid()

    check_meaning(cut(Gated(), "features"), torch.rand(2, 3, 16, 16), "sigmoid")


def test_many_classes_in_half_precision():
    module = Ending(resnet18(num_classes=1000).eval().half(), lambda z: z.softmax(1))
    with pytest.raises(UserError, match="probabilities"):
        check_meaning(cut(module, "body.layer4"), torch.rand(2, 3, 64, 64), "softmax")


class Centred(TinyGAP):
    """Subtracts the mean of the batch, but only from images that are not noise."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        smooth = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) < 0.1
        return z - smooth[:, None] * z.mean(0, keepdim=True)


def smooth_images() -> Tensor:
    ramp = torch.linspace(0.1, 0.9, 16)
    return torch.stack([ramp.expand(3, 16, 16), ramp.flip(0)[:, None].expand(3, 16, 16)])


def test_a_dependence_on_the_batch_that_noise_does_not_show():
    net = cut(Centred(), "features")
    net(torch.rand(2, 3, 16, 16))
    with pytest.raises(UserError, match="when another image is in its batch"):
        check_on_images(net, smooth_images())


@pytest.mark.parametrize(
    ("damage", "says"),
    [(lambda m: m.fc.bias.data.fill_(torch.nan), r"weights hold nan or infinity \(fc.bias\)"),
     (lambda m: m.features[1].running_var.fill_(torch.inf), r"features\.1\.running_var"),
     (lambda m: m.half().fc.weight.data.fill_(6e4), "overflow in float16")],
)  # fmt: skip
def test_logits_that_are_never_finite(damage, says):
    module = TinyGAP().eval()
    damage(module)
    if module.fc.weight.dtype == torch.float16:
        module.features[1].bias.data.fill_(6e4)
    elif "running_var" in says:
        module.features[1].bias.data.fill_(torch.nan)
    net = cut(module, "features")
    with pytest.raises(UserError, match=says):
        check_on_images(net, torch.rand(2, 3, 16, 16))


def test_classes_masked_with_minus_infinity_are_no_fault(caplog):
    off = torch.tensor([0, 0, 0, -torch.inf, -torch.inf])
    net = cut(Ending(TinyGAP(), lambda z: z + off))
    with caplog.at_level(logging.WARNING):
        check_meaning(net, torch.rand(2, 3, 16, 16), "softmax")
        check_on_images(net, torch.rand(2, 3, 16, 16))
    assert not caplog.text


def test_a_network_that_does_not_look_at_the_image_is_pointed_out(caplog):
    module = TinyGAP()
    nn.init.zeros_(module.fc.weight)
    with caplog.at_level(logging.WARNING):
        check_on_images(cut(module, "features"), torch.rand(2, 3, 16, 16))
    assert "the same logits for two different images" in caplog.text
    caplog.clear()
    check_on_images(cut(TinyGAP(), "features"), torch.rand(1, 3, 16, 16).repeat(2, 1, 1, 1))
    assert not caplog.text


def test_a_constant_network_is_not_taken_for_probabilities(caplog):
    net = cut(Ending(TinyGAP(), lambda z: z * 0 + 0.2))
    check_meaning(net, torch.rand(2, 3, 16, 16), "softmax")
    check_on_images(net, torch.rand(2, 3, 16, 16))
    assert "the same logits for two different images" in caplog.text


def test_nan_for_some_images_is_told(caplog):
    images = torch.rand(2, 3, 16, 16)
    images[0] = 0
    check_on_images(cut(NaNNet(), "features"), images)
    assert "no finite logits for an image of the data set" in caplog.text


def test_scored():
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor([[1, 2, -inf], [1, inf, 2], [nan, 1, 2], [1, -inf, 2], [0, 1, 2]])
    assert scored(logits, torch.tensor([1, 0, 1, 1, 2])).tolist() == [True, False, False, False, True]
