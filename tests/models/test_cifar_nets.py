"""The CIFAR-100 network and one step of its training, on random tensors."""

import torch
from builders import HALF
from reference import brute_force_drops
from train_cifar7 import augmented, step

from evalkit import Probe, SplitModel
from evalkit.config.compose import compose_jobs
from evalkit.models import zoo
from evalkit.models.cifar_nets import CIFAR7


def test_it_has_seven_layers_with_weights_and_a_head_that_tier_2_serves():
    config = compose_jobs(["model=cifar7"])[0].config.model
    model = zoo.load(config, torch.device("cpu"))
    learned = [m for m in model.net.module.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(learned) == 7 and model.weights == "random (seed 0)" and model.classes.outputs == 100
    probe = Probe(model.net, torch.rand(1, 3, 32, 32))
    assert probe.tier.number == 2 and probe.activations.shape == (1, 256, 8, 8) and probe.activations.min() == 0


def test_its_class_names_are_cifars():
    names = compose_jobs(["model=cifar7"])[0].config.model.classes
    assert len(set(names)) == 100 and list(names) == sorted(names)
    # torchvision's and the original files' list is alphabetical; some of its indices are widely known
    assert [names[i] for i in (0, 1, 26, 42, 53, 88, 99)] == ["apple", "aquarium_fish", "crab", "leopard", "orange", "tiger", "worm"]


def test_a_step_of_training_learns_a_batch():
    net, images, labels = CIFAR7(), torch.rand(16, 3, 32, 32) * 2 - 1, torch.arange(16)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    before = {name: p.clone() for name, p in net.named_parameters()}
    losses = [step(net, images, labels, optimiser) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert all(not torch.equal(before[name], p) for name, p in net.named_parameters())


def test_augmentation_shifts_and_flips_and_does_nothing_else():
    """Every augmented image is a crop of the padded one, or of its mirror image."""
    images = torch.rand(5, 3, 32, 32)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    for original, found in zip(padded, augmented(images), strict=True):
        crops = [original[:, y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
        assert any(torch.equal(found, crop) or torch.equal(found, crop.flip(2)) for crop in crops)


def test_drops_are_exact():
    module = CIFAR7().double().eval()
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    probe = Probe(SplitModel(module, "features.16", mean=HALF, std=HALF), images)
    expected = brute_force_drops(module, "features.16", (images - 0.5) / 0.5, probe.targets, range(0, 256, 40))
    assert torch.allclose(probe.drops[:, ::40], expected, rtol=0, atol=1e-10)
