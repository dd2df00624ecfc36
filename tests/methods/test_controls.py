"""Controls know nothing of the network, and nothing of the batch."""

import numpy as np
import torch
from scipy import ndimage

from evalkit import Probe, methods, protocol


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


def test_edges_are_where_scipy_finds_them(tiny_gap):
    images = torch.rand(2, 3, 17, 22)
    for found, image in zip(methods.edges(Probe(tiny_gap, images)), images.double().numpy(), strict=True):
        grey = image.mean(0)
        expected = np.hypot(ndimage.sobel(grey, 0, mode="nearest"), ndimage.sobel(grey, 1, mode="nearest"))
        assert np.allclose(found, expected, atol=1e-5)


def test_fake_cam_games_the_soft_mask_and_exact_thresholds_expose_it(tiny_fc):
    """One pixel is all that the soft mask takes away; at 20 % the map is as good as constant."""
    probe = Probe(tiny_fc, torch.rand(4, 3, 16, 16))
    fake = methods.fake_cam(probe)
    soft = protocol.soft_mask(fake)
    assert (soft == 0).sum() == 4 and (soft[:, 0, 0] == 0).all()
    top = protocol.Ranking(fake).top(20)
    constant = protocol.Ranking(torch.ones(4, 16, 16)).top(20)
    assert int((top != constant).sum()) == 2 * 4  # the corner, and the pixel that takes its place
