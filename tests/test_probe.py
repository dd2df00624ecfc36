"""The probe: lazy, cached, through the head only."""

import pytest
import torch
from builders import HALF, TinyFC

from evalkit import Probe, SplitModel
from evalkit.errors import UserError


def test_gradients_are_those_of_the_target_score(tiny_fc):
    images, targets = torch.rand(2, 3, 16, 16), torch.tensor([4, 1])
    probe = Probe(tiny_fc, images, targets)
    a = probe.activations.clone().requires_grad_()
    logits = tiny_fc.head(a)
    (expected,) = torch.autograd.grad(logits[0, 4] + logits[1, 1], a)
    assert torch.allclose(probe.gradients, expected)
    assert probe.gradients is probe.gradients and not probe.activations.requires_grad


def test_predicted_is_the_default(tiny_fc):
    probe = Probe(tiny_fc, torch.rand(3, 3, 16, 16))
    assert torch.equal(probe.targets, probe.logits.argmax(1))
    assert torch.equal(probe.scores, probe.logits.amax(1))


def test_nothing_runs_before_it_is_asked_for(tiny_fc, monkeypatch):
    monkeypatch.setattr(tiny_fc, "trunk", lambda _: pytest.fail("the trunk ran"))
    Probe(tiny_fc, torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("name", ["activations", "logits", "gradients", "drops", "scores", "images"])
def test_writing_into_what_is_shared_is_noticed(tiny_fc, name):
    probe = Probe(tiny_fc, torch.rand(2, 3, 16, 16))
    shared = getattr(probe, name)
    probe.gradients, probe.drops  # noqa: B018
    assert probe.written(by_value=True) == []
    shared[0].mul_(2)
    assert probe.written(by_value=True) == [name]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda p: p.activations.numpy().fill(0), "activations"), (lambda p: p.images.data.mul_(0.5), "images"),
        (lambda p: setattr(p, "targets", p.targets + 1), "targets"), (lambda p: p.net.module.train(), "network"),
        (lambda p: torch.nn.init.zeros_(p.net.module.classifier[1].weight), "network"),
    ],
)  # fmt: skip
def test_what_autograd_does_not_count_is_noticed_too(write, name):
    probe = Probe(SplitModel(TinyFC().eval(), "features", mean=HALF, std=HALF), torch.rand(2, 3, 16, 16))
    probe.activations, probe.targets  # noqa: B018
    write(probe)
    assert probe.written(by_value=True) == [name]


def test_mistakes(tiny_fc):
    with pytest.raises(UserError, match="must be a float tensor"):
        Probe(tiny_fc, torch.randint(0, 255, (1, 3, 16, 16)))
    with pytest.raises(UserError, match="at least one image"):
        Probe(tiny_fc, torch.rand(0, 3, 16, 16))
    with pytest.raises(UserError, match="must lie in"):
        Probe(tiny_fc, torch.rand(1, 3, 16, 16) * 255)
    with pytest.raises(UserError, match="class indices from 0 to 4"):
        Probe(tiny_fc, torch.rand(1, 3, 16, 16), torch.tensor([5])).targets  # noqa: B018
    with pytest.raises(UserError, match="one for each of 2 images"):
        Probe(tiny_fc, torch.rand(2, 3, 16, 16), torch.tensor([1])).targets  # noqa: B018


def test_uint8_images_are_divided_by_255(tiny_fc):
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    probe, divided = Probe(tiny_fc, pixels), Probe(tiny_fc, pixels.float() / 255)
    assert torch.equal(probe.images, divided.images) and torch.equal(probe.drops, divided.drops)


def test_a_probe_of_other_images_keeps_targets_indices_and_budget(tiny_fc):
    probe = Probe(tiny_fc, torch.rand(3, 3, 16, 16), [4, 1, 0], torch.tensor([7, 8, 9]), byte_budget=2**20)
    images = torch.rand(2, 3, 16, 16)
    again = probe.again(images, slice(1, 3))
    assert torch.equal(again.images, images) and again.byte_budget == 2**20
    assert again.targets.tolist() == [1, 0] and again.indices.tolist() == [8, 9]
    assert torch.equal(again.scores, Probe(tiny_fc, images, [1, 0]).scores)
