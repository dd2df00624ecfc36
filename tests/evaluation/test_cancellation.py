"""A run says where HiResCAM's terms cancel, and says nothing elsewhere."""

import logging
from pathlib import Path

import pytest
import torch
from builders import TinyFC, finished_rows, save_pictures, tiny_overrides
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods
from evalkit.evaluation.at_layers import at_layers
from evalkit.evaluation.cancellation import cancelled, warn_of_cancellation

HALF = (0.5, 0.5, 0.5)


class Normed(nn.Module):
    """Two convolutions; LayerNorm over the channels at each position; a mixture of the positions; one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2)
        self.features = nn.Conv2d(8, 8, 1)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(36, 5)
        self.head = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.features(self.first(x).tanh()).flatten(2).mT)
        return self.head(self.mix(tokens.mT).tanh().flatten(1))


def said(caplog):
    return [record.getMessage() for record in caplog.records if "cancel" in record.getMessage()]


def test_the_share_is_that_of_a_loop_in_float64():
    net = SplitModel(Normed().double().eval(), "first", mean=HALF, std=HALF)
    probe = Probe(net, torch.rand(2, 3, 16, 16, dtype=torch.float64))
    left, size = 0.0, 0.0
    for g, a in zip(probe.gradients, probe.activations, strict=True):
        for y in range(a.shape[1]):
            for x in range(a.shape[2]):
                terms = [float(g[k, y, x] * a[k, y, x]) for k in range(len(a))]
                left, size = left + abs(sum(terms)), size + sum(map(abs, terms))
    assert float(cancelled(probe)) == pytest.approx(left / size, rel=1e-4) and left / size > 1e-3


def test_without_an_epsilon_nothing_is_left():
    """The closed form: g . A is the derivative along A, and a norm with the epsilon 0 has the same output for A and 2 A."""
    module = Normed().double().eval()
    module.norm.eps = 0.0
    probe = Probe(SplitModel(module, "features", mean=HALF, std=HALF), torch.rand(2, 3, 16, 16, dtype=torch.float64))
    terms = probe.gradients * probe.activations
    assert terms.sum(1).abs().max() < 1e-12 * terms.abs().sum(1).max()


@pytest.mark.parametrize(("layer", "warns"), [("features", True), ("first", False)])
def test_one_layer(caplog, layer, warns):
    net = SplitModel(Normed().eval(), layer, mean=HALF, std=HALF)
    with torch.no_grad():
        net.module.features.weight.mul_(100)  # variances far above the norm's epsilon, as in trained networks
    named = {"hires_cam": methods.hires_cam, "grad_cam": methods.grad_cam}
    with caplog.at_level(logging.WARNING):
        warn_of_cancellation(named, net, torch.rand(2, 3, 16, 16))
    assert len(said(caplog)) == warns
    if warns:
        assert said(caplog)[0].startswith("hires_cam: at layer 'features' its terms")


def test_several_layers_are_named_and_other_methods_are_not(caplog):
    module = Normed().eval()
    with torch.no_grad():
        module.features.weight.mul_(100)
    nets = [SplitModel(module, layer, mean=HALF, std=HALF) for layer in ("first", "features")]
    named = at_layers({"hires_cam": methods.hires_cam, "grad_cam": methods.grad_cam}, ["first", "features"], nets, "mean")
    with caplog.at_level(logging.WARNING):
        warn_of_cancellation(named, nets[-1], torch.rand(2, 3, 16, 16))
    (one,) = said(caplog)
    assert one.startswith("hires_cam@features: at layer 'features'")


def test_a_layer_without_gradients_is_not_named(caplog):
    module = TinyFC().eval()
    nn.init.zeros_(module.classifier[-1].weight)
    with caplog.at_level(logging.WARNING):
        warn_of_cancellation(
            {"hires_cam": methods.hires_cam}, SplitModel(module, "features", mean=HALF, std=HALF), torch.rand(1, 3, 16, 16)
        )
    assert said(caplog) == []


@pytest.mark.parametrize("layer", ["features", "first"])
def test_a_run_says_it_once(tmp_path, caplog, monkeypatch, layer):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    save_pictures(tmp_path / "pictures")
    overrides = tiny_overrides(tmp_path / "pictures", tmp_path / "run", factory="test_cancellation.normed")
    with caplog.at_level(logging.WARNING):
        rows = finished_rows([*overrides, f"model.layer={layer}", "method=[hires_cam,grad_cam]"])
    assert len(said(caplog)) == (layer == "features") and (rows.method == "hires_cam").any()


def normed() -> nn.Module:
    module = Normed()
    with torch.no_grad():
        module.features.weight.mul_(100)
    return module
