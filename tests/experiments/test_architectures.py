"""The small networks of architectures.py: the drops are the loop's, and Grad-CAM is pytorch-grad-cam's."""

import copy

import architectures
import pytest
import torch

from evalkit.models.proposal import propose


@pytest.mark.parametrize("network", ["vit_tiny_patch16_224", "crossvit_tiny_240", "xcit_nano_12_p16_224", "mambaout_femto"])
def test_drops_and_grad_cam(network):
    architecture = next(entry for entry in architectures.ARCHITECTURES if entry.network == network)
    module, size = architectures.built(network)
    images = torch.rand(2, 3, *size)
    layer = propose(module, images).layer
    for dtype, limit in ((torch.float32, 1e-3), (torch.float64, 1e-10)):
        ours, loop, largest = architectures.drops(copy.deepcopy(module).to(dtype), layer, images[:1], 3)
        assert float((ours - loop).abs().max()) <= limit * largest and largest > 0
    difference, correlation = architectures.grad_cam_difference(architecture, module, layer, images)
    assert difference < 1e-3 and correlation > 0.9999
