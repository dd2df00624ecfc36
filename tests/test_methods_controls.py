"""Controls know nothing of the network, and nothing of the batch."""

import torch

from evalkit import Probe, methods


def test_random_depends_on_the_index_only(tiny_gap):
    images = torch.rand(5, 3, 16, 16)
    together = methods.random(Probe(tiny_gap, images, indices=torch.arange(10, 15)))
    alone = methods.random(Probe(tiny_gap, images[3:4], indices=torch.tensor([13])))
    assert torch.equal(together[3], alone[0])
    assert not torch.equal(together[2], together[3])
    assert not torch.equal(methods.random(Probe(tiny_gap, images), seed=1), methods.random(Probe(tiny_gap, images), seed=2))


def test_constant_and_centre(tiny_gap):
    probe = Probe(tiny_gap, torch.rand(2, 3, 17, 22))
    height, width = probe.activations.shape[2:]
    assert torch.equal(methods.constant(probe), torch.ones(2, height, width))
    centre = methods.centre(probe)
    assert centre.shape == (2, height, width)
    assert torch.equal(centre, centre.flip(1)) and torch.allclose(centre, centre.flip(2))
    assert centre.amax() == centre[0, (height - 1) // 2, (width - 1) // 2]
    assert centre.amin() == centre[0, 0, 0]
