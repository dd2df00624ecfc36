"""Fused maps against a plain loop and the libraries' own, and the methods that do not depend on the layer."""

import cv2
import numpy as np
import pytest
import torch
from builders import HALF, TinyGAP
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor
from torchcam.methods import GradCAM as TorchCAM

from evalkit import Probe, SplitModel, methods
from evalkit.errors import UserError
from evalkit.methods import peers
from evalkit.methods.layers import fuse, is_layer_free, layer_free

LAYERS = ("features.0", "features.2", "features")
"""Not `features.1`: the ReLU behind it works in place, and changes what the libraries' hooks have stored."""


def maps_of(*shapes: tuple[int, int]) -> list[Tensor]:
    return [torch.randn(3, *shape) * torch.rand(3, 1, 1) * 10 for shape in shapes]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_fused_maps_against_a_plain_loop(how):
    maps = maps_of((4, 5), (8, 3), (16, 20))
    maps[1][2] = 7.0  # a constant map counts as 0
    fused = fuse(maps, (16, 20), how)
    assert fused.shape == (3, 16, 20) and fused.min() >= 0 and fused.max() <= 1
    for i in range(3):
        scaled = []
        for low in (each[i].double() for each in maps):
            span = float(low.max() - low.min())
            scaled.append(bilinear((low - low.min()) / (span or 1), 16, 20))
        for y in range(16):
            for x in range(20):
                values = [float(one[y, x]) for one in scaled]
                expected = sum(values) / 3 if how == "mean" else max(values)
                assert float(fused[i, y, x]) == pytest.approx(expected, abs=1e-5)


def bilinear(low: Tensor, height: int, width: int) -> Tensor:
    """Sample a map (h,w) at the centres of (height,width) pixels, clamped at its border."""
    large = torch.empty(height, width, dtype=torch.float64)
    h, w = low.shape
    for y in range(height):
        for x in range(width):
            v, u = (max((at + 0.5) * old / new - 0.5, 0.0) for at, old, new in ((y, h, height), (x, w, width)))
            top, left = int(v), int(u)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = v - top, u - left
            upper, lower = (low[row, left] * (1 - b) + low[row, right] * b for row in (top, bottom))
            large[y, x] = upper * (1 - a) + lower * a
    return large


def test_a_map_that_is_not_finite_is_not_hidden():
    maps = maps_of((4, 4), (8, 8))
    maps[0][1, 2, 2] = torch.nan
    for how in ("mean", "max"):
        assert fuse(maps, (8, 8), how).isfinite().all(2).all(1).tolist() == [True, False, True]


def test_an_unknown_way_to_fuse():
    with pytest.raises(UserError, match="fuse=median is not a valid choice"):
        fuse(maps_of((4, 4), (8, 8)), (8, 8), "median")


def large_scores() -> TinyGAP:
    """A network whose maps are so large that the libraries' additions to a divisor hardly count."""
    module = TinyGAP().eval()
    with torch.no_grad():
        module.fc.weight.mul_(1000)
    return module


@pytest.mark.parametrize(("ours", "theirs"), [("grad_cam", GradCAM), ("layer_cam", LayerCAM)])
def test_the_mean_is_that_of_pytorch_grad_cam(ours, theirs):
    """Up to its 1e-7 in the divisor, OpenCV's bilinear weights, and its second scaling, which is repeated here."""
    module, images = large_scores(), torch.rand(2, 3, 16, 16)
    nets = [SplitModel(module, layer, mean=HALF, std=HALF) for layer in LAYERS]
    probe = Probe(nets[-1], images)
    fused = fuse([getattr(methods, ours)(probe.at(net)) for net in nets], (16, 16), "mean")
    with theirs(model=module, target_layers=[module.get_submodule(layer) for layer in LAYERS]) as cam:
        expected = cam(input_tensor=(images - 0.5) / 0.5, targets=[ClassifierOutputTarget(c) for c in probe.targets.tolist()])
    low, high = fused.amin((1, 2), keepdim=True), fused.amax((1, 2), keepdim=True)
    np.testing.assert_allclose((fused - low) / (high - low), expected, atol=1e-5)
    assert np.ptp(expected) > 0.5


def test_opencv_resizes_as_upsample_does():
    low = torch.rand(1, 8, 8)
    ours = torch.nn.functional.interpolate(low[None], (16, 24), mode="bilinear")[0, 0]
    np.testing.assert_allclose(cv2.resize(low[0].numpy(), (24, 16)), ours, atol=1e-6)


def test_the_largest_is_that_of_torch_cam():
    """`fuse_cams` of all its classes but LayerCAM, of maps as its extractor normalises them, up to its 1e-8 in the divisor."""
    module, images = large_scores(), torch.rand(2, 3, 16, 16)
    nets = [SplitModel(module, layer, mean=HALF, std=HALF) for layer in LAYERS]
    probe = Probe(nets[-1], images)
    fused = fuse([methods.grad_cam(probe.at(net)) for net in nets], (16, 16), "max")
    with TorchCAM(module, [module.get_submodule(layer) for layer in LAYERS]) as extractor:
        cams = extractor(probe.targets.tolist(), module(((images - 0.5) / 0.5).requires_grad_()))
        expected = extractor.fuse_cams(cams, (16, 16))
    torch.testing.assert_close(fused, expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", methods.__all__)
def test_what_is_declared_free_of_the_layer_is(name):
    """Every method: maps of CAMs have the size of their layer, and guided ones of equal size other values."""
    module, images = TinyGAP().eval(), torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        module.features[1].weight.uniform_(0.5, 2.0)
    first, second = (SplitModel(module, layer, mean=HALF, std=HALF) for layer in ("features.0", "features"))
    method = getattr(methods, name)
    if name == "cam":
        assert not is_layer_free(method)
        return
    probe = Probe(second, images, range(5))  # all classes: a map may be zero everywhere for one
    maps, others = method(probe.at(first)), method(probe)
    if name in ("random", "constant", "centre"):  # their size is that of the activations
        assert is_layer_free(method) and maps.shape == (5, 32, 32) and others.shape == (5, 16, 16)
    else:
        same = maps.shape == others.shape and bool((maps - others).abs().max() <= 1e-4 * others.abs().max())
        assert is_layer_free(method) == same


def test_a_method_may_declare_itself():
    def mine(probe):
        return probe.images[:, 0]

    assert not is_layer_free(mine)
    mine.layer_free = True
    assert is_layer_free(mine) and is_layer_free(layer_free(lambda probe: probe.images[:, 1]))
    assert is_layer_free(peers.captum_attr, name="Saliency") and not is_layer_free(peers.captum_attr)
    assert is_layer_free(peers.captum_attr, name="NoiseTunnel", attribution_method="Saliency", channels="max")
    assert not is_layer_free(peers.pytorch_grad_cam, name="GradCAM")
